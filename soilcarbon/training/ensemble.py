"""Members of an ensemble: each trained by its own seed, side by side in worker processes, resumed where they were interrupted.

In: encoded profiles, a specification, a schedule. Out: every member's best epoch; states and logs in the run's folder.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from soilcarbon.io.files import UserError
from soilcarbon.io.interruption import advise_resume, temporary
from soilcarbon.network.checkpoint import read_state, save_checkpoint, save_state
from soilcarbon.network.network import Growth, Member, Record, SoilCarbonNet
from soilcarbon.network.specification import Specification
from soilcarbon.settings import TrainSettings
from soilcarbon.soil.dataset import Dataset
from soilcarbon.stats.groups import group_folds
from soilcarbon.training import distributed
from soilcarbon.training.loop import (
    Best,
    DivergedError,
    Log,
    Profiles,
    Save,
    Schedule,
    TrainingSets,
    encode_profiles,
    fit,
    outputs_of,
    smearing_factor,
)  # fmt: skip
from soilcarbon.training.run_log import RunLog, member_folder
from soilcarbon.training.uncertainty import fold_groups, rows_outside

log = logging.getLogger(__name__)
SMALL_BATCH = 256
"""Up to so many profiles a step is shorter than handing out its parts to threads; measured by benchmarks/epoch_speed.py."""
LARGE_SMEARING = 1.5
"""Smearing factor above which a log-scale network's means are doubtful."""
RESUME, FINISHED, BEST, SHARED = "resume.pth", "finished.pth", "best.pth", "shared.pth"
"""In a member's log folder: the state it continues from, its best epoch once it is trained, and the best network so far. In the
run's: tensors that worker processes share while they train."""
DIGEST = "sha256"
"""Name in a state of the checksum of all else in it."""
# Paths and display: an interrupted run may be resumed with other values of these settings.
NOT_COMPARED = {"resume", "tensorboard", "device", "workers", "run", "model_dir", "log_dir"}
NOT_COMPARED |= {"data_dir", "samples", "patches", "stats", "split", "categories", "init_from", "global_data"}
# (the content of the latter is compared)
TEACHER_NETWORK: dict[str, Any] = {"epochs": 30, "batch_size": 32, "lr": 3e-4, "lr_schedule": "constant", "l2_sp": 0.02}
TEACHER_NETWORK |= {"dropout": True}
TEACHER_NETWORK |= {"freeze": "none", "select_on": "none", "patience": 0, "eval_interval": 30, "keep_initial": True}
"""Settings of the fine-tuned network in the ensemble teacher: its last epoch is used, so no profile need be held out for it."""


@dataclass(frozen=True)
class RawProfiles:
    """Raw covariates of profiles, and profiles of the global dataset, for a distillation.

    Attributes
    ----------
    x
        (n, F) packed covariates, raw units, missing = NaN.
    world, world_x
        Profiles of the world in no place of the region, and their packed covariates (m, F); None: there are none.
    """

    x: np.ndarray
    world: Profiles | None = None
    world_x: np.ndarray | None = None


@dataclass(frozen=True)
class TrainingData:
    """Profiles of the training and validation splits, encoded once for all members.

    Attributes
    ----------
    profiles
        The training split's, then the validation split's.
    train_count
        Number of profiles of the training split.
    rows
        (n,) their rows in the dataset.
    folds
        (n,) the member that holds each of them out; None: all members have the validation split.
    raw
        What a distillation needs of them; None: there is none.
    """

    profiles: Profiles
    train_count: int
    rows: np.ndarray
    folds: np.ndarray | None = None
    raw: RawProfiles | None = None

    def without_arrays(self) -> "TrainingData":
        """Return a copy without the large arrays."""
        nothing = Profiles(torch.empty(0), torch.empty(0), np.empty(0))
        return TrainingData(nothing, self.train_count, self.rows, self.folds)

    def split(self) -> tuple[Profiles, Profiles]:
        """Return the training and validation splits."""
        return self.profiles.take(slice(self.train_count)), self.profiles.take(slice(self.train_count, None))

    def chosen(self, k: int) -> tuple[slice | np.ndarray, slice | np.ndarray]:
        """Return which profiles member k is trained and validated on."""
        if self.folds is None:
            return slice(self.train_count), slice(self.train_count, None)
        return np.flatnonzero(self.folds != k), np.flatnonzero(self.folds == k)


class TeacherNetworks(NamedTuple):
    """A pretrained network, and the same fine-tuned on a member's training set: they take part in its teacher's predictions."""

    pretrained: Member
    tuned: Member


Distil = Callable[[TrainingSets, RawProfiles, TeacherNetworks | None, int], TrainingSets]
"""Puts the predictions of a teacher in place of the training set, as `distillation.distil` does."""


@dataclass(frozen=True)
class Members:
    """Inputs shared by all members of an ensemble.

    Attributes
    ----------
    specification
        Of the network.
    pretrained
        Weights of the members to continue from, by turns; none: they are drawn anew.
    data, schedule
        Training data and schedule.
    count, seed
        Number of members, and the seed that their own seeds are derived from.
    distil
        Makes a teacher's predictions, which members are trained on; None: they are trained on the profiles.
    growth
        How the pretrained network grew.
    """

    specification: Specification
    pretrained: list[dict[str, Tensor]]
    data: TrainingData
    schedule: Schedule
    count: int
    seed: int
    distil: Distil | None = None
    growth: tuple[Growth, ...] = ()


def member_seed(seed: int, k: int) -> int:
    """Return member k's own seed; members of runs with other seeds never share one."""
    return int(np.random.SeedSequence([seed, k]).generate_state(1)[0])


def prepare_members(
    network: SoilCarbonNet, data: Dataset, settings: TrainSettings, pretrained: bool, device: torch.device,
    world: Dataset | None = None, distil: Distil | None = None,
) -> Members:  # fmt: skip
    """Encode the data, and decide which profiles each member holds out.

    Members are trained on a teacher's predictions where `distil` is given, without dropout: these have no noise.

    Raises
    ------
    UserError
        If there are fewer places, or blocks, than members to hold them out, or the world has none but the region's.
    """
    facts = network.specification
    rows = np.concatenate([data.split["train"], data.split["valid"]])
    folds = None
    if settings.on_folds:
        groups = fold_groups(data)[rows]
        if (found := len(np.unique(groups))) < settings.members:
            raise UserError(f"{found} places or blocks cannot be held out by {settings.members} members; lower --members")
        folds = group_folds(groups, settings.members, settings.seed)
    raw = None if distil is None else RawProfiles(data.x[rows])
    if raw is not None and world is not None:
        there = rows_outside(world, data)
        if not len(there):
            raise UserError(
                "global_data: every training profile lies in a place or block of this region; drop it, or name the world's"
            )
        raw = RawProfiles(raw.x, encode_profiles(facts, world.x[there], world.y[there], device), world.x[there])
    profiles = encode_profiles(facts, data.x[rows], data.y[rows], device)
    weights = [member.copy_of_tensors() for member in network.members()] if pretrained else []
    known = TrainingData(profiles, len(data.split["train"]), rows, folds, raw)
    names = {field.name for field in fields(Schedule)} & set(type(settings).model_fields) - {"seed"}
    given = {name: getattr(settings, name) for name in names}
    schedule = Schedule(**given, keep_initial=pretrained, new=network.new, dropout=distil is None)
    return Members(facts, weights, known, schedule, settings.members, settings.seed, distil, network.record.growth)


def train_member(
    members: Members, k: int, log: Log | None = None, saved: dict[str, Any] | None = None, save: Save | None = None
) -> Best:
    """Train member k; its weights, its teacher and its batches depend on its own seed alone. `log` and further as of `loop.fit`.

    Raises
    ------
    DivergedError
        If the loss is no longer finite.
    """
    data, seed = members.data, member_seed(members.seed, k)
    train, valid = (data.profiles.take(chosen) for chosen in data.chosen(k))
    sets = TrainingSets(train, train, valid, members.specification)
    device = train.output.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        member = _initial_member(members, k, seed)
        if members.distil is not None:
            sets = _distilled(members, k, sets, members.distil)
        return fit(member, sets, replace(members.schedule, seed=seed), log, saved, save)


def _initial_member(members: Members, k: int, seed: int) -> Member:
    member = Member(members.specification)
    member.initialise(seed)
    if members.pretrained:
        new = tuple(f"features_{name}." for name in members.schedule.new)  # drawn by the member's own seed
        drawn = {name: value for name, value in member.copy_of_tensors().items() if name.startswith(new)} if new else {}
        member.load_state_dict(members.pretrained[k % len(members.pretrained)] | drawn)
    return member.to(members.data.profiles.output.device)


def _distilled(members: Members, k: int, sets: TrainingSets, distil: Distil) -> TrainingSets:
    """Return member k's sets with the predictions of its teacher, of which the network itself, fine-tuned, is one."""
    raw, seed, networks = members.data.raw, member_seed(members.seed, k), None
    assert raw is not None
    if members.pretrained:
        own = member_seed(seed, 0)
        networks = TeacherNetworks(_initial_member(members, k, own), _initial_member(members, k, own))
        fit(networks.tuned, sets, replace(members.schedule, **TEACHER_NETWORK, seed=own))
    more = f" and {len(raw.world.y)} of the world" if raw.world else ""
    log.info("member %d: a teacher fitted to %d profiles%s", k, len(sets.train.y), more)
    return distil(sets, replace(raw, x=raw.x[members.data.chosen(k)[0]]), networks, seed)


def assemble(members: Members, best: Sequence[Best], settings: TrainSettings) -> SoilCarbonNet:
    """Return the network of the members' best epochs, with their smearing factors."""
    record = Record(settings=settings.as_plain(), epoch=tuple(each.epoch for each in best), growth=members.growth)
    network = SoilCarbonNet.assemble(members.specification, [each.weights for each in best], record)
    if members.specification.target_transform == "log1p":
        parts = members.data.split()
        outputs = [[outputs_of(member, each.encoded) for each in parts] for member in network.members()]
        deviation = members.specification.output_scale[1]
        factors = tuple(smearing_factor(each, parts, deviation) for each in outputs)
        network.respecify(smearing=factors)
        if max(factors) > LARGE_SMEARING:
            log.warning(
                "smearing factor %.2f: errors on the log scale are large, and predicted means rest on them; "
                "more profiles or covariates are needed, or center: median", max(factors),
            )  # fmt: skip
    return network


# --- files of a run, and members side by side ------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunFiles:
    """The files in a run's log folder.

    Attributes
    ----------
    folder
        log/<run>.
    fingerprint
        What decides the run's result: a state with another one is not continued.
    resume, tensorboard
        As the settings.
    """

    folder: Path
    fingerprint: dict[str, Any]
    resume: bool
    tensorboard: bool

    def prepare(self, members: int) -> None:
        """Remove the files of an older run of the name; check that a resumed run has the same fingerprint.

        Raises
        ------
        UserError
            If that run had other settings or data, or a state cannot be read.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        advise_resume()
        states = [path for path in (*self.folder.rglob(RESUME), *self.folder.rglob(FINISHED))]
        if not self.resume:
            for path in (*states, *self.folder.rglob(BEST), *self.folder.glob(SHARED), *self.folder.glob("member_*/epochs.jsonl")):
                path.unlink()
            for path in self.folder.glob("member_*/events.out.tfevents*"):
                path.unlink()
            return
        if not states:
            log.info("%s: nothing to resume; starting afresh", self.folder / RESUME)
        for path in states:
            if self.read(path, "cpu") is None:
                path.unlink()
        for k in range(members):
            folder = member_folder(self.folder, k)
            if not (folder / FINISHED).is_file() and (state := self.read(folder / RESUME, "cpu")):
                log.info("resuming after epoch %d of member %d", state["epoch"], k)

    def read(self, path: Path, device: torch.device | str) -> dict[str, Any] | None:
        """Return a state of this run, or None where there is none, or it is damaged: then it is made again."""
        if not path.is_file():
            return None
        try:
            state = read_state(path, device)
            json.dumps(state["fingerprint"])  # plain values, that can be compared
            whole = isinstance(state["fingerprint"], dict) and type(state["epoch"]) is int
            whole = whole and set(state["best"]) == {field.name for field in fields(Best)}
            whole = whole and state.pop(DIGEST) == digest_of(state)
        except (UserError, KeyError, TypeError, ValueError):
            whole = False
        if not whole:
            log.warning("%s: torn, or changed since it was written; this member is trained again", path)
            return None
        other = [name for name, value in self.fingerprint.items() if state["fingerprint"].get(name) != value]
        if other:
            raise UserError(f"{path}: the interrupted run differs in {', '.join(other)}; run without --resume, or as it was")
        return state

    def finish(self, members: int) -> None:
        """Remove the files that only an unfinished run needs."""
        for k in range(members):
            path = member_folder(self.folder, k) / BEST
            path.unlink(missing_ok=True)
            path.with_suffix(".yaml").unlink(missing_ok=True)


@contextmanager
def _threads_for(batch_size: int) -> Iterator[None]:
    """Use one thread of PyTorch for small batches: a second one gains nothing, and beside other work takes many times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if batch_size <= SMALL_BATCH else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def train_members(members: Members, files: RunFiles | None = None, workers: int = 1) -> list[Best]:
    """Train all members, on a CPU side by side in worker processes, and return their best epochs.

    The weights do not depend on the number of workers.

    Parameters
    ----------
    members
        What they share.
    files
        Where states and logs go; None: nothing is written, and members are trained one after the other.
    workers
        Processes; 0: one per core.

    Raises
    ------
    UserError
        If a loss is no longer finite.
    """
    one_process = files is None or workers == 1 or members.count == 1 or distributed.size() > 1
    if files is None or one_process or members.data.profiles.output.is_cuda:
        with _threads_for(members.schedule.batch_size):
            return [_train_with_files(members, k, files) for k in range(members.count)]
    from soilcarbon.parallel import Task, run_tasks  # here: one member needs no processes

    shared = files.folder / SHARED
    save_state(shared, _tensors_of(members))
    small = replace(members, pretrained=[], data=members.data.without_arrays())
    verbose = log.isEnabledFor(logging.INFO)
    finished = [member_folder(files.folder, k) / FINISHED for k in range(members.count)]
    tasks = [Task(path, _worker, (small, shared, k, files, verbose), f"member {k}", False) for k, path in enumerate(finished)]
    temporary.add(shared)
    try:
        run_tasks(tasks, workers, "members")
    finally:
        shared.unlink(missing_ok=True)
        temporary.discard(shared)
    device = members.data.profiles.output.device
    return [Best(**state["best"]) for path in finished if (state := files.read(path, device))]


def _train_with_files(members: Members, k: int, files: RunFiles | None) -> Best:
    """Train member k, with its state and its log in files; return the result of an earlier run, if it is finished."""
    if files is None:
        try:
            return train_member(members, k)
        except DivergedError as error:
            raise UserError(f"{error}; lower lr (now {members.schedule.lr:g}) or look at the inputs") from error
    folder, device = member_folder(files.folder, k), members.data.profiles.output.device
    if files.resume and (done := files.read(folder / FINISHED, device)):
        return Best(**done["best"])
    saved = files.read(folder / RESUME, device) if files.resume else None
    first = distributed.is_rank_zero()
    run_log = (
        RunLog(files.folder, k, members.schedule.epochs, files.tensorboard, saved["epoch"] if saved else None) if first else None
    )

    def keep_best(best: Best) -> None:
        network = SoilCarbonNet.assemble(members.specification, [best.weights], Record(epoch=(best.epoch,)))
        save_checkpoint(network, folder / BEST)

    def save(state: dict[str, Any], name: str = RESUME) -> None:
        if first:
            keep_best(Best(**state["best"]))
            whole = {**state, "fingerprint": files.fingerprint}
            save_state(folder / name, {**whole, DIGEST: digest_of(whole)})

    try:
        best = train_member(members, k, run_log.epoch if run_log else None, saved, save)
        save({"epoch": best.epoch, "best": vars(best)}, FINISHED)
        if first:
            (folder / RESUME).unlink(missing_ok=True)
        return best
    except DivergedError as error:
        if first:
            keep_best(error.best)
        raise UserError(
            f"{error} (member {k}); lower --lr (now {members.schedule.lr:g}) or look at the inputs. The best epoch before, "
            f"{error.best.epoch}, is saved in the run's log folder; an older checkpoint is unchanged"
        ) from error
    finally:
        if run_log:
            run_log.close()


def digest_of(state: Any) -> str:
    """Return a checksum of tensors, numbers and text in plain containers; within a state, it is written at one instant with it.

    Examples
    --------
    >>> state = {"epoch": 3, "weights": [torch.zeros(2), None]}
    >>> digest_of(state) == digest_of({"epoch": 3, "weights": [torch.zeros(2), None]})
    True
    >>> digest_of(state) == digest_of({"epoch": 3, "weights": [torch.ones(2), None]})
    False
    """
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            plain = value.detach().cpu().contiguous()
            digest.update(f"{plain.dtype}{tuple(plain.shape)}".encode())
            digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(value, Mapping):
            digest.update(b"{")
            for key, each in value.items():
                digest.update(repr(key).encode())
                add(each)
        elif isinstance(value, list | tuple):
            digest.update(b"[")
            for each in value:
                add(each)
        else:
            digest.update(f"{value!r};".encode())

    add(state)
    return digest.hexdigest()


def _worker(small: Members, shared: Path, k: int, files: RunFiles, verbose: bool) -> None:
    """Train member k in a process of its own."""
    if verbose:
        logging.basicConfig(format="%(message)s", level=logging.INFO)
    _train_with_files(_with_tensors(small, torch.load(shared, mmap=True, weights_only=True)), k, files)


def _tensors_of(members: Members) -> dict[str, Any]:
    """Return the large tensors, to be memory-mapped by every worker from one file."""
    large = {"profiles": members.data.profiles, **(vars(members.data.raw) if members.data.raw else {})}
    tensors: dict[str, Any] = {"pretrained": members.pretrained}
    for name, each in large.items():
        if isinstance(each, Profiles):
            tensors[name] = [each.encoded, each.output, torch.from_numpy(each.y)]
        elif each is not None:
            tensors[name] = torch.from_numpy(np.require(each, requirements="W"))
    return tensors


def _with_tensors(small: Members, tensors: dict[str, Any]) -> Members:
    large: dict[str, Any] = {name: tensors[name].numpy() for name in ("x", "world_x") if name in tensors}
    for name in ("profiles", "world"):
        if name in tensors:
            encoded, output, y = tensors[name]
            large[name] = Profiles(encoded, output, y.numpy())
    data = replace(small.data, profiles=large.pop("profiles"), raw=RawProfiles(**large) if large else None)
    return replace(small, pretrained=tensors["pretrained"], data=data)


def fingerprint(members: Members, settings: TrainSettings) -> dict[str, Any]:
    """Return the fingerprint of a run: settings, specification, and a digest of data, folds and initial weights."""
    data = members.data
    digest = hashlib.sha256() if data.folds is None else hashlib.sha256(data.folds.tobytes())
    digest.update(str(data.train_count).encode())
    for profiles in (data.profiles, data.raw.world if data.raw else None):
        for tensor in () if profiles is None else (profiles.encoded, profiles.output):
            digest.update(tensor.cpu().numpy().tobytes())
    for weights in members.pretrained:
        for tensor in weights.values():
            digest.update(tensor.cpu().numpy().tobytes())
    plain = {name: value for name, value in settings.as_plain().items() if name not in NOT_COMPARED}
    facts = members.specification.model_dump(mode="json")
    return {**plain, "specification": facts, "data and first weights": digest.hexdigest()}
