"""Hold maps of zoned forests of the simulated China-like land against its truth, which is known in every cell.

    python benchmarks/zoned_truth.py        make zoned runs this, after it made the maps

Prints how often intervals of cells, zones and changes hold the truth, and draws docs/zoned_map.png.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import rasterio
from matplotlib.figure import Figure
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from soilcarbon.figures import save
from soilcarbon.geo.grid import Tile, raster_grid
from soilcarbon.geo.zonal_statistics import cell_areas
from soilcarbon.mapping.plan import WHOLE, own_zone
from soilcarbon.zonal.climate_zones import ClimateZones

LAND, MAPS, TARGET = Path("data/sim/china"), Path("results/sim_zoned_map"), "socd_0_20"


def read(path):
    with rasterio.open(path) as raster:
        return raster.read(masked=True).filled(np.nan).astype(np.float64)


def main():
    periods = sorted(path.name for path in (LAND / "truth").iterdir())
    truth = {name: read(LAND / "truth" / name / f"{TARGET}.tif")[0] for name in periods}
    found = {name: read(MAPS / f"{TARGET}_{name}.tif") for name in [*periods, "change"]}
    truth["change"] = truth[periods[-1]] - truth[periods[0]]
    rain, warmth = read(LAND / "rasters" / "climate.tif")[:2]
    zone = ClimateZones().labels(rain.ravel(), warmth.ravel()).reshape(rain.shape)
    grid = raster_grid(MAPS / f"{TARGET}_change.tif")
    km2 = np.broadcast_to(cell_areas(grid, Tile(0, 0, 0, grid.height, grid.width)), zone.shape)
    totals = pd.read_csv(MAPS / f"{TARGET}_totals.csv").set_index(["map", "zone"])
    for name in [periods[0], periods[-1], "change"]:
        known = np.isfinite(found[name][0]) & np.isfinite(truth[name])
        held = ((found[name][1] <= truth[name]) & (truth[name] <= found[name][2]))[known].mean()
        r = np.corrcoef(found[name][0][known], truth[name][known])[0, 1]
        print(f"{name}: cells' intervals hold {held:.1%} of the truth (which has no noise); r {r:.2f}")
    held = {"period": [], "change": []}
    for name, truly in truth.items():
        for k, words in enumerate([WHOLE, *map(own_zone, ClimateZones().names)]):
            here = np.isfinite(found[name][0]) & np.isfinite(truly) & ((zone == k - 1) | (k == 0))
            mean, row = (truly * km2)[here].sum() / km2[here].sum(), totals.loc[(name, words)]
            inside = bool(row["mean_lower"] <= mean <= row["mean_upper"])
            held["change" if name == "change" else "period"].append(inside)
            print(
                f"{name}, {words}: {row['mean']:.3f} [{row['mean_lower']:.3f}, {row['mean_upper']:.3f}], truly {mean:.3f}, {inside}"
            )
    print(", ".join(f"{what}: {sum(each)} of {len(each)} intervals hold" for what, each in held.items()))

    figure = Figure(figsize=(8.6, 5.6), dpi=100, layout="constrained")
    last = periods[-1]
    names = (last, last, "change", "change")
    panels = zip(
        figure.subplots(2, 2).ravel(), names, (found[last][0], truth[last], found["change"][0], truth["change"]), strict=True
    )
    west, east, south, north = grid.bounds
    for k, (axes, name, values) in enumerate(panels):
        low, high = (-3, 3) if name == "change" else (0, 9)
        values = np.where(np.isfinite(found[name][0]), values, np.nan)
        image = axes.imshow(
            values, extent=(west, east, south, north), vmin=low, vmax=high, cmap="RdBu" if name == "change" else "viridis"
        )
        axes.set_facecolor("0.87")
        axes.set_title(f"{'truth' if k % 2 else 'zoned forests'}, {name}", fontsize=9)
        axes.tick_params(labelsize=7)
        if k % 2:
            figure.colorbar(image, ax=axes, extend="both", label="kg/m2", shrink=0.8)
    picture = Path("docs/zoned_map.png")
    save(figure, picture)
    with Image.open(picture) as drawn:
        few = drawn.convert("RGB").quantize(96)
    few.save(picture, optimize=True)


if __name__ == "__main__":
    main()
