"""Draw the scores of forests by climate zone on the simulated data, with and without differences between zones, beside the paper's.

    make zoned

Reads results/sim_zoned/scores.csv and results/sim_unzoned/scores.csv; writes results/zoned.png.
"""

from pathlib import Path

from soilcarbon.io.tables import read_table
from soilcarbon.zonal.evaluation import draw_scores

RUNS = {"relationships differ between zones": "sim_zoned", "the same relationship everywhere": "sim_unzoned"}


def main(results: Path = Path("results")) -> None:
    """Draw the figure."""
    tables = {title: read_table(results / run / "scores.csv") for title, run in RUNS.items()}
    draw_scores(results / "zoned.png", tables, "r2", "R2, held-out blocks", paper=True)
    print(results / "zoned.png")


if __name__ == "__main__":
    main()
