"""Variants of distillation, each against the present one: with dropout, other teachers, another pretraining, weights.

    make realdata && make compare             # results/compare_realdata/pretrained: networks without each region
    python experiments/transfer.py teachers   # another network, for "seeds"
    python experiments/students.py            # half an hour of an idle core; --only dropout: one group of variants

Regions, folds, profiles and seeds are those of --config, so changes are paired. Finished folds are kept in --out; --show prints
what is there: MAE (g/kg) by region, changes (%) with paired 95 % intervals of whole blocks, and the distance of students from their
teachers, the root mean squared difference of ln(1 + SOC) at the profiles held out, over its deviation.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd
import torch
from scipy.spatial import cKDTree
from transfer import shown

from soilcarbon.benchmark.network_variants import Case
from soilcarbon.benchmark.regions import Design, read_inputs
from soilcarbon.benchmark.runs import Run
from soilcarbon.commands.arguments import read_settings
from soilcarbon.commands.compare import CompareSettings, design_of
from soilcarbon.io.files import write_table
from soilcarbon.network.checkpoint import load_checkpoint
from soilcarbon.network.network import Member, to_target
from soilcarbon.stats.groups import spatial_groups
from soilcarbon.training.distillation import NETWORK_SHARE, Teacher, distil
from soilcarbon.training.ensemble import Members, RawProfiles, TeacherNetworks, prepare_members, train_member
from soilcarbon.training.loop import Profiles, TrainingSets, encode_profiles, outputs_of
from soilcarbon.training.run import follow_checkpoint

WITH_DROPOUT: Mapping[str, Any] = {"dropout": True, "batch_size": 128, "lr": 1e-3, "epochs": 16}
"""The schedule before."""
OTHER_NETWORK = Path("results/transfer/pretrained.pth")
WEIGHTED = 2
"""Members of variants whose teachers are weighted, each compared with as many of those that are not."""
Outputs = dict[str, np.ndarray]
"""Variant:member -> SOC (m,) at the profiles held out."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Fold:
    """One fold: its case, the members that are trained on it, and the encoded profiles held out (m, E)."""

    case: Case
    members: Members
    held_out: torch.Tensor

    @classmethod
    def of(cls, case: Case) -> "Fold":
        """Prepare the members as `soilcarbon compare` does."""
        data = case.dataset()
        settings = follow_checkpoint(case.settings, case.start, data)
        members = prepare_members(case.start, data, settings, True, CPU, case.world, distil)
        facts = case.start.specification
        return cls(case, members, encode_profiles(facts, case.region.x[case.test], case.region.y[case.test], CPU).encoded)

    def student(self, sets: TrainingSets, k: int, **schedule: Any) -> np.ndarray:
        """Train member k on a teacher's predictions, and return its own of the profiles held out."""
        members = replace(self.members, distil=lambda *_: sets, schedule=replace(self.members.schedule, **schedule))
        member = Member(members.specification)
        member.load_state_dict(train_member(members, k).weights)
        return self.soc(outputs_of(member, self.held_out).double().numpy())

    def teach(self, k: int) -> tuple[TrainingSets, torch.Tensor, np.ndarray]:
        """Return what member k learns from, the fine-tuned network's part of it, and the teacher's SOC at the profiles held out."""
        kept: list[Any] = []

        def teach(sets: TrainingSets, raw: RawProfiles, networks: TeacherNetworks | None, seed: int) -> TrainingSets:
            assert networks is not None and raw.world is not None
            pairs = [(each.encoded.numpy(), each.output.double().numpy()) for each in (sets.train, raw.world)]
            prior = [outputs_of(networks.pretrained, at).double().numpy() for at in (sets.train.encoded, self.held_out)]
            teacher = Teacher(seed).fit(*pairs[0], *pairs[1], prior[0])
            found = distil(sets, raw, networks, seed, teacher)
            there = teacher.predict(self.held_out.numpy(), prior[1])
            there += NETWORK_SHARE * (outputs_of(networks.tuned, self.held_out).double().numpy() - there)
            kept.extend([found, outputs_of(networks.tuned, found.fit.encoded), self.soc(there)])
            return found

        train_member(replace(self.members, distil=teach, schedule=replace(self.members.schedule, epochs=1)), k)
        return kept[0], kept[1], kept[2]

    def soc(self, outputs: np.ndarray) -> np.ndarray:
        """Return medians (m,) in g/kg."""
        facts = self.members.specification.model_copy(update={"members": 1, "center": "median"})
        return np.asarray(to_target(torch.from_numpy(outputs)[None], facts)[0].numpy())


def with_share(sets: TrainingSets, tuned: torch.Tensor, share: float) -> TrainingSets:
    """Return a teacher's predictions with another share of the fine-tuned network."""
    alone = (sets.fit.output - NETWORK_SHARE * tuned) / (1 - NETWORK_SHARE)
    return replace(sets, fit=replace(sets.fit, output=alone + share * (tuned - alone)))


def by_dropout(fold: Fold) -> Outputs:
    """Train as now, as before, and on teachers half of which are the fine-tuned network."""
    found: Outputs = {}
    for k in range(fold.members.count):
        sets, tuned, found[f"the teachers:{k}"] = fold.teach(k)
        found[f"present:{k}"] = fold.student(sets, k)
        found[f"with dropout:{k}"] = fold.student(sets, k, **WITH_DROPOUT)
        found[f"half fine-tuned:{k}"] = fold.student(with_share(sets, tuned, 0.5), k)
    return found


def by_seeds(fold: Fold) -> Outputs:
    """Train the members that begin a second round through the pretrained ones from those of another pretraining instead."""
    start = load_checkpoint(OTHER_NETWORK)
    start.respecify(center=fold.case.settings.center)
    other, rounds = Fold.of(replace(fold.case, start=start)), len(fold.members.pretrained)
    return {f"two pretrainings:{k}": other.student(other.teach(k)[0], k) for k in range(rounds, fold.members.count)}


def by_weights(fold: Fold, weights: Callable[[Fold], np.ndarray], name: str) -> Outputs:
    """Train on teachers to whose common trees the world's profiles count by weights: they are drawn by these, with replacement."""
    shares, raw = weights(fold), fold.members.data.raw
    assert raw is not None and raw.world is not None and raw.world_x is not None
    rows = np.random.default_rng(0).choice(len(shares), len(shares), p=shares / shares.sum())
    chosen = Profiles(raw.world.encoded[rows], raw.world.output[rows], raw.world.y[rows])
    data = replace(fold.members.data, raw=replace(raw, world=chosen, world_x=raw.world_x[rows]))
    other = replace(fold, members=replace(fold.members, data=data))
    return {f"{name}:{k}": other.student(other.teach(k)[0], k) for k in range(WEIGHTED)}


def density(fold: Fold) -> np.ndarray:
    """Return weights of the world's profiles: the inverse root of how many lie in the same half-degree block."""
    world = fold.case.elsewhere.X
    _, block, count = np.unique(spatial_groups(world[:, 0], world[:, 1], 0.5), return_inverse=True, return_counts=True)
    return np.asarray(1 / np.sqrt(count[block]))


def similarity(fold: Fold) -> np.ndarray:
    """Return weights: a normal density of the distance to the region's nearest profile, its deviation the median distance."""
    data = fold.members.data
    assert data.raw is not None and data.raw.world is not None
    distance = cKDTree(data.profiles.encoded.numpy()).query(data.raw.world.encoded.numpy())[0]
    return np.asarray(np.exp(-0.5 * (distance / np.median(distance)) ** 2))


GROUPS: Mapping[str, Callable[[Fold], Outputs]] = {
    "dropout": by_dropout,
    "seeds": by_seeds,
    "density": lambda fold: by_weights(fold, density, "weights by density"),
    "similarity": lambda fold: by_weights(fold, similarity, "weights by similarity"),
}


def cases(design: Design) -> Iterator[tuple[Run, Case]]:
    """Yield every run of a design, and its case."""
    for fold in range(design.folds):
        for region in read_inputs(design).regions:
            run = Run(design.strategies[-1], fold, design.methods, region=region, size=design.profiles)
            yield run, design.divide(run)


def compute(design: Design, out: Path, groups: list[str]) -> None:
    """Compute the folds that are not there, one group of variants after the other."""
    for group in groups:
        for run, case in cases(design):
            path = out / f"{group}-{run.name}.csv"
            if not path.is_file():
                data, test = case.region, case.test
                block = spatial_groups(data.lon[test], data.lat[test], data.block_size)
                write_table(path, pd.DataFrame({"observed": data.y[test], "group": block}).assign(**GROUPS[group](Fold.of(case))))


def read(out: Path, group: str) -> dict[str, pd.DataFrame]:
    """Return what a group has finished: region -> observed, group, and a column of each member."""
    parts: dict[str, list[pd.DataFrame]] = {}
    for path in sorted(out.glob(f"{group}-*.csv")):
        parts.setdefault(path.stem.split("-")[1], []).append(pd.read_csv(path))
    return {region: pd.concat(each, ignore_index=True) for region, each in parts.items()}


def combined(table: pd.DataFrame, present: pd.DataFrame) -> pd.DataFrame:
    """Return means of members, and of as many present ones, which also stand for members that a variant has not."""
    result, names = table[["observed", "group"]].copy(), [column for column in table if ":" in column]
    for name in dict.fromkeys(column.split(":")[0] for column in names):
        own = {int(column.split(":")[1]): table[column] for column in names if column.split(":")[0] == name}
        every = range(max(own) + 1)
        result["present"] = present[[f"present:{k}" for k in every]].mean(axis=1)
        result[name] = np.mean([own[k] if k in own else present[f"present:{k}"] for k in every], axis=0)
    return result


def report(out: Path) -> None:
    """Print what is there."""
    present = read(out, "dropout")
    for group in GROUPS:
        tables = {name: combined(table, present[name]) for name, table in read(out, group).items()}
        if tables:
            print(shown(tables, "present"))
        for name in ("present", "with dropout", "half fine-tuned") if group == "dropout" and tables else ():
            logs = [(np.log1p(each[name]), np.log1p(each["the teachers"])) for each in tables.values()]
            away = np.mean([np.sqrt(np.mean((a - b) ** 2)) / b.std() for a, b in logs])
            print(f"distance from the teacher: {name} {away:.3f}")


def main() -> None:
    """Compute what is not there, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=GROUPS, nargs="+", help="groups of variants [all]")
    parser.add_argument("--config", default="configs/realdata_compare.yaml", help="the comparison whose networks are used")
    parser.add_argument("--out", type=Path, default=Path("results/students"), help="where finished folds are kept")
    parser.add_argument("--show", action="store_true", help="print what is there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.show:
        design = design_of(read_settings(CompareSettings, "", ["--config", options.config]))
        compute(design, options.out, options.only or list(GROUPS))
    report(options.out)


if __name__ == "__main__":
    main()
