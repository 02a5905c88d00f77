"""Interruption of a run: Ctrl-C and SIGTERM end it with one line, and nothing temporary and no worker process stays.

A run may be ended at any instant, so nothing here depends on `finally`: a thread waits for the signals, ends the worker processes,
removes the files and folders that are registered as temporary, and exits. Whoever makes one registers it while it exists. Only the
standard library is imported, so that a command can call `end_at_signals` before anything else.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import active_children, parent_process, resource_tracker, util
from multiprocessing.connection import wait as wait_for
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

uninterrupted = threading.RLock()
"""Held for a moment while a temporary file is made and registered, or renamed and struck off; a run that ends keeps it."""
temporary: set[Path] = set()  # files and folders of this process that are removed when it is interrupted
_PATIENCE_S = 1.0
_SET_PARENT_DEATH_SIGNAL = 1  # of Linux' prctl(2)
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
_advice: list[str] = []
_installed: list[Callable[[], None]] = []
_blocked: list[signal.Signals] = []


def advise_resume() -> None:
    """Say in the line of an interruption that --resume continues from here on."""
    _advice[:] = ["; what is finished is kept: the same command with --resume continues"]


@contextmanager
def temporary_folder(parent: Path | None = None) -> Iterator[Path]:
    """Yield a new folder of a unique name, which is removed afterwards, after an interruption too."""
    with uninterrupted:
        folder = Path(tempfile.mkdtemp(prefix=".soilcarbon-", suffix=".partial", dir=parent))
        temporary.add(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        temporary.discard(folder)


def end_at_signals(message: str | None = "interrupted", signals: list[signal.Signals] | None = None) -> Callable[[], None]:
    """Let Ctrl-C, SIGTERM and SIGHUP end this process at once, with one line and exit status 128 + the signal's number.

    Worker processes that are started afterwards are not reached by Ctrl-C, which a terminal sends to all: this process ends them.
    `message` None: no line. `signals` are by default all three that are not ignored.

    Returns a function that brings back what was before. Where there are no POSIX signals, or in another thread than the main one,
    nothing changes.
    """
    if os.name != "posix" or threading.current_thread() is not threading.main_thread() or _installed:
        return lambda: None
    numbers = [each for each in signals or _SIGNALS if signal.getsignal(each) is not signal.SIG_IGN]
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    handlers = {each: signal.signal(each, _leave_to_thread) for each in numbers}
    thread = threading.Thread(target=_wait, args=(reader, numbers, message), daemon=True)
    thread.start()
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)  # of this thread, and of threads and processes it starts
    _blocked[:] = numbers

    def undo() -> None:
        with uninterrupted:
            _installed.clear()
            _blocked.clear()
            _advice.clear()
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for each, handler in handlers.items():
                signal.signal(each, handler)
            signal.set_wakeup_fd(wakeup)
        os.write(writer, b"\0")
        thread.join()
        os.close(reader)
        os.close(writer)

    _installed.append(undo)
    return undo


def keep_from_workers() -> None:
    """Keep Ctrl-C from worker processes that this thread is about to start; for use before each pool.

    The first worker would also start a process of `multiprocessing` that tracks semaphores, and that start lets signals in again.
    """
    if _blocked:
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, _blocked)


def _leave_to_thread(*_: object) -> None:
    """Do nothing: the number of the signal is written to the pipe that `_wait` reads."""


def _wait(reader: int, numbers: list[signal.Signals], message: str | None) -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
    while number := os.read(reader, 1)[0]:
        if number in numbers:
            end(128 + number, message)


def end(status: int, message: str | None = None) -> None:
    """End this process at once, with its worker processes and temporary files."""
    uninterrupted.acquire(timeout=_PATIENCE_S)  # and kept: no other thread makes or renames a file any more
    threading.excepthook = lambda _: None  # threads that wait for the workers may fail when these are ended
    with contextlib.suppress(Exception):
        _end_workers()
    for path in list(temporary):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
    if message is not None:
        with contextlib.suppress(OSError):
            start = "\n" if os.isatty(2) else ""  # after a progress bar
            os.write(2, f"{start}{message}{''.join(_advice)}\n".encode(errors="backslashreplace"))
    os._exit(status)


def _end_workers() -> None:
    """End worker processes, which are asked, and after a while killed, and remove the semaphores of pools, begun ones too."""
    workers: dict[Any, BaseProcess] = {each.sentinel: each for each in active_children()}
    for each in workers.values():
        each.terminate()
    deadline = time.monotonic() + _PATIENCE_S
    while workers and (left := deadline - time.monotonic()) > 0:
        for ended in wait_for(list(workers), left):
            workers.pop(ended)
    for each in workers.values():
        each.kill()
    util._run_finalizers(0)  # type: ignore[attr-defined]  # semaphores: else another process warns of them


def end_with_parent() -> None:
    """Let this process end within a second of its parent, whatever ended that: by the kernel on Linux, else by a thread.

    The kernel goes by the thread of the parent that started this process: it must be one that lasts.
    """
    started_by, parent = parent_process(), os.getppid()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if started_by is not None and os.name == "posix" and parent != started_by.pid:
        end(1)  # it ended before

    def watch() -> None:
        if started_by is not None:
            wait_for([started_by.sentinel])
        else:
            while os.getppid() == parent:
                time.sleep(0.3)
        end(1)

    threading.Thread(target=watch, daemon=True).start()
