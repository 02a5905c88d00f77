"""Maps of soil carbon on one grid, the coarser of two, by area-weighted means.

In: files of any CRS, cell size and extent, in any of `geo.field.UNITS`. Out: `Shared`, two maps on the common grid.

    with Cells(product) as ours, Cells(other) as theirs:
        shared = on_common_grid(ours, theirs, covered=0.5)

A coarser cell takes the mean of the finer map's cells in it, each weighted by the true area it has there: what the finer map
has on the whole is preserved, unlike by interpolation. Both are read in parts; only the common grid is in memory.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.warp import reproject

from soilcarbon.geo.crs import bounds_in, transformed
from soilcarbon.geo.field import check_values, read_field
from soilcarbon.geo.grid import Grid, Tile, crop_to_area
from soilcarbon.geo.raster import find_layers, open_raster
from soilcarbon.geo.resampling import Stack
from soilcarbon.geo.zonal_statistics import cell_areas
from soilcarbon.io.files import UserError
from soilcarbon.io.names import file_name
from soilcarbon.mapping.carbon_map import MEDIANS, CarbonMap
from soilcarbon.progress import progress

_PREDICTION = "prediction"
"""The band of our maps that counts."""
_TILE = 512
_MOST_ACROSS = 64
"""Fine cells along a coarse one from twice which on they are added up first."""
_LATTICE = 33
"""Places along each side of a tile at which it is looked for on the common grid."""
_MOST_CELLS = 50_000_000
"""Of the common grid: three maps of it are in memory."""
_HAIR = 1e-6
"""Of a cell."""


class Cells:
    """The cells of a map of soil carbon, in kg/m2 or g/kg (`unit`); UserError if it cannot be read, or its unit is not known.

    `depth` and `years` are as given, or as a map made here says ("0-30cm", "2010-2014"), else "", and `medians` whether it
    says that its values are such. `metres` is the width of a cell.
    """

    def __init__(self, product: CarbonMap) -> None:
        self._product, variable = product, product.variable
        self.name, self.path = product.name, product.path
        netcdf = product.path.suffix.lower() in (".nc", ".nc4", ".cdf")
        self.bands: list[str] = []
        tags: dict[str, str] = {}
        self.medians = False
        if not netcdf:
            with open_raster(product.path) as raster:
                tags = raster.tags()
                self.medians = any(raster.tags(k).get("MEANING", "").endswith(MEDIANS) for k in raster.indexes)
            self.bands = [layer.name for layer in find_layers([product.path])]
            if variable is None and _PREDICTION in self.bands:
                variable = _PREDICTION
        self.depth = "".join((product.depth or tags.get("DEPTH", "")).split())[:40]
        self.years = tags.get("YEARS", "")[:40]
        self._field = read_field(product.path, variable, product.unit, product.nodata)
        self.unit, self.grid, self.metres = self._field.unit, self._field.as_grid(), self._field.metres
        self._stack = None if self._field.layer is None else Stack([self._field.layer], self.grid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._stack is not None:
            self._stack.close()

    def read(self, row: int, col: int, height: int, width: int) -> np.ndarray:
        """Return a window (h, w) float64 of its grid, missing = NaN; UserError if values are negative or more than soil holds."""
        if self._stack is not None:
            return self._converted(self._stack.read(row, col, height, width)[0])
        assert self._field.values is not None
        return self._converted(self._field.values[row : row + height, col : col + width])

    def at(self, lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
        """Return the value (n,) of the cell that each place (degrees) lies in; NaN where missing or outside."""
        return self._converted(self._field.stored_at(lon, lat))

    def _converted(self, read: np.ndarray) -> np.ndarray:
        values, p = read.astype(np.float64), self._product
        with np.errstate(over="ignore"):  # infinite values are refused
            values = (values * p.factor + p.offset) * self._field.factor
        check_values(p.path, f"{self._field.variable} (see unit, factor and nodata)", values, self.unit)
        return values


@dataclass(frozen=True)
class Shared:
    """Two maps on one grid, (h, w) float64 each, missing = NaN."""

    grid: Grid
    first: np.ndarray
    second: np.ndarray
    km2: np.ndarray  # (h, w) true areas of the cells

    @property
    def both(self) -> np.ndarray:
        """Where both have values, (h, w) bool."""
        return np.asarray(np.isfinite(self.first) & np.isfinite(self.second))


def on_common_grid(first: Cells, second: Cells, covered: float) -> Shared:
    """Bring two maps to the grid of the one with the larger cells (of equal ones, the first), where they share ground.

    `covered` is the share of a coarser cell's area that must have values. UserError if units are of different things, they share no
    ground or no cell with values, or the grid would be too large.
    """
    if first.unit != second.unit:
        raise UserError(
            f"{first.name} is in {first.unit}, {second.name} in {second.unit}: a content is not a density; see soilcarbon densities"
        )
    coarse, fine = (second, first) if second.metres > first.metres * (1 + _HAIR) else (first, second)
    try:
        grid = crop_to_area(coarse.grid, bounds_in(fine.grid.bounds, fine.grid.crs, coarse.grid.crs), fine.path)
        part = crop_to_area(fine.grid, bounds_in(grid.bounds, grid.crs, fine.grid.crs), coarse.path)
    except UserError as error:
        raise UserError(f"{first.name} ({first.path}) and {second.name} ({second.path}) share no ground") from error
    if grid.height * grid.width > _MOST_CELLS:
        raise UserError(
            f"{first.name} and {second.name} share {grid.height:,} x {grid.width:,} cells, too many to hold; average one first "
            "(gdalwarp -r average -tr), or crop it"
        )
    whole = Tile(0, 0, 0, grid.height, grid.width)
    km2 = np.broadcast_to(cell_areas(grid, whole), (grid.height, grid.width))
    large = coarse.read(*_offset(coarse.grid, grid), grid.height, grid.width)
    small = _averaged(fine, part, grid, covered)
    shared = Shared(grid, *((small, large) if fine is first else (large, small)), km2)
    if not shared.both.any():
        raise UserError(f"{first.name} and {second.name} share ground, but no cell in which both have a value")
    return shared


def _offset(grid: Grid, part: Grid) -> tuple[int, int]:
    """Return row and column of a part's upper left cell in its grid."""
    return round((grid.y - part.y) / grid.cell[1]), round((part.x - grid.x) / grid.cell[0])


def _averaged(fine: Cells, part: Grid, grid: Grid, covered: float) -> np.ndarray:
    """Return area-weighted means (h, w) over a coarser grid's cells; NaN where too small a share has values.

    GDAL's warper gives each fine cell the share of it that lies in a coarse one. (A coarse cell that stands askew in the fine
    grid takes those of its bounding box.)
    """
    top, left = _offset(fine.grid, part)
    if part == grid:
        return fine.read(top, left, part.height, part.width)
    sums = np.zeros((3, grid.height, grid.width))  # over a coarse cell: of value times area, area, and share with values
    tiles = progress(part.tiles(_TILE), fine.name, part.tile_count(_TILE))
    for tile in tiles:
        values = fine.read(top + tile.row, left + tile.col, tile.height, tile.width)
        known = np.isfinite(values)
        area = np.broadcast_to(cell_areas(part, tile), values.shape) * known
        bands = np.stack([np.where(known, values, 0) * area, area, known])
        for turn in (-360.0, 0.0, 360.0) if part.geographic and grid.geographic else (0.0,):
            place = Affine.translation(turn, 0) @ part.transform @ Affine.translation(tile.col, tile.row)
            rows, cols, ratio = _touched(part.crs, place, tile, grid)
            if rows.start < rows.stop and cols.start < cols.stop:
                # Blocks of cells are added up where they are very many, and zeros laid round the tile: then a mean over a whole
                # coarse cell is the sum of what its tiles give.
                block = max(1, int(ratio / _MOST_ACROSS))
                edge = [(0, -size % block) for size in values.shape]
                joined = np.pad(bands, [(0, 0), *edge]).reshape(3, -(-tile.height // block), block, -(-tile.width // block), block)
                pad = int(2 * ratio / block) + 2
                around = np.pad(joined.sum((2, 4)) / block**2, [(0, 0), (pad, pad), (pad, pad)])
                found = np.zeros((3, rows.stop - rows.start, cols.stop - cols.start))
                reproject(
                    around, found, src_transform=place @ Affine.scale(block) @ Affine.translation(-pad, -pad), src_crs=part.crs,
                    dst_transform=grid.transform @ Affine.translation(cols.start, rows.start), dst_crs=grid.crs,
                    resampling=Resampling.average,
                )  # fmt: skip
                sums[:, rows, cols] += found
    total, area, share = sums
    enough = share >= covered * (1 - 1e-3)  # areas of two projections differ in their last digits
    return np.where(enough & (area > 0), total / np.where(area > 0, area, 1), np.nan)


def _touched(crs: str, place: Affine, tile: Tile, grid: Grid) -> tuple[slice, slice, float]:
    """Return rows and columns of a grid that hold a tile of another one, and the tile's cells along one of the grid's."""
    col, row = np.meshgrid(np.linspace(0, tile.width, _LATTICE), np.linspace(0, tile.height, _LATTICE))
    x, y = transformed(crs, grid.crs, *(np.asarray(each) for each in place @ (col.ravel(), row.ravel())))
    found, spans = [], []
    for at, size in (((grid.y - y) / grid.cell[1], grid.height), ((x - grid.x) / grid.cell[0], grid.width)):
        at = at[np.isfinite(at)]
        if not len(at):
            return slice(0), slice(0), 1.0
        more = 2 + 2 * np.ptp(at) / _LATTICE
        found.append(slice(int(np.clip(at.min() - more, 0, size)), int(np.clip(at.max() + more, 0, size))))
        spans.append(float(np.ptp(at)))
    return found[0], found[1], max(1.0, math.sqrt(tile.height * tile.width / max(spans[0] * spans[1], 1e-9)))


def interval_at(product: CarbonMap, lon: np.ndarray, lat: np.ndarray, bands: Sequence[str]) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the bounds (n,) of a map's own prediction intervals at places; None without bands "lower" and "upper"."""
    if not {"lower", "upper"} <= set(bands):
        return None
    found = []
    for name in ("lower", "upper"):
        with Cells(product.model_copy(update={"variable": name})) as cells:
            found.append(cells.at(lon, lat))
    return found[0], found[1]


def check_names(maps: Sequence[CarbonMap], references: Sequence[CarbonMap], points: Path | None, out: Path) -> None:
    """Raise UserError if files of two maps or pairs would have one name, or an input would be overwritten."""
    products = [*maps, *references]
    singles = [each.name for each in products]
    pairs = [pair_name(ours.name, theirs.name) for ours in maps for theirs in references]
    for names in (singles, pairs):  # a-b with c, and a with b-c
        files = [file_name(name).casefold() for name in names]
        if double := next((name for k, name in enumerate(names) if files[k] in files[:k]), None):
            raise UserError(f"{double!r} would name the same files as another map; give NAME=FILE with another name")
    inputs = [*(each.path for each in products), *([points] if points else [])]
    if inside := next((path for path in inputs if path.resolve().parent == out.resolve()), None):
        raise UserError(f"{inside}: lies in the folder of results, where files are overwritten; give another --out")


def pair_name(first: str, second: str) -> str:
    """Return the part of a file's name that names a pair of maps.

    Examples
    --------
    >>> pair_name("mine", "SoilGrids")
    'mine-SoilGrids'
    >>> pair_name("my map", "GSOC/1.5") == pair_name("my map", "GSOC_1.5")
    False
    """
    return file_name(f"{first}-{second}")
