"""The example world's outlines: coasts, mountain ranges, currents and monsoons, drawn by hand at their real places.

In: nothing. Out: `Geography`: at any longitude and latitude the distance to the sea, the dryness of winds that have come over land,
and the height of mountain ranges. Accurate to about one degree; `world` adds the detail.
"""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

STEP = 0.25  # cell of the fixed grid that outlines are drawn on, degrees; the outline is the same for any raster
KM_PER_DEGREE = 111.2
LAND_REACH, SEA_REACH = 1800.0, 700.0  # kilometres over land, and over sea, in which air loses, or regains, 63 % of its moisture


@cache
def outlines() -> dict[str, Any]:
    """Return the tables of geography.yaml: lands, inland_seas, ranges, currents, monsoons and surveys."""
    content: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    return content


def bumps(table: str, lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """Return the sum of a table's Gaussian bumps at points (M,): currents (degrees C), monsoons (mm a year), surveys (relative).

    >>> bumps("monsoons", np.array([86.0]), np.array([23.0])).round().tolist()  # Bengal
    [936.0]
    """
    total = np.zeros(len(lon))
    for centre_lon, centre_lat, width, height, amount in outlines()[table]:
        east = (lon - centre_lon + 180) % 360 - 180
        total += amount * np.exp(-((east / width) ** 2) - ((lat - centre_lat) / height) ** 2)
    return total


def _drawn() -> np.ndarray:
    """Return the land mask on the fixed grid, (H, W) bool, north up, from 180 W."""
    from rasterio.features import rasterize
    from rasterio.transform import Affine

    def drawn(name: str) -> np.ndarray:
        shapes = [{"type": "Polygon", "coordinates": [[*outline, outline[0]]]} for outline in outlines()[name].values()]
        shape = (round(180 / STEP), round(360 / STEP))
        return np.asarray(rasterize(shapes, shape, transform=Affine(STEP, 0, -180, 0, -STEP, 90), dtype="uint8")).astype(bool)

    return drawn("lands") & ~drawn("inland_seas")


def _to_coast(land: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """Return the distance to the coast in km, (H, W), negative at sea."""
    from scipy.ndimage import distance_transform_edt

    margin = land.shape[1] // 6  # across the antimeridian
    wrapped = np.concatenate([land[:, -margin:], land, land[:, :margin]], axis=1)
    cells = distance_transform_edt(wrapped) - distance_transform_edt(~wrapped)
    narrowing = 0.3 + 0.7 * np.cos(np.radians(lat))[:, None]  # cells are narrower, not lower, towards the poles
    return np.asarray(cells[:, margin:-margin] * STEP * KM_PER_DEGREE * narrowing)


def _dried(land: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """Return the dryness of westerly air, (H, W): 0 at the coast, approaching 1 far inland."""
    width = STEP * KM_PER_DEGREE * np.maximum(np.cos(np.radians(lat)), 0.05)
    kept_land, kept_sea = np.exp(-width / LAND_REACH), np.exp(-width / SEA_REACH)
    dry, dryness = np.zeros(len(lat)), np.zeros(land.shape)
    for column in [*range(land.shape[1])] * 2:  # the second lap begins with what the first ended with
        dry = np.where(land[:, column], 1 - (1 - dry) * kept_land, dry * kept_sea)
        dryness[:, column] = dry
    return dryness


def _heights(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """Return the smooth heights of mountain ranges, m, (H, W)."""
    height = np.zeros((len(lat), len(lon)))
    for mountains in outlines()["ranges"].values():
        lons, lats = np.array(mountains["crest"], float).T
        width, top = mountains["half_width"], mountains["height"]
        shrink = np.cos(np.radians(lats.mean()))
        reach = 2.5 * width
        rows = np.flatnonzero((lat > lats.min() - reach) & (lat < lats.max() + reach))
        columns = np.flatnonzero((lon > lons.min() - reach / shrink) & (lon < lons.max() + reach / shrink))
        x, y = lon[columns][None, :] * shrink, lat[rows][:, None]
        nearest = np.full((len(rows), len(columns)), np.inf)
        for x0, y0, x1, y1 in zip(lons[:-1] * shrink, lats[:-1], lons[1:] * shrink, lats[1:], strict=True):
            along = ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / max((x1 - x0) ** 2 + (y1 - y0) ** 2, 1e-9)
            along = np.clip(along, 0, 1)
            nearest = np.minimum(nearest, (x - x0 - along * (x1 - x0)) ** 2 + (y - y0 - along * (y1 - y0)) ** 2)
        height[np.ix_(rows, columns)] += top * np.exp(-nearest / width**2)
    return height


class Geography:
    """Coasts, winds and mountain ranges as smooth functions of longitude and latitude."""

    # to_coast in km, negative at sea; dry_west, dry_east: share of moisture that air from there has lost; range_height in m
    NAMES = ("to_coast", "dry_west", "dry_east", "range_height")

    def __init__(self) -> None:
        from scipy.ndimage import gaussian_filter

        lon, lat = np.arange(-180 + STEP / 2, 180, STEP), np.arange(90 - STEP / 2, -90, -STEP)
        land = _drawn()
        dried = (_dried(land, lat), _dried(land[:, ::-1], lat)[:, ::-1])
        blurred = [gaussian_filter(dry, (2 / STEP, 1 / STEP), mode=("nearest", "wrap")) for dry in dried]  # winds mix
        grids = np.stack([_to_coast(land, lat), *blurred, _heights(lon, lat)])
        self._grids = np.concatenate([grids[..., -1:], grids, grids[..., :1]], axis=-1)

    def at(self, lon: np.ndarray, lat: np.ndarray) -> dict[str, np.ndarray]:
        """Return name -> (M,) of `NAMES` at points (M,) in degrees, interpolated bilinearly."""
        from scipy.ndimage import map_coordinates

        row = (90 - np.asarray(lat, float)) / STEP - 0.5
        column = ((np.asarray(lon, float) + 180) % 360) / STEP + 0.5
        return {
            name: map_coordinates(grid, [row, column], order=1, mode="nearest")
            for name, grid in zip(self.NAMES, self._grids, strict=True)
        }
