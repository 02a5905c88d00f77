"""Predict profiles with a checkpoint or a fitted model, and score those that were observed.

    soilcarbon predict                                                              region anhui of the example world
    soilcarbon predict --checkpoint model/mine.pth --data_dir data/mine --on test   your model on your test split
    soilcarbon predict --checkpoint model/mine.pth --data_dir data/new --on all --run new     places without observations

The same as `python pred.py`. Writes predictions.csv, scores.json, settings.yaml and two figures into results/<run>/. The names
say which profiles they are of, if not the test profiles of the model's own dataset: predictions_all_new.csv.
"""

from collections.abc import Sequence

from soilcarbon.commands.arguments import read_settings
from soilcarbon.settings import PredictSettings


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    run(read_settings(PredictSettings, __doc__, arguments, "soilcarbon predict"))


def run(settings: PredictSettings) -> None:
    """Predict by the settings, and print the scores."""
    from soilcarbon.regression.prediction import (
        predict_and_evaluate,  # here: PyTorch is slow to import, and --help needs none of it
    )

    found = predict_and_evaluate(settings)
    table, known = found.table, int(found.table["observed"].notna().sum())
    print(f"{settings.run}: {len(table)} profiles ({settings.on}), {known} observed -> {found.path}")
    if "inside" in table:
        outside, unknown = int((~table["inside"]).sum()), int(table["inside"].isna().sum())
        if outside:
            print(f"  {outside} lie outside the area of applicability: unlike what the model was trained on")
        if unknown:
            print(f"  {unknown} lack a covariate: whether they lie in the area of applicability is not known")
    if found.shared:
        print(f"  {found.shared} share all covariates with a training profile (one raster cell): no test of other places")
    if known:
        print(f"  {found.target.title}; rmse, mae and me in {found.target.unit or 'the unit of the observations'}")
    for name, value in found.scores.items():
        if isinstance(value, dict) and value["value"] is not None:
            print(f"  {name:<5}{value['value']:9.3f}  [{value['low']:.3f}, {value['high']:.3f}]")
    if found.verdict:
        print(f"  {found.verdict}")
    if held := found.coverage:
        note = "" if settings.on == "test" else "; not a test: they were calibrated on some of these"
        print(f"  {held['level']:.0%} intervals cover {held['value']:.1%} of them  [{held['low']:.1%}, {held['high']:.1%}]{note}")
