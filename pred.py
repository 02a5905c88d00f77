"""Predict profiles with a checkpoint, and score what is known.

    python pred.py                                                              region anhui of the example world
    python pred.py --checkpoint model/mine.pth --data_dir data/mine --on test   your model on your test split
    python pred.py --checkpoint model/mine.pth --data_dir data/new --on all --run new     places without observations

Values come from config.py, then a YAML file (--config), then flags; model, variables and statistics from the checkpoint
alone. Writes into results/<run>/: predictions.csv
(profile_id, lon, lat, observed, predicted, residual = observed - predicted; sd and one column per member of an ensemble;
lower, upper: the calibrated interval of `--level`; di, lpd, inside: dissimilarity index, local point density, and whether
it is in the area of applicability), scores.json (with 95 % bootstrap intervals; me is the mean of predicted - observed;
share of the observations in the intervals), settings.yaml, and two figures. The names say which profiles they are of, if not
the test profiles of the model's own dataset: predictions_all_new.csv.
"""

import sys
from collections.abc import Sequence

import config
from soilcarbon.commands import predict
from soilcarbon.commands.arguments import read_settings
from soilcarbon.io.files import run
from soilcarbon.settings import PredictSettings, with_defaults


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the script with a command line (default: the process's own)."""
    predict.run(read_settings(with_defaults(PredictSettings, config.PREDICT), __doc__, arguments, "pred.py"))


if __name__ == "__main__":
    sys.exit(run(main))
