"""Sampling designs on rasters: the cells of an area, strata made of them, and points drawn or chosen among them.

In: covariates, perhaps an area of interest, a mask, a map with predicted errors, or strata. Out: points with stratum, inclusion
probability and weight, and a raster of the strata. Rasters of any size are read tile by tile: strata are made of a sample of
cells, assigned to all, and points are drawn from all.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import rasterio
from scipy.stats import norm

from soilcarbon.geo.grid import Grid, Tile, lonlat
from soilcarbon.geo.raster import Layer, named_errors
from soilcarbon.geo.resampling import Stack
from soilcarbon.geo.vector import Area
from soilcarbon.geo.zonal_statistics import cell_areas, inside
from soilcarbon.io.files import UserError
from soilcarbon.mapping.probability_sample import NO_SAMPLE
from soilcarbon.progress import progress
from soilcarbon.stats.sample_selection import CompactStrata, cum_root_frequency, order_keys

_TILE = 512
_MOST_STRATA = 1000
_EARTH = 6371.0
"""Radius, km."""
_EDGE = 0.01
"""Of a cell: a point keeps so far from its edges, lest rounding moves it across."""
CHOSEN = {"coverage": f"spatial coverage: {NO_SAMPLE}", "clhs": f"conditioned Latin hypercube: {NO_SAMPLE}"}
"""Designs whose points are chosen, not drawn -> what the points' table says of them."""


@dataclass(frozen=True)
class Cells:
    """Cells of an area, read from rasters."""

    row: np.ndarray  # row, col: (m,) of the grid
    col: np.ndarray
    values: np.ndarray  # (m, V) of the covariates
    error: np.ndarray  # (m,) standard deviation of the map's error; NaN where there is no such map
    km2: np.ndarray  # (m,) what each stands for: its area, or, of a sample of cells, one for all

    def part(self, chosen: np.ndarray) -> "Cells":
        """Return some of the cells."""
        return Cells(self.row[chosen], self.col[chosen], self.values[chosen], self.error[chosen], self.km2[chosen])


@dataclass
class Population:
    """The cells of a grid that are to be sampled: those inside the area in which all rasters have values; a context."""

    grid: Grid
    layers: Sequence[Layer]
    areas: Sequence[Area] = ()  # the area of interest; empty: all
    mask: Layer | None = None  # layer that is above 0 in the area
    # layers of a map: one of standard deviations, or the lower and upper ends of its prediction intervals; empty: none
    errors: Sequence[Layer] = ()
    # nominal coverage of these intervals, from whose width a standard deviation is taken as of a normal distribution
    level: float = 0.9
    _open: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        self._stack = self._open.enter_context(Stack([*self.layers, *self.errors], self.grid))
        self._mask = self._open.enter_context(Stack([self.mask], self.grid, resampling="nearest")) if self.mask else None
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def tiles(self, what: str) -> Iterator[tuple[Tile, Cells]]:
        """Yield tiles and their cells in the area, showing progress."""
        for tile in progress(self.grid.tiles(_TILE), what, self.grid.tile_count(_TILE)):
            window = tile.row, tile.col, tile.height, tile.width
            read = self._stack.read(*window)
            here = np.isfinite(read).all(axis=0)
            if self._mask is not None:
                here &= self._mask.read(*window)[0] > 0
            if self.areas and here.any():
                here &= inside(self.areas, self.grid, tile)
            row, col = np.nonzero(here)
            values = read[:, row, col].astype(np.float64).T
            km2 = np.broadcast_to(cell_areas(self.grid, tile), here.shape)[row, col]
            count = len(self.layers)
            yield tile, Cells(row + tile.row, col + tile.col, values[:, :count], self._error(values[:, count:]), km2)

    def _error(self, values: np.ndarray) -> np.ndarray:
        """Return the standard deviation of the map's error (m,) of its layers (m, 0 to 2)."""
        if values.shape[1] == 0:
            return np.full(len(values), np.nan)
        if values.shape[1] == 1:
            found = values[:, 0]
        else:
            found = (values[:, 1] - values[:, 0]) / (2 * float(norm.ppf((1 + self.level) / 2)))
        if (found < 0).any():
            name = " and ".join(layer.name for layer in self.errors)
            raise UserError(
                f"{self.errors[0].path}: {(found < 0).sum()} errors by {name} are below 0, first {found[found < 0][0]:g}"
            )
        return found

    def sample(self, most: int, seed: int) -> Cells:
        """Return a random sample of so many cells, drawn in proportion to their areas, or all if there are fewer."""
        kept: list[Cells] = []
        keys = np.empty(0)
        total = 0
        for tile, cells in self.tiles("cells of the area"):
            total += len(cells.km2)
            drawn = np.random.default_rng([seed, 0, tile.number]).exponential(size=len(cells.km2)) / cells.km2
            kept.append(cells)
            keys = np.concatenate([keys, drawn])
            if len(keys) > 2 * most:
                kept, keys = _smallest(kept, keys, most)
        if total == 0:
            raise UserError(f"{self.layers[0].path}: no cell of the area has values in all rasters (see --aoi, --mask, --nodata)")
        if total > most:
            kept, _ = _smallest(kept, keys, most)
            kept = [Cells(each.row, each.col, each.values, each.error, np.ones(len(each.km2))) for each in kept]
        return _joined(kept)

    def places(self, row: np.ndarray, col: np.ndarray) -> np.ndarray:
        """Return positions of the middles of cells, km: (m, 2) in the CRS, or (m, 3) on the sphere for degrees."""
        if not self.grid.geographic:
            return np.stack(self.grid.coordinates(row + 0.5, col + 0.5), axis=1) / 1000
        lon, lat = np.radians(np.stack(lonlat(self.grid, row + 0.5, col + 0.5)))
        return _EARTH * np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)


def _joined(parts: Sequence[Cells]) -> Cells:
    return Cells(*(np.concatenate([getattr(each, name) for each in parts]) for name in ("row", "col", "values", "error", "km2")))


def _smallest(parts: Sequence[Cells], keys: np.ndarray, count: int) -> tuple[list[Cells], np.ndarray]:
    """Return the cells of the smallest keys, in their order."""
    chosen = np.sort(np.argpartition(keys, count - 1)[:count])
    return [_joined(parts).part(chosen)], keys[chosen]


# --- strata ----------------------------------------------------------------------------------------------------------------

Assign = Callable[[Cells], np.ndarray]
"""From cells to their strata (m,), counted from 0; below 0: not of the area."""


def one_stratum(cells: Cells) -> np.ndarray:
    """Return the only stratum of a simple random sample."""
    return np.zeros(len(cells.km2), np.int64)


def covariate_strata(sample: Cells, layers: Sequence[Layer], count: int, seed: int) -> Assign:
    """Return strata by k-means of standardised covariates; classes count as one variable each that is 0 or 1.

    They are numbered along the first principal component of their centres, so that neighbours in number are alike.
    """
    from sklearn.cluster import KMeans

    codes = [np.unique(column) if layer.classes else None for layer, column in zip(layers, sample.values.T, strict=True)]

    def encoded(values: np.ndarray) -> np.ndarray:
        columns = [
            column[:, None] if known is None else (column[:, None] == known).astype(np.float64)
            for column, known in zip(values.T, codes, strict=True)
        ]
        return np.concatenate(columns, axis=1)

    features = encoded(sample.values)
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    for known, at in zip(codes, np.cumsum([1 if each is None else len(each) for each in codes]), strict=True):
        if known is not None:  # a class weighs as a variable does, whatever its frequency
            mean[at - len(known) : at], deviation[at - len(known) : at] = 0.0, np.sqrt(0.5)
    deviation = np.where(deviation > 0, deviation, 1.0)
    standard = (features - mean) / deviation
    if len(np.unique(standard, axis=0)) < count:
        raise UserError(f"--n_strata {count}: the covariates have fewer different values")
    kmeans = KMeans(count, n_init=5, random_state=seed).fit(standard, sample_weight=sample.km2)
    centres = kmeans.cluster_centers_
    nearest = CompactStrata(centres[_ranks(centres)], np.zeros(count))
    return lambda cells: nearest.assign((encoded(cells.values) - mean) / deviation)


def compact_strata(population: Population, sample: Cells, count: int, seed: int) -> Assign:
    """Return compact strata of nearly equal area."""
    found = CompactStrata.fit(population.places(sample.row, sample.col), sample.km2, count, seed)
    order = _ranks(found.centres)
    strata = CompactStrata(found.centres[order], found.offsets[order])
    return lambda cells: strata.assign(population.places(cells.row, cells.col))


def error_strata(sample: Cells, count: int) -> Assign:
    """Return strata by the size of a map's errors, bounds by the cumulative root of frequency."""
    bounds = cum_root_frequency(sample.error, sample.km2, count)
    return lambda cells: np.searchsorted(bounds, cells.error, side="right")


def given_strata(population: Population, layer: Layer, left_out: Sequence[str] = ()) -> tuple[Assign, list[str]]:
    """Return strata of a raster but those that are left out, and their names."""
    stack = population._open.enter_context(Stack([layer], population.grid, resampling="nearest"))

    def read(cells: Cells) -> np.ndarray:
        if not len(cells.row):
            return np.empty(0)
        top, left = int(cells.row.min()), int(cells.col.min())
        window = stack.read(top, left, int(cells.row.max()) - top + 1, int(cells.col.max()) - left + 1)[0]
        return window[cells.row - top, cells.col - left]

    found: set[float] = set()
    for _, cells in population.tiles("strata"):
        codes = read(cells)
        found |= set(np.unique(codes[np.isfinite(codes)]).tolist())
        if len(found) > _MOST_STRATA:
            raise UserError(f"{layer.path}: has more than {_MOST_STRATA} values; a raster of strata holds their numbers")
    if unknown := next((name for name in left_out if name not in {f"{code:g}" for code in found}), None):
        raise UserError(f"{layer.path}: no cell of the area has the stratum {unknown!r} (--not_sampled)")
    found -= {code for code in found if f"{code:g}" in left_out}
    if not found:
        raise UserError(f"{layer.path}: no cell of the area has a stratum")
    known = np.array(sorted(found))
    if (wrong := (known < 1) | (known > np.iinfo(np.uint16).max) | (known != np.round(known))).any():
        raise UserError(
            f"{layer.path}: strata are whole numbers from 1 to 65535, not {known[wrong][0]:g} (--nodata leaves one out)"
        )

    def assign(cells: Cells) -> np.ndarray:
        codes = read(cells)
        at = np.searchsorted(known, codes).clip(0, len(known) - 1)
        return np.where(known[at] == codes, at, -1)

    return assign, [f"{code:g}" for code in known]


def _ranks(centres: np.ndarray) -> np.ndarray:
    """Return the order (H,) of centres along their first principal component."""
    centred = centres - centres.mean(axis=0)
    axis = np.linalg.svd(centred, full_matrices=False)[2][0]
    return np.argsort(centred @ axis * np.sign(axis[np.abs(axis).argmax()]), kind="stable")


@dataclass(frozen=True)
class Strata:
    """Strata of a population."""

    names: list[str]  # their numbers in the raster, as text
    cells: np.ndarray  # cells, km2: (H,) how many cells, and their area
    km2: np.ndarray
    spread: np.ndarray  # (H,) root of the mean squared error that the map predicts in each; NaN where there is no such map


def write_strata(path: Path, population: Population, assign: Assign, names: Sequence[str] = ()) -> Strata:
    """Write the raster of strata, numbered from 1 or by their names, and return the strata that have cells."""
    numbers = np.array([int(name) for name in names] if names else range(1, _MOST_STRATA + 1))
    sums = np.zeros((3, len(numbers)))
    grid = population.grid
    shape = {"height": grid.height, "width": grid.width, "crs": grid.crs, "transform": grid.transform}
    coding = {"dtype": "uint16", "nodata": 0, "count": 1, "compress": "deflate", "bigtiff": "IF_SAFER"}
    blocks = {"tiled": True, "blockxsize": 256, "blockysize": 256}
    with named_errors(path), rasterio.open(path, "w", driver="GTiff", **shape, **coding, **blocks) as raster:
        for tile, cells in population.tiles("strata of the cells"):
            label = assign(cells)
            known = label >= 0
            label, row, col, km2 = label[known], cells.row[known] - tile.row, cells.col[known] - tile.col, cells.km2[known]
            for total, weight in zip(sums, (np.ones(len(km2)), km2, km2 * cells.error[known] ** 2), strict=True):
                total += np.bincount(label, weight, len(numbers))
            out = np.zeros((tile.height, tile.width), np.uint16)
            out[row, col] = numbers[label]
            raster.write(out, 1, window=rasterio.windows.Window(tile.col, tile.row, tile.width, tile.height))
        raster.descriptions = ("stratum",)
    count, km2, squares = sums[:, sums[0] > 0]
    spread = np.sqrt(squares / km2) if population.errors else np.full(len(km2), np.nan)
    return Strata([str(each) for each in numbers[sums[0] > 0]], count.astype(np.int64), km2, spread)


# --- points ----------------------------------------------------------------------------------------------------------------


def draw(path: Path, grid: Grid, strata: Strata, counts: np.ndarray, reserve: int, seed: int) -> pd.DataFrame:
    """Draw points at random in each stratum of a raster, every place with the same probability; so are their places in the cells.

    `counts` (H,) are of each stratum, `reserve` further points of each, to be used in their order. Columns: row, col (of the grid,
    with fractions), stratum, order, reserve, inclusion_probability (of the cell), weight (km2 that a point stands for),
    stratum_size (km2). UserError if a stratum has fewer cells than points are to be drawn.
    """
    wanted = counts + reserve
    if (few := wanted > strata.cells).any():
        k = int(few.argmax())
        raise UserError(
            f"stratum {strata.names[k]} has {strata.cells[k]} cells, and {wanted[k]} points are to be drawn; take fewer points, "
            "strata or reserve points, or a finer raster (--like)"
        )
    table = pd.DataFrame({"stratum": np.empty(0, np.int64), "row": [], "col": [], "key": [], "probability": []})
    codes = np.array([int(name) for name in strata.names])
    with named_errors(path), rasterio.open(path) as raster:
        for tile in progress(grid.tiles(_TILE), "points", grid.tile_count(_TILE)):
            stratum = raster.read(1, window=rasterio.windows.Window(tile.col, tile.row, tile.width, tile.height))
            row, col = np.nonzero(stratum)
            if not len(row):
                continue
            label = np.searchsorted(codes, stratum[row, col])
            area = np.broadcast_to(cell_areas(grid, tile), stratum.shape)[row, col]
            probability = np.minimum(counts[label] * area / strata.km2[label], 1.0)
            random = np.random.default_rng([seed, 1, tile.number])
            key = order_keys(probability, random)
            found = {
                "stratum": label,
                "row": row + tile.row + _within(random, len(row)),
                "col": col + tile.col + _within(random, len(row)),
            }
            part = pd.DataFrame(found | {"key": key, "probability": probability})
            rank = part.groupby("stratum")["key"].rank(method="first")
            part = part[rank.to_numpy() <= wanted[label]]
            table = pd.concat([table, part], ignore_index=True) if len(table) else part.reset_index(drop=True)
            rank = table.groupby("stratum")["key"].rank(method="first").to_numpy()
            table = table[rank <= wanted[table["stratum"].to_numpy()]].reset_index(drop=True)
    table = table.sort_values(["stratum", "key"], kind="stable").reset_index(drop=True)
    label = table["stratum"].to_numpy()
    order = table.groupby("stratum").cumcount().to_numpy() + 1
    weight, size = _shortened(strata.km2 / counts), _shortened(strata.km2)
    return pd.DataFrame(
        {
            "row": table["row"], "col": table["col"], "stratum": [strata.names[k] for k in label], "order": order,
            "reserve": (order > counts[label]).astype(int), "inclusion_probability": _shortened(table["probability"]),
            "weight": weight[label], "stratum_size": size[label],
        }
    )  # fmt: skip


def _shortened(values: Sequence[float] | np.ndarray | pd.Series) -> np.ndarray:
    """Return numbers with eight significant digits."""
    return np.array([float(f"{value:.8g}") for value in values])


def _within(random: np.random.Generator, count: int) -> np.ndarray:
    """Return places in cells (count,), 0 to 1."""
    return np.asarray(_EDGE + (1 - 2 * _EDGE) * random.random(count))


def chosen_points(cells: Cells, chosen: np.ndarray) -> pd.DataFrame:
    """Return row and col of the middles of chosen cells; there is no inclusion probability."""
    order = np.arange(1, len(chosen) + 1)
    return pd.DataFrame({"row": cells.row[chosen] + 0.5, "col": cells.col[chosen] + 0.5, "order": order})


def points_table(points: pd.DataFrame, grid: Grid, design: str) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Return the table that is written, main points (p1 ...) before reserve points (r1 ...), and x and y in the grid's CRS."""
    if "reserve" in points:
        points = points.sort_values("reserve", kind="stable").reset_index(drop=True)
    spare = points["reserve"].to_numpy() == 1 if "reserve" in points else np.zeros(len(points), bool)
    width = len(str(len(points)))
    number = np.where(spare, np.cumsum(spare), np.cumsum(~spare))
    names = [f"{'r' if each else 'p'}{k:0{width}d}" for each, k in zip(spare, number, strict=True)]
    row, col = points["row"].to_numpy(), points["col"].to_numpy()
    lon, lat = lonlat(grid, row, col)
    place = {"profile_id": names, "lon": lon.round(7), "lat": lat.round(7)}
    table = pd.concat([pd.DataFrame(place), points.drop(columns=["row", "col"])], axis=1).assign(design=design)
    return table, *grid.coordinates(row, col)
