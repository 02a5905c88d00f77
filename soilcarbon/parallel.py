"""Run tasks on several processes, each of which leaves a file, so that an interrupted run goes on where it was.

In: tasks, each a function of a module, its arguments, and the file it is to leave. Out: the files, each whole or not there.
"""

import io
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from soilcarbon.io.files import UserError, atomic_write


def start_worker() -> None:
    """Prepare a worker process: Ctrl-C is its parent's business, and it does not outlive a parent that was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        wait_for([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


@dataclass(frozen=True)
class Task:
    """What is to be done: a function of such arguments that leaves a file, whole or not at all, and what to call it."""

    path: Path
    function: Callable[..., object]
    arguments: tuple[Any, ...]
    name: str


def arrays_task(path: Path, function: Callable[..., dict[str, np.ndarray]], arguments: tuple[Any, ...]) -> Task:
    """Return the task that leaves the arrays a function returns, for `read_arrays`."""
    return Task(path, _leave, (path, function, arguments), path.stem)


def _leave(path: Path, function: Callable[..., dict[str, np.ndarray]], arguments: tuple[Any, ...]) -> None:
    found = function(*arguments)
    with atomic_write(path) as file:
        np.savez(file, **found)  # type: ignore[arg-type]


def run_tasks(tasks: Sequence[Task], workers: int, words: str) -> None:
    """Do the tasks whose file is not there, with a progress bar.

    Parameters
    ----------
    tasks
        In the order they are begun.
    workers
        Processes; 0: one per core; 1: this one alone.
    words
        Before the bar.

    Raises
    ------
    UserError
        Of a task, which is named; or if a process ended.
    """
    waiting = [task for task in tasks if not task.path.is_file()]
    if workers == 1 or len(waiting) < 2:
        for task in tqdm(waiting, words, disable=None if waiting else True):
            with _named(task):
                task.function(*task.arguments)
        return
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):  # processes side by side have a core each
        os.environ[name] = "1"
    with ProcessPoolExecutor(workers or os.cpu_count(), multiprocessing.get_context("spawn"), _start) as pool:
        try:
            running = {pool.submit(task.function, *task.arguments): task for task in waiting}
            for each in tqdm(as_completed(running), words, len(running), disable=None):
                with _named(running[each]):
                    each.result()
        except BrokenProcessPool as error:
            raise UserError("a process ended, of too little memory perhaps; go on with --resume, and fewer --workers") from error
        except BaseException:  # files are written whole, so those under way may be cut off
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


@contextmanager
def _named(task: Task) -> Iterator[None]:
    """Say whose error it is."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{task.name}: {error}") from error


def _start() -> None:
    start_worker()
    import torch

    torch.set_num_threads(1)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a task's file.

    Raises
    ------
    UserError
        If it is torn.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:
        raise UserError(f"{path}: not readable; remove it and run again with --resume") from error
