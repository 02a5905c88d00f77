"""What a run tells while it trains: `epochs.jsonl`, TensorBoard, a progress bar or plain lines.

In: numbers per epoch. Out: files under `log/<run>/`, for `tensorboard --logdir log`, and words on stderr.
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

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from soilcarbon.network.network import Member, SoilCarbonNet

log = logging.getLogger(__name__)
LINE_EVERY_S = 10.0
HISTOGRAMS = 10
"""How many times in a run the weights' histograms are written."""

Scores = Mapping[str, float | int | None]


class RunLog:
    """The log of one run of one or more members.

    Parameters
    ----------
    folder
        log/<run>.
    epochs
        Of one member, at most; for the progress bar.
    tensorboard
        Whether to write TensorBoard's files too.
    after
        (member, epoch) of the last epoch to keep when a run is resumed; None: start afresh, clearing an older run's log.
    """

    def __init__(self, folder: Path, epochs: int, tensorboard: bool, after: tuple[int, int] | None) -> None:
        self.folder, self.epochs, self.tensorboard, self.after = folder, epochs, tensorboard, after
        self._writers: dict[int, SummaryWriter] = {}
        self._bar: tqdm[Any] | None = None
        self._said = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        lines = self._kept_lines()
        write_text(folder / "epochs.jsonl", "".join(lines))
        self._lines = (folder / "epochs.jsonl").open("a", encoding="utf-8")
        if after is None:
            for old in folder.rglob("events.out.tfevents*"):
                old.unlink()

    def _kept_lines(self) -> list[str]:
        path = self.folder / "epochs.jsonl"
        if self.after is None or not path.is_file():
            return []
        kept = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
            try:
                facts = json.loads(line)
                if (facts["member"], facts["epoch"]) <= self.after:
                    kept.append(line)
            except (ValueError, TypeError, KeyError, IndexError):  # a line torn by the interruption, or not ours
                continue
        return kept

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Tell a full disk in one plain line; TensorBoard's own thread would add a traceback to it."""
        usual, threading.excepthook = threading.excepthook, lambda _: None
        try:
            yield
        except OSError as error:
            raise UserError(f"{self.folder}: the log cannot be written ({error.strerror or error})") from error
        finally:
            threading.excepthook = usual

    def _writer(self, member: int) -> "SummaryWriter | None":
        if not self.tensorboard:
            return None
        if member not in self._writers:
            from torch.utils.tensorboard import SummaryWriter  # here: it is slow to import

            resumed = self.after is not None and self.after[0] == member
            purge = self.after[1] + 1 if resumed and self.after else None
            folder = self.folder if member == 0 else self.folder / f"member_{member}"
            self._writers[member] = SummaryWriter(str(folder), purge_step=purge)
        return self._writers[member]

    def epoch(self, member: int, epoch: int, loss: float | None, scores: Mapping[str, Scores], network: "Member") -> None:
        """Record an epoch: its mean training loss, and scores per split where it was evaluated."""
        with self._writing():
            self._write_epoch(member, epoch, loss, scores, network)
        self._progress(member, epoch, loss, scores)

    def _write_epoch(self, member: int, epoch: int, loss: float | None, scores: Mapping[str, Scores], network: "Member") -> None:
        line = {"member": member, "epoch": epoch, "loss": loss, **scores}
        self._lines.write(json.dumps(line) + "\n")
        self._lines.flush()
        if writer := self._writer(member):
            if loss is not None:
                writer.add_scalar("loss/train", loss, epoch)
            for split, numbers in scores.items():
                for name, value in numbers.items():
                    if value is not None and name != "n":
                        writer.add_scalar(f"{name}/{split}", value, epoch)
            if epoch % max(1, self.epochs // HISTOGRAMS) == 0:
                for name, tensor in network.tensors().items():
                    writer.add_histogram(name.replace(".", "/"), tensor.cpu(), epoch)

    def _progress(self, member: int, epoch: int, loss: float | None, scores: Mapping[str, Scores]) -> None:
        valid = scores.get("valid", {})
        named = {"loss": loss, **{f"valid {name}": value for name, value in valid.items() if name != "n"}}
        words = ", ".join(f"{name} {value:.4g}" for name, value in named.items() if value is not None)
        if sys.stderr.isatty():
            if self._bar is None or self._bar.desc != f"member {member}":
                self.close_bar()
                self._bar = tqdm(total=self.epochs, initial=epoch, desc=f"member {member}", unit="epoch", leave=False)
            self._bar.n = epoch
            self._bar.set_postfix_str(words)
        elif epoch == self.epochs or time.monotonic() - self._said > LINE_EVERY_S:
            self._said = time.monotonic()
            log.info("member %d, epoch %d of %d: %s", member, epoch, self.epochs, words)

    def finish(
        self, network: "SoilCarbonNet", example: torch.Tensor, settings: Mapping[str, Any], scores: Mapping[str, Scores]
    ) -> None:
        """Write the graph, the settings as hyper-parameters, and the final scores."""
        with self._writing():
            self._write_final(network, example, settings, scores)

    def _write_final(
        self, network: "SoilCarbonNet", example: torch.Tensor, settings: Mapping[str, Any], scores: Mapping[str, Scores]
    ) -> None:
        if writer := self._writer(0):
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")  # the tracer warns of constants, which the graph is to show as such
                writer.add_graph(network, example)
            plain = {name: value if isinstance(value, (bool, int, float)) else str(value) for name, value in settings.items()}
            final = {
                f"final/{split}_{name}": value
                for split, numbers in scores.items()
                for name, value in numbers.items()
                if value is not None and name != "n"
            }
            writer.add_hparams(plain, final, run_name=".")

    def close_bar(self) -> None:
        """Take the progress bar off the terminal."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def close(self) -> None:
        """Close bar and files."""
        self.close_bar()
        with self._writing():
            self._lines.close()
            for writer in self._writers.values():
                writer.close()
