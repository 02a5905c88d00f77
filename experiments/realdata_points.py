r"""Join tables of real profiles, each profile once (`make realdata` runs this).

    python experiments/realdata_points.py ../shared/realdata/global/points.csv ../shared/realdata2/profiles_world2/points.csv \
        --out data/real/points.csv

The tables have columns profile_id, lon, lat (degrees) and soc_gkg. Of a later table what lies within 100 m of a profile of an
earlier one is left out, and of any table what repeats both place and SOC: two profiles of one place are kept where they differ.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.neighbors import BallTree

from soilcarbon.io.files import write_table
from soilcarbon.io.tables import read_table
from soilcarbon.stats.variogram import EARTH_KM

SAME_PLACE_KM = 0.1


def joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return the rows of all tables without places of an earlier one, and without repeated profiles."""
    kept = tables[0]
    for table in tables[1:]:
        known, found = (np.radians(each[["lat", "lon"]].astype(float)) for each in (kept, table))
        distance = BallTree(known, metric="haversine").query(found, return_distance=True)[0][:, 0] * EARTH_KM
        kept = pd.concat([kept, table[distance > SAME_PLACE_KM]], ignore_index=True)
    numbers = kept[["lon", "lat", "soc_gkg"]].astype(float).round({"lon": 5, "lat": 5, "soc_gkg": 3})
    return kept[~numbers.duplicated()]


def main() -> None:
    """Read, join, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("points", type=Path, nargs="+", help="tables of profiles; earlier ones win")
    parser.add_argument("--out", type=Path, required=True, help="the table to write")
    options = parser.parse_args()
    tables = [read_table(path, ("profile_id", "lon", "lat", "soc_gkg")) for path in options.points]
    table = joined(tables)
    write_table(options.out, table)
    print(f"{' + '.join(str(len(each)) for each in tables)} rows, {len(table)} profiles -> {options.out}")


if __name__ == "__main__":
    main()
