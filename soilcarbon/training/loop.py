"""The one training loop, and the one prediction.

Pretraining and fine-tuning are the same loop with other settings. Data stay on the device, packed and standardised once;
a batch is one gather by a seeded permutation. The best epoch is chosen on the validation profiles. A run interrupted at
any instant continues with `resume` and ends with the same bits on the same CPU.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from soilcarbon.io.files import UserError
from soilcarbon.network.network import Member, SoilCarbonNet, load_checkpoint, to_target
from soilcarbon.network.specification import Specification, difference
from soilcarbon.settings import PredictSettings, TrainSettings
from soilcarbon.soil.dataset import read_statistics, variable_columns
from soilcarbon.stats import metrics as validation
from soilcarbon.training import distributed as crew
from soilcarbon.training.cuda_graph import passes
from soilcarbon.training.encoded import Lesson, Profiles
from soilcarbon.training.optimiser import Descent
from soilcarbon.training.resume import Best, fingerprint, restore, snapshot
from soilcarbon.training.run_log import RunLog

log = logging.getLogger(__name__)
SAVE_EVERY_S = 10.0
FAR = 4.0
"""Standard deviations beyond which an input is told as far from the training profiles."""
PREDICT_BATCH = 1 << 14


def member_seed(seed: int, k: int) -> int:
    """Return member k's own seed; members of runs with other seeds never share one."""
    return int(np.random.SeedSequence([seed, k]).generate_state(1)[0])


@torch.no_grad()
def outputs_of(member: Member, encoded: Tensor) -> Tensor:
    """Return a member's outputs (n,) in evaluation mode, in large batches."""
    member.eval()
    return torch.cat([Member.forward(member, batch) for batch in encoded.split(PREDICT_BATCH)])


def smearing_factor(outputs: Sequence[Tensor], profiles: Sequence[Profiles]) -> float:
    """Return Duan's (1983) factor of one member: the mean of exp(residual) on the log scale, over several sets of profiles.

    Training and validation profiles are taken together: the latter alone are few, and one outlier among them would
    scale every prediction.
    """
    residuals = [each.output - output for each, output in zip(profiles, outputs, strict=True)]
    return float(torch.exp(torch.cat(residuals).double()).mean())


def load_for_prediction(settings: PredictSettings, device: torch.device) -> SoilCarbonNet:
    """Load the settings' checkpoint; the published bare file, which has no statistics, takes the dataset's.

    Raises
    ------
    UserError
        If the checkpoint cannot be read, or its variables are not those the settings name.
    """
    path = settings.checkpoint_path
    network = load_checkpoint(path, device)
    if (
        network.specification.statistics is not None
        and settings.given("missing")
        and settings.missing != network.specification.missing
    ):
        raise UserError(
            f"{path}: was trained with missing {network.specification.missing!r}, which prediction keeps; drop the setting"
        )
    theirs = network.specification.categories
    if settings.categories is not None and (differs := difference(settings.categories, theirs)):
        raise UserError(f"{path}: the checkpoint's variables are not the settings': {differs}")
    if network.specification.statistics is None:
        stats = settings.data_dir / settings.stats
        network.respecify(statistics=read_statistics(stats, theirs), missing=settings.missing)
        log.info("%s: has no statistics; those of %s are used, and predictions are not bounded", path, stats)
    return network


def warn_of_far_inputs(network: SoilCarbonNet, x: np.ndarray) -> None:
    """Say which variables of covariates (n, F) lie far outside what the network was trained on.

    Most values beyond four standard deviations, or most class codes unknown: a wrong unit, or another world.
    """
    facts, far = network.specification, []
    for name, columns in variable_columns(facts.categories).items():
        cells = x[:, columns][np.isfinite(x[:, columns])].astype(np.float64)
        if not cells.size:
            continue
        if name in facts.classes:
            strange, origin = ~np.isin(cells, facts.classes[name]), "codes"
        elif facts.statistics is not None:
            mean, std = facts.statistics[name]
            strange, origin = np.abs(cells - mean) > FAR * std, f"values (mean {cells.mean():.4g} here, {mean:.4g} there)"
        else:
            continue
        if strange.mean() > 0.05:
            far.append(f"{strange.mean():.0%} of {name}'s {origin}")
    if far:
        more = f" and {len(far) - 3} more variables" if len(far) > 3 else ""
        log.warning("far from what the network was trained on: %s%s; are the units the same?", "; ".join(far[:3]), more)


def predict(network: SoilCarbonNet, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Predict the target for packed covariates.

    Parameters
    ----------
    network
        With statistics; on any device.
    x
        (n, F) float32, raw units, missing = NaN.

    Returns
    -------
    predicted, members
        (n,) and (M, n) float64 in the target's unit: the prediction, which is the members' mean, and each member's.
    """
    device = next(network.parameters()).device
    network.eval()
    with torch.no_grad():
        batches = torch.from_numpy(np.require(x, np.float32, ["C", "W"])).split(PREDICT_BATCH)
        outputs = torch.cat([network.member_outputs(network.encode(batch.to(device))) for batch in batches], 1)
        members = to_target(outputs, network.specification).double().cpu().numpy()
    return members.mean(0), members


def shuffled_importance(network: SoilCarbonNet, x: np.ndarray, y: np.ndarray, seed: int) -> dict[str, float]:
    """Return variable -> what the mean squared error, on the transform's scale, gains when the variable is shuffled.

    Parameters
    ----------
    network
        Trained.
    x, y
        (n, F) packed covariates and (n,) targets of its training profiles.
    seed
        Of the one shuffle, by which all variables are shuffled alike.
    """
    order = np.random.default_rng(seed).permutation(len(y))
    logarithmic = network.specification.target_transform == "log1p"

    def error(covariates: np.ndarray) -> float:
        pair = predict(network, covariates)[0], y
        predicted, observed = (np.log1p(np.maximum(values, 0)) if logarithmic else values for values in pair)
        return float(np.mean((predicted - observed) ** 2))

    whole, gained = error(x), {}
    for name, columns in variable_columns(network.specification.categories).items():
        shuffled = x.copy()
        shuffled[:, columns] = x[order][:, columns]
        gained[name] = max(error(shuffled) - whole, 0.0)
    return gained


# --- one member --------------------------------------------------------------------------------------------------------


def evaluate(
    outputs_for: Callable[[Tensor], Tensor], train: Profiles, valid: Profiles, facts: Specification
) -> dict[str, dict[str, float | int | None]]:
    """Return a member's scores on training and validation profiles, in the target's unit, by its outputs for encoded inputs.

    Raises
    ------
    FloatingPointError
        If an output is not finite.
    """
    outputs = {"train": outputs_for(train.encoded), "valid": outputs_for(valid.encoded)}
    facts = facts.model_copy(update={"members": 1, "smearing": None})
    if facts.target_transform == "log1p":
        factor = smearing_factor((outputs["train"], outputs["valid"]), (train, valid))
        facts = facts.model_copy(update={"smearing": (factor,)})
    scores = {}
    for name, profiles in (("train", train), ("valid", valid)):
        predicted = to_target(outputs[name][None], facts)[0].double().cpu().numpy()
        if not np.isfinite(predicted).all():
            raise FloatingPointError(f"outputs of the {name} profiles are not finite")
        scores[name] = validation.scores(profiles.y, predicted)
    return scores


def _fit_member(
    k: int, member: Member, facts: Specification, lesson: Lesson, settings: TrainSettings,
    journal: RunLog | None, state: dict[str, Any] | None, save: Callable[[Best, dict[str, Any] | None], None],
) -> Best:  # fmt: skip
    """Train one member; `state` is where an interrupted run left it, `save` keeps the best so far and the way on."""
    train, valid = lesson.known, lesson.choose
    device = train.output.device
    member.freeze(settings.freeze)
    descent = Descent(member, settings.lr, settings.layer_decay, settings.loss, settings.l2_sp)
    one_pass = passes(descent, lesson.teach.encoded, lesson.teach.output, settings.batch_size)
    shuffler = torch.Generator().manual_seed(member_seed(settings.seed, k))
    clock = time.monotonic()

    def stop(epoch: int, where: str) -> UserError:
        return UserError(
            f"the loss is no longer finite in epoch {epoch}, {where} (member {k}); lower --lr (now {settings.lr:g}) or look at "
            f"the inputs. The best epoch before, {best.epoch}, lies in the run's log folder; an older checkpoint stands"
        )

    best = Best(0, None, member.copy_of_tensors())
    if state is None:
        epoch = 0
        try:
            scores = evaluate(descent.outputs, train, valid, facts)
        except FloatingPointError:
            raise stop(0, "before its first batch") from None
        if settings.init_from:  # weights drawn at random are no candidate
            best.score = crew.agreed(scores["valid"].get(settings.select_on))
        if journal:
            journal.epoch(k, 0, None, scores, member)
    else:
        epoch, best = state["epoch"], restore(state, member, descent, shuffler)
    while epoch < settings.epochs and not (settings.patience and epoch - best.epoch >= settings.patience):
        epoch += 1
        if settings.lr_schedule == "cosine":
            descent.adam.scale_rates((1 + math.cos(math.pi * (epoch - 1) / settings.epochs)) / 2)
        order = torch.randperm(len(lesson.teach.y), generator=shuffler).to(device)
        losses = one_pass(order)
        finite = torch.isfinite(losses)
        if not finite.all():
            save(best, None)
            raise stop(epoch, f"batch {int((~finite).nonzero()[0]) + 1} of {len(losses)}")
        scores = {}
        if epoch % settings.eval_interval == 0 or epoch == settings.epochs:
            try:
                scores = evaluate(descent.outputs, train, valid, facts)
            except FloatingPointError:
                save(best, None)
                raise stop(epoch, "after its last batch") from None
            score = crew.agreed(scores["valid"].get(settings.select_on))
            if settings.select_on != "none" and validation.better(settings.select_on, score, best.score):
                best = Best(epoch, score, member.copy_of_tensors())
        if journal:
            journal.epoch(k, epoch, float(losses.double().mean()), scores, member)
        if time.monotonic() - clock > SAVE_EVERY_S:
            save(best, snapshot(k, epoch, member, descent, shuffler))
            clock = time.monotonic()
    if best.score is None:  # the score was never defined: nothing chooses, so the last epoch stands
        best = Best(epoch, None, member.copy_of_tensors())
    save(best, snapshot(k, epoch, member, descent, shuffler))
    return best


# --- all members, and the way on after an interruption --------------------------------------------------------------


def fit(
    network: SoilCarbonNet, train: Profiles, valid: Profiles, settings: TrainSettings, journal: RunLog | None = None,
    state: dict[str, Any] | None = None, keep: Callable[[SoilCarbonNet, dict[str, Any] | None], None] | None = None,
    lessons: Callable[[int], Lesson] | None = None, sources: Sequence[Profiles] = (), folds: np.ndarray | None = None,
) -> SoilCarbonNet:  # fmt: skip
    """Train every member of a network and return the network of their best epochs.

    Parameters
    ----------
    network
        Gives the specification, and the first weights if `settings.init_from` is set; otherwise they are drawn.
    train, valid
        Profiles that teach, and profiles that choose each member's best epoch (`settings.select_on`).
    settings
        How to train.
    journal
        Is told every epoch.
    state
        From `read_interrupted`.
    keep
        Called every few seconds with the best network so far and what `read_interrupted` needs (None: only the former).
    lessons
        Member k -> what it learns from, made when its turn comes. Default: `train` teaches and `valid` chooses.
    sources
        Further profiles that lessons are made from: a resumed run must have the same.
    folds
        What lessons hold out, for the same reason.

    Raises
    ------
    UserError
        If the loss is no longer finite (the best network so far is kept first).
    """
    facts = network.specification
    finished = [Best(**best) for best in state["finished"]] if state else []
    expected = fingerprint(network, (train, valid, *sources), settings, folds) if keep else {}
    lessons = lessons or (lambda _: Lesson(train, train, valid))

    def save(best: Best, at: dict[str, Any] | None) -> None:
        if keep:
            bests = [*finished, best]
            way_on = at and {
                **at,
                "fingerprint": expected,
                "best": vars(best),
                "finished": [vars(each) for each in finished],
            }
            keep(_assemble(facts, bests, (train, valid), settings), way_on)

    initial = list(network.members())
    for k in range(len(finished), settings.members):
        member = Member(facts)
        member.initialise(member_seed(settings.seed, k))
        if settings.init_from:
            member.load_state_dict(initial[k % len(initial)].tensors())
        at = state if state and state["member"] == k else None
        best = _fit_member(k, member.to(train.output.device), facts, lessons(k), settings, journal, at, save)
        finished.append(best)
    return _assemble(facts, finished, (train, valid), settings)


def _assemble(facts: Specification, bests: Sequence[Best], known: Sequence[Profiles], settings: TrainSettings) -> SoilCarbonNet:
    record = {"settings": settings.as_plain(), "epoch": [best.epoch for best in bests]}
    network = SoilCarbonNet.assemble(facts, [best.weights for best in bests], record)
    if facts.target_transform == "log1p":
        network.respecify(
            smearing=tuple(
                smearing_factor([outputs_of(member, each.encoded) for each in known], known) for member in network.members()
            )
        )
    return network
