"""Means of a map over blocks of its cells: a coarser map, with intervals of the error model that serves cells and zones.

In: sums by block (`areal.sums_with_errors`), the bands of tiles. Out: bands of a tile, and the grid and tiles of the coarser map.
A tile's side is a whole number of blocks, so each block lies in one tile, which has its mean in the upper left corner of a band.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from soilcarbon.geo.grid import Grid, Tile
from soilcarbon.geo.zonal_statistics import Estimation, Sums
from soilcarbon.io.files import UserError
from soilcarbon.mapping.areal import CHANGE
from soilcarbon.mapping.cog import Band, Part
from soilcarbon.mapping.plan import Plan

LARGEST = 8192
"""Cells along the side of a block: that of the largest tile."""
_WHOLE = 1e-4
"""Of a cell: blocks are whole numbers of cells, but for the rounding of cells such as 1/120 degree."""


def cells_of_block(wide: float, grid: Grid) -> int:
    """Return how many cells of a grid lie along the side of a block, in the unit of its CRS; UserError if not 1 to `LARGEST`."""
    across, down = (wide / each for each in grid.cell)
    side = round(across)
    if side < 1 or max(abs(across - side), abs(down - side)) > _WHOLE * max(side, 1):
        near = [f"{each * grid.cell[0]:g}" for each in (int(across), int(across) + 1) if each]
        raise UserError(f"aggregate {wide:g} is no whole number of the map's cells of {grid.cell[0]:g}; {' or '.join(near)} is")
    if side > LARGEST:
        raise UserError(f"aggregate {wide:g} is {side:,} cells, at most {LARGEST} can be averaged; give --zones instead")
    return side


def block_grid(grid: Grid, side: int) -> Grid:
    """Return the grid of blocks, counted from a grid's upper left corner; those at the other edges may lie partly beyond it."""
    return Grid(
        grid.crs, grid.x, grid.y, (grid.cell[0] * side, grid.cell[1] * side), -(-grid.height // side), -(-grid.width // side)
    )


def _tile_of_blocks(tile: Tile, side: int) -> Tile:
    return Tile(tile.number, tile.row // side, tile.col // side, -(-tile.height // side), -(-tile.width // side))


def block_parts(parts: Sequence[Part], side: int) -> list[Part]:
    """Return the parts of a grid of blocks from those of the map's grid."""
    return [Part(_tile_of_blocks(part.tile, side), part.path, part.shape) for part in parts]


def block_bands(sums: Mapping[str, Sums], tile: Tile, plan: Plan, how: Estimation) -> np.ndarray:
    """Return mean, lower and upper end and number of cells of each block of a map's tile, (4, h, w) float32, from sums by block."""
    blocks = _tile_of_blocks(tile, plan.aggregate)
    found = np.full((4, blocks.height * blocks.width), np.nan)
    for name, part in sums.items():
        mean = how.mean(part)
        found[:, int(name)] = mean.mean, mean.lower, mean.upper, part.cells
    bands = np.full((4, tile.height, tile.width), np.nan, np.float32)
    bands[:, : blocks.height, : blocks.width] = found.reshape(4, blocks.height, blocks.width)
    return bands


def describe_blocks(title: str, unit: str, plan: Plan, name: str, known: bool) -> list[Band]:
    """Return name, unit and meaning of the bands of `block_bands`; `known`: an error model gives the intervals."""
    what = f"{title} of the last period minus the first" if name == CHANGE and len(plan.periods) > 1 else title
    of = f"of blocks of {plan.aggregate} x {plan.aggregate} cells"
    corrected = ", corrected for the bias of profiles held out" if known else ""
    by = "by the errors that cells share" if known else "between the members' own means"
    meanings = {"mean": f"{what}, mean {of}{corrected}"}
    meanings |= {end: f"{what}, {end} end of the {plan.level:.0%} interval of the mean, {by}" for end in ("lower", "upper")}
    bands = [Band(name, unit, {"MEANING": meaning}) for name, meaning in meanings.items()]
    return [*bands, Band("cells", "", {"MEANING": "cells of the block with a value"})]


def blocks_name(tif: Path) -> Path:
    """Return the name of the map of blocks of a map."""
    return tif.with_stem(f"{tif.stem}_aggregated")
