"""Compare maps of zoned forests of the simulated dataset resembling China with the truth, which is known in every cell.

    python experiments/zoned_truth.py        make zoned runs this after it has made the maps

Prints the coverage of the intervals of cells, zones and changes, and draws docs/zoned_map.png.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import rasterio
from matplotlib.figure import Figure
from PIL import Image

from soilcarbon.figures import save
from soilcarbon.geo.grid import Tile, raster_grid
from soilcarbon.geo.zonal_statistics import cell_areas
from soilcarbon.mapping.plan import WHOLE, own_zone
from soilcarbon.zonal.climate_zones import ClimateZones

DATASET, MAPS, TARGET = Path("data/sim/china"), Path("results/sim_zoned_map"), "socd_0_20"


def read(path: Path) -> np.ndarray:
    """Return the bands of a raster, (B, H, W), missing = NaN."""
    with rasterio.open(path) as raster:
        return raster.read(masked=True).filled(np.nan).astype(np.float64)


def print_coverage(truth: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> None:
    """Print the coverage of cells' intervals, and intervals of means over the area and its zones beside the true means."""
    rain, warmth = read(DATASET / "rasters" / "climate.tif")[:2]
    zone = ClimateZones().labels(rain.ravel(), warmth.ravel()).reshape(rain.shape)
    grid = raster_grid(MAPS / f"{TARGET}_change.tif")
    km2 = np.broadcast_to(cell_areas(grid, Tile(0, 0, 0, grid.height, grid.width)), zone.shape)
    totals = pd.read_csv(MAPS / f"{TARGET}_totals.csv").set_index(["map", "zone"])
    first, *_, last, change = truth
    for name in (first, last, change):
        known = np.isfinite(found[name][0]) & np.isfinite(truth[name])
        covered = ((found[name][1] <= truth[name]) & (truth[name] <= found[name][2]))[known].mean()
        r = np.corrcoef(found[name][0][known], truth[name][known])[0, 1]
        print(f"{name}: the intervals of cells cover {covered:.1%} of the truth (which has no noise); r {r:.2f}")
    inside: dict[str, list[bool]] = {"period": [], "change": []}
    for name, true in truth.items():
        for k, label in enumerate([WHOLE, *map(own_zone, ClimateZones().names)]):
            here = np.isfinite(found[name][0]) & np.isfinite(true) & ((zone == k - 1) | (k == 0))
            mean, row = (true * km2)[here].sum() / km2[here].sum(), totals.loc[(name, label)]
            covers = bool(row["mean_lower"] <= mean <= row["mean_upper"])
            inside["change" if name == "change" else "period"].append(covers)
            print(
                f"{name}, {label}: {row['mean']:.3f} [{row['mean_lower']:.3f}, {row['mean_upper']:.3f}], true {mean:.3f}, {covers}"
            )
    print(", ".join(f"{what}: {sum(each)} of {len(each)} intervals cover the truth" for what, each in inside.items()))


def draw(truth: dict[str, np.ndarray], found: dict[str, np.ndarray], out: Path) -> None:
    """Draw the last period and the change, mapped and true."""
    figure = Figure(figsize=(8.6, 5.6), dpi=100, layout="constrained")
    west, east, south, north = raster_grid(MAPS / f"{TARGET}_change.tif").bounds
    *_, last, change = truth
    panels = [(last, found[last][0]), (last, truth[last]), (change, found[change][0]), (change, truth[change])]
    for k, (axes, (name, values)) in enumerate(zip(figure.subplots(2, 2).ravel(), panels, strict=True)):
        low, high, colours = (-3, 3, "RdBu") if name == change else (0, 9, "viridis")
        values = np.where(np.isfinite(found[name][0]), values, np.nan)
        image = axes.imshow(values, extent=(west, east, south, north), vmin=low, vmax=high, cmap=colours)
        axes.set_facecolor("0.87")
        axes.set_title(f"{'truth' if k % 2 else 'zoned forests'}, {name}", fontsize=9)
        axes.tick_params(labelsize=7)
        if k % 2:
            figure.colorbar(image, ax=axes, extend="both", label="kg/m2", shrink=0.8)
    save(figure, out)
    with Image.open(out) as drawn:
        few = drawn.convert("RGB").quantize(96)
    few.save(out, optimize=True)


def main(out: Path = Path("docs/zoned_map.png")) -> None:
    """Print the coverage and draw the figure."""
    periods = sorted(path.name for path in (DATASET / "truth").iterdir())
    truth = {name: read(DATASET / "truth" / name / f"{TARGET}.tif")[0] for name in periods}
    truth["change"] = truth[periods[-1]] - truth[periods[0]]
    found = {name: read(MAPS / f"{TARGET}_{name}.tif") for name in truth}
    print_coverage(truth, found)
    draw(truth, found, out)


if __name__ == "__main__":
    main()
