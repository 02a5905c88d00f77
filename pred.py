"""Predict profiles with a checkpoint, and score what is known.

    python pred.py                                                              region anhui of the example world
    python pred.py --checkpoint model/mine.pth --data_dir data/mine --on test   your model on your test split
    python pred.py --checkpoint model/mine.pth --data_dir data/new --on all     profiles without observations too

Model, variables and statistics come from the checkpoint alone. Writes into results/<run>/: predictions.csv
(profile_id, lon, lat, observed, predicted, residual = observed - predicted; sd and one column per member of an ensemble;
lower, upper: the calibrated interval of `--level`; di, lpd, inside: dissimilarity index, local point density, and whether
it is in the area of applicability), scores.json (with 95 % bootstrap intervals; me is the mean of predicted - observed;
how many truths the intervals held), settings.yaml, and two figures.
"""

import hashlib
import sys
from collections.abc import Sequence
from typing import Any

from soilcarbon.commands.arguments import read_settings
from soilcarbon.io.files import run
from soilcarbon.settings import PredictSettings


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script with a command line (default: the process's own)."""
    settings = read_settings(PredictSettings, __doc__, arguments)
    import numpy as np  # here and below: --help needs none of these, and they are slow to import
    import pandas as pd

    from soilcarbon import figures
    from soilcarbon.io.files import check_writable, write_json, write_table
    from soilcarbon.network.network import choose_device
    from soilcarbon.network.preprocessing import unfold_classes
    from soilcarbon.soil.dataset import check_variables, middle_cells, read_dataset
    from soilcarbon.stats import metrics as validation
    from soilcarbon.stats.metrics import coverage
    from soilcarbon.training import loop as engine
    from soilcarbon.training.uncertainty import check_level

    device = choose_device(settings.device)
    network = engine.load_for_prediction(settings, device)
    facts = network.specification
    if not settings.given("target"):
        settings = settings.model_copy(update={"target": facts.target})
    splits = () if settings.on == "all" else (settings.on,)
    data = read_dataset(
        settings.data_dir, facts.categories, splits, target=settings.target, target_needed=False, layout=settings.layout
    )
    rows = data.rows(settings.on)
    check_variables(data.x[rows], facts.categories, refuse="nothing")
    engine.warn_of_far_inputs(network, data.x[rows])
    folder = settings.results
    check_writable(folder)

    predicted, members = engine.predict(network, data.x[rows])
    observed = data.y[rows]
    table = pd.DataFrame(
        {
            "profile_id": np.array(data.ids)[rows],
            "lon": data.lon[rows],
            "lat": data.lat[rows],
            "observed": observed,
            "predicted": predicted,
            "residual": observed - predicted,
        }
    )
    if len(members) > 1:
        table["sd"] = members.std(0, ddof=1)
        table = table.assign(**{f"member_{k}": values for k, values in enumerate(members)})
    if network.calibration is not None:
        check_level(network, settings.level)
        table["lower"], table["upper"] = network.calibration.interval(predicted, settings.level)
    if network.applicability is not None:
        cells = unfold_classes(middle_cells(data.x[rows], facts.categories), facts)
        table["di"], table["lpd"] = network.applicability.assess(cells)
        table["inside"] = table["di"] <= network.applicability.threshold
    known = np.isfinite(observed)
    units = None if data.blocks is None else data.blocks[rows][known]
    scores = (
        validation.bootstrap_scores(observed[known], predicted[known], settings.seed, groups=units) if known.any() else {"n": 0}
    )
    held: dict[str, Any] = {}
    if network.calibration is not None and known.any():
        lower, upper = (table[name].to_numpy()[known] for name in ("lower", "upper"))
        held = {"level": settings.level} | coverage(observed[known], lower, upper, units, settings.seed)
    resolved = {"categories": facts.categories, "checkpoint": settings.checkpoint_path}
    settings.model_copy(update=resolved).write(folder / "settings.yaml")
    write_table(folder / "predictions.csv", table)
    about = {
        "run": settings.run,
        "on": settings.on,
        "unit": facts.unit,
        "checkpoint_sha256": hashlib.sha256(settings.checkpoint_path.read_bytes()).hexdigest(),
        "intervals": "95 % bootstrap over " + ("profiles" if units is None else f"{len(np.unique(units))} spatial blocks"),
        "calibrated_on": network.record.get("calibrated_on"),
        "signs": "me: predicted - observed; residual: observed - predicted",
    }
    write_json(folder / "scores.json", {**about, "scores": scores, "coverage": held})
    for stale in folder.glob("*.png"):  # of an earlier prediction in this folder
        stale.unlink()
    if known.any():
        title = f"{settings.run}, {settings.on} profiles"
        figures.observed_against_predicted(folder / "observed_predicted.png", observed[known], predicted[known], facts.unit, title)
        residual = (observed - predicted)[known]
        figures.residual_map(folder / "residual_map.png", data.lon[rows][known], data.lat[rows][known], residual, facts.unit, title)
    print(f"{settings.run}: {len(rows)} profiles ({settings.on}), {int(known.sum())} observed -> {folder}")
    if network.applicability is not None and not table["inside"].all():
        print(f"  {int((~table['inside']).sum())} lie outside the area of applicability: unlike what the network was trained on")
    for name, value in scores.items():
        if isinstance(value, dict) and value["value"] is not None:
            print(f"  {name:<5}{value['value']:9.3f}  [{value['low']:.3f}, {value['high']:.3f}]")
    if held:
        seen = "" if settings.on == "test" else "; not a test, for they were calibrated on some of these"
        print(f"  {held['level']:.0%} intervals hold {held['value']:.1%} of them  [{held['low']:.1%}, {held['high']:.1%}]{seen}")


if __name__ == "__main__":
    sys.exit(run(main))
