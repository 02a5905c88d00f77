"""Log of a training run: `epochs.jsonl`, TensorBoard, a progress bar or plain lines.

In: numbers per epoch. Out: files under `log/<run>/` for member 0, `log/<run>/member_<k>/` for the others
(`tensorboard --logdir log` shows both), and progress on stderr.
"""

import json
import logging
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from soilcarbon.io.files import UserError, write_text
from soilcarbon.network.network import Member, SoilCarbonNet
from soilcarbon.training.loop import Scores

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger(__name__)
LINE_EVERY_S = 10.0
HISTOGRAMS = 10
"""How many times in a run the weights' histograms are written."""


def member_folder(folder: Path, member: int) -> Path:
    """Return where a member's files lie in a run's log folder."""
    return folder if member == 0 else folder / f"member_{member}"


class RunLog:
    """The log of one member of a run.

    Parameters
    ----------
    folder
        log/<run>.
    member
        Its number.
    epochs
        At most; for the progress bar.
    tensorboard
        Whether to write TensorBoard's files too.
    after
        The last epoch to keep when a run is resumed; None: start afresh, clearing an older run's log.
    """

    def __init__(self, folder: Path, member: int, epochs: int, tensorboard: bool, after: int | None) -> None:
        self.folder, self.member, self.epochs, self.tensorboard = member_folder(folder, member), member, epochs, tensorboard
        self._after = after
        self._writer: SummaryWriter | None = None
        self._bar: tqdm[Any] | None = None
        self._last_line = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "epochs.jsonl"
        write_text(path, "".join(_lines_until(path, after)))
        self._lines = path.open("a", encoding="utf-8")
        if after is None:
            for old in self.folder.glob("events.out.tfevents*"):
                old.unlink()

    def epoch(self, epoch: int, loss: float | None, scores: Scores, member: Member) -> None:
        """Record an epoch: its mean training loss, and scores per split where it was evaluated."""
        with _full_disk_is_an_error(self.folder):
            self._lines.write(json.dumps({"member": self.member, "epoch": epoch, "loss": loss, **scores}) + "\n")
            self._lines.flush()
            if self.tensorboard:
                self._write_events(epoch, loss, scores, member)
        self._show_progress(epoch, loss, scores)

    def _write_events(self, epoch: int, loss: float | None, scores: Scores, member: Member) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter  # here: it is slow to import

            self._writer = SummaryWriter(str(self.folder), purge_step=None if self._after is None else self._after + 1)
        if loss is not None:
            self._writer.add_scalar("loss/train", loss, epoch)
        for split, numbers in scores.items():
            for name, value in numbers.items():
                if value is not None and name != "n":
                    self._writer.add_scalar(f"{name}/{split}", value, epoch)
        if epoch % max(1, self.epochs // HISTOGRAMS) == 0:
            for name, tensor in member.tensors().items():
                self._writer.add_histogram(name.replace(".", "/"), tensor.cpu(), epoch)

    def _show_progress(self, epoch: int, loss: float | None, scores: Scores) -> None:
        valid = scores.get("valid", {})
        named = {"loss": loss, **{f"valid {name}": value for name, value in valid.items() if name != "n"}}
        text = ", ".join(f"{name} {value:.4g}" for name, value in named.items() if value is not None)
        if sys.stderr.isatty():
            self._bar = self._bar or tqdm(
                total=self.epochs, initial=epoch, desc=f"member {self.member}", unit="epoch", leave=False, position=self.member
            )
            self._bar.n = epoch
            self._bar.set_postfix_str(text)
        elif epoch == self.epochs or time.monotonic() - self._last_line > LINE_EVERY_S:
            self._last_line = time.monotonic()
            log.info("member %d, epoch %d of %d: %s", self.member, epoch, self.epochs, text)

    def close(self) -> None:
        """Close bar and files."""
        if self._bar is not None:
            self._bar.close()
        with _full_disk_is_an_error(self.folder):
            self._lines.close()
            if self._writer is not None:
                self._writer.close()


def log_result(folder: Path, network: SoilCarbonNet, example: torch.Tensor, settings: Mapping[str, Any], scores: Scores) -> None:
    """Write a finished run's graph, its settings as hyper-parameters, and its final scores for TensorBoard."""
    from torch.utils.tensorboard import SummaryWriter  # here: it is slow to import

    plain = {name: value if isinstance(value, (bool, int, float)) else str(value) for name, value in settings.items()}
    final = {
        f"final/{split}_{name}": value
        for split, numbers in scores.items()
        for name, value in numbers.items()
        if value is not None and name != "n"
    }
    with _full_disk_is_an_error(folder), SummaryWriter(str(folder)) as writer:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the tracer warns of constants, which the graph is to show as such
            writer.add_graph(network, example)
        writer.add_hparams(plain, final, run_name=".")


def _lines_until(path: Path, after: int | None) -> list[str]:
    """Return the lines of an interrupted run's epochs up to the one it continues from."""
    if after is None or not path.is_file():
        return []
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        try:
            if json.loads(line)["epoch"] <= after:
                kept.append(line)
        except (ValueError, TypeError, KeyError, IndexError):  # a line torn by the interruption, or not ours
            continue
    return kept


@contextmanager
def _full_disk_is_an_error(folder: Path) -> Iterator[None]:
    """Report a full disk in one plain line; TensorBoard's own thread would add a traceback to it."""
    usual, threading.excepthook = threading.excepthook, lambda _: None
    try:
        yield
    except OSError as error:
        raise UserError(f"{folder}: the log cannot be written ({error.strerror or error})") from error
    finally:
        threading.excepthook = usual
