"""Worker process pools, which end with their parent, and resumable tasks that write their results to files.

In: functions of a module and their arguments. Out: results, or files, each whole or not there.
"""

import io
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # a dependency of scikit-learn

from soilcarbon.io.files import UserError, atomic_write
from soilcarbon.io.interruption import end_at_signals, end_with_parent, keep_from_workers
from soilcarbon.io.resumption import is_sealed, seal
from soilcarbon.progress import progress

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def start_worker(single_threaded: bool = False) -> None:
    """Prepare a worker process: it leaves Ctrl-C to its parent, and ends when the parent is killed.

    `single_threaded`: linear algebra, OpenMP and PyTorch use one thread, as processes side by side have a core each.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_at_signals(None, [signal.SIGTERM])
    end_with_parent()
    if single_threaded:
        for name in _THREAD_VARIABLES:  # of this worker alone, for libraries that it is still to load
            os.environ[name] = "1"
        if torch := sys.modules.get("torch"):  # it takes a second to import, and most workers need none
            torch.set_num_threads(1)
        threadpool_limits(1)


def process_pool(workers: int, initialise: Callable[..., None], *arguments: Any) -> ProcessPoolExecutor:
    """Return a pool of new processes, to be used by this thread; each begins with `initialise`, which calls `start_worker`."""
    keep_from_workers()
    context = multiprocessing.get_context("spawn")  # a fork would copy PyTorch's locks in whatever state they are
    return ProcessPoolExecutor(workers, context, initialise, arguments)


@contextmanager
def worker_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of single-threaded processes (0: one per core), which end at once where the block ends by an exception."""
    with process_pool(workers or os.cpu_count() or 1, start_worker, True) as pool:
        try:
            yield pool
        except BrokenProcessPool as error:
            time.sleep(0.2)  # if a signal to all processes was the cause, it ends this one too
            raise UserError(
                "a process ended, of too little memory perhaps; use fewer --workers, and --resume where the command has it"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()
            raise


def map_in_order(
    pool: Executor | None, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], description: str
) -> list[Any]:
    """Return the results of many short calls in their order, with a progress bar; without a pool they run in this process.

    >>> map_in_order(None, pow, [(2, 3), (3, 2)], "powers")
    [8, 9]
    """
    if pool is None:
        return [function(*each) for each in progress(arguments, description, len(arguments))]
    return list(progress(pool.map(function, *zip(*arguments, strict=True), chunksize=4), description, len(arguments)))


@dataclass(frozen=True)
class Task:
    """A task: a function and its arguments, the file that it writes atomically, and a name for messages.

    A file that is not `checked` tells by itself whether it is whole.
    """

    path: Path
    function: Callable[..., object]
    arguments: tuple[Any, ...]
    name: str
    checked: bool = True

    def is_finished(self) -> bool:
        """Return whether the file is there, as the task has written it."""
        return is_sealed(self.path) if self.checked else self.path.is_file()

    def run(self) -> None:
        """Call the function, and seal the file."""
        self.function(*self.arguments)
        if self.checked:
            seal(self.path)


def arrays_task(path: Path, function: Callable[..., dict[str, np.ndarray]], arguments: tuple[Any, ...]) -> Task:
    """Return the task that writes the arrays a function returns, for `read_arrays`."""
    return Task(path, _write_arrays, (path, function, arguments), path.stem)


def _write_arrays(path: Path, function: Callable[..., dict[str, np.ndarray]], arguments: tuple[Any, ...]) -> None:
    found = function(*arguments)
    with atomic_write(path) as file:
        np.savez(file, **found)  # type: ignore[arg-type]


def run_tasks(tasks: Sequence[Task], workers: int, description: str) -> None:
    """Run the tasks whose file is not there as it was finished, with a progress bar; an interrupted run is resumed.

    They are begun in their order, by so many processes (0: one per core; 1: this one alone). An error of a task names it.
    """
    waiting = [task for task in tasks if not task.is_finished()]
    if workers == 1 or len(waiting) < 2:
        for task in progress(waiting, description, len(waiting)):
            with _named(task):
                task.run()
        return
    with worker_pool(workers) as pool:  # files are written whole, so those under way may be cut off
        running = {pool.submit(task.run): task for task in waiting}
        for each in progress(as_completed(running), description, len(running)):
            with _named(running[each]):
                each.result()


@contextmanager
def _named(task: Task) -> Iterator[None]:
    """Add a task's name to its error."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{task.name}: {error}") from error


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a task's file; UserError if it is not readable."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:
        raise UserError(f"{path}: not readable; remove it and run again with --resume") from error
