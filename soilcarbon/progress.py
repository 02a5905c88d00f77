"""Progress of long work with the time left: a bar on a terminal, else a line now and then; messages of parts of it kept back.

Work of less than half a minute writes no line, and a bar is cleared where it ends.
"""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

from tqdm import tqdm

T = TypeVar("T")
EVERY = 30.0  # seconds between two lines
log = logging.getLogger(__name__)


class Progress:
    """Progress of so many steps, as a context.

    >>> with Progress("folds", 2) as progress:
    ...     progress.step()
    ...     progress.step()
    """

    def __init__(self, description: str, total: int) -> None:
        self.description, self.total, self.done = description, total, 0
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> Self:
        self._began = self._told = time.monotonic()
        if sys.stderr is not None and sys.stderr.isatty():
            self._bar = tqdm(total=self.total, desc=self.description, leave=False)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()

    def step(self, count: int = 1) -> None:
        """Count a finished step, or several where steps differ in length, and show it."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
            return
        now = time.monotonic()
        if now - self._told >= EVERY and self.done < self.total:
            left = (now - self._began) / self.done * (self.total - self.done)
            log.info("%s: %d of %d, about %s left", self.description, self.done, self.total, duration(left))
            self._told = now


def progress(items: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Yield items, each of which is a step of `total` that ends when the next one is asked for.

    >>> list(progress([3, 4], "numbers", 2))
    [3, 4]
    """
    with Progress(description, total) as steps:
        for item in items:
            yield item
            steps.step()


@contextmanager
def quiet_training() -> Iterator[None]:
    """Keep back messages of a training that is one of many, such as that a network used for one fold has no intervals to give."""
    loggers = [logging.getLogger(f"soilcarbon.{name}") for name in ("training", "stats")]
    before = [each.level for each in loggers]
    try:
        for each in loggers:
            each.setLevel(logging.ERROR)
        yield
    finally:
        for each, level in zip(loggers, before, strict=True):
            each.setLevel(level)


def duration(seconds: float) -> str:
    """Return a time as text.

    >>> duration(42), duration(600), duration(9000)
    ('42 s', '10 min', '2.5 h')
    """
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
