"""Sampling of the simulated world: values on a grid, and profiles located as in soil surveys.

In: a world that has values at any point. Out: its covariates and truth on a grid, and places drawn on it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from soilcarbon.geo.grid import Grid
from soilcarbon.io.files import UserError, read_yaml

if TYPE_CHECKING:
    from soilcarbon.simulation.world import World


def grid_over(bounds: tuple[float, float, float, float], cell: float) -> Grid:
    """Return the grid of whole cells within lon_min, lat_min, lon_max, lat_max, degrees, from the upper left corner.

    >>> grid = grid_over((10, 50, 12, 51), cell=0.5)
    >>> grid.height, grid.width, centres(grid)[0].tolist()
    (2, 4, [10.25, 10.75, 11.25, 11.75])
    """
    west, south, east, north = bounds
    rows, columns = (max(1, int(extent / cell + 1e-6)) for extent in (north - south, east - west))
    return Grid("EPSG:4326", west, north, (cell, cell), rows, columns)


def centres(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Return the longitudes (W,) and latitudes (H,) of the cells' centres."""
    lon, _ = grid.coordinates(np.zeros(grid.width), np.arange(grid.width) + 0.5)
    _, lat = grid.coordinates(np.arange(grid.height) + 0.5, np.zeros(grid.height))
    return lon, lat


def extent(grid: Grid) -> list[float]:
    """Return lon_min, lat_min, lon_max, lat_max, degrees."""
    west, east, south, north = grid.bounds
    return [round(degrees, 6) for degrees in (west, south, east, north)]


@dataclass(frozen=True)
class GriddedWorld:
    """Values on a grid: covariates (B, H, W), true SOC (H, W) with and without regional departures, g/kg."""

    grid: Grid
    covariates: Mapping[str, np.ndarray]
    truth: np.ndarray
    undisturbed: np.ndarray


def rasterize_world(world: "World", grid: Grid) -> GriddedWorld:
    """Rasterise a world: each cell has the values at its centre."""
    lon, lat = centres(grid)
    rows = max(1, 2**18 // grid.width)  # at once
    parts = [
        world.at(*(axis.ravel() for axis in np.meshgrid(lon, lat[begin : begin + rows]))) for begin in range(0, grid.height, rows)
    ]

    def joined(pieces: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(pieces).reshape(grid.height, grid.width)

    covariates = {name: joined([part[0][name] for part in parts]) for name in parts[0][0]}
    return GriddedWorld(grid, covariates, joined([part[1] for part in parts]), joined([part[2] for part in parts]))


def draw_profiles(
    gridded: GriddedWorld,
    effort: np.ndarray,
    count: int,
    spread: float,
    random: np.random.Generator,
    refused: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw N profiles as surveys do, where there is soil: most in clusters of very unequal size, some scattered.

    `effort` (H, W) is the relative density of the survey, `spread` how far, typically, profiles of a cluster lie from its centre,
    degrees; `refused` says which of candidates at lon, lat (M,) may not be taken. Returns lon, lat (N,) in degrees, rounded to
    1e-5, and the true SOC of the cell, g/kg.
    """
    grid, soil = gridded.grid, np.isfinite(gridded.truth)
    side = grid.cell[0]
    _, lats = centres(grid)
    chance = (effort * soil * np.cos(np.radians(lats))[:, None]).ravel()
    cumulative = np.cumsum(chance)

    def places(number: int) -> tuple[np.ndarray, np.ndarray]:
        cell = np.searchsorted(cumulative, random.uniform(0, cumulative[-1], number), side="right")
        row, column = np.divmod(np.minimum(cell, chance.size - 1), grid.width)
        return row + random.uniform(size=number), column + random.uniform(size=number)

    clusters = max(4, count // 20)
    centre = np.stack(places(clusters))
    size = np.exp(0.9 * random.normal(size=clusters))
    wide = spread / side * np.exp(0.5 * random.normal(size=clusters))
    found: list[np.ndarray] = []
    while sum(len(part) for part in found) < count:
        row, column = places(count)
        clustered = random.uniform(size=count) < 0.85
        member = random.choice(clusters, count, p=size / size.sum())
        shift = random.normal(size=(2, count)) * wide[member]
        row = np.where(clustered, centre[0, member] + shift[0], row)
        narrowing = np.cos(np.radians(np.clip(grid.y - row * side, -85, 85)))
        column = np.where(clustered, centre[1, member] + shift[1] / narrowing, column)
        inside = (row >= 0) & (row < grid.height) & (column >= 0) & (column < grid.width)
        row, column = row[inside], column[inside]
        # off the cells' edges, so that rounding moves no profile into the next cell
        in_row, in_column = (np.floor(at) + np.clip(at % 1, 0.01, 0.99) for at in (row, column))
        lon, lat = np.round(grid.x + in_column * side, 5), np.round(grid.y - in_row * side, 5)
        truth = gridded.truth[row.astype(int), column.astype(int)].astype(np.float64)
        taken = np.isfinite(truth) if refused is None else np.isfinite(truth) & ~refused(lon, lat)
        found.append(np.stack([lon, lat, truth], axis=1)[taken])
    lon, lat, truth = np.concatenate(found)[:count].T
    return lon, lat, truth


def check_simulated(*records: Path) -> None:
    """Raise UserError if a folder holds files, and its record (YAML) does not say that they were simulated."""
    for record in records:
        if (
            record.parent.is_dir()
            and any(record.parent.iterdir())
            and not (record.is_file() and read_yaml(record).get("simulated"))
        ):
            raise UserError(f"{record.parent}: holds files that were not simulated, and would be overwritten; choose another --out")
