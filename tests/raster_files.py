"""GeoTIFFs for tests, cell by cell as they are given."""

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.transform import Affine


def write_raster(
    path: Path,
    values: Any,
    west: float = 0.0,
    north: float = 10.0,
    cell: float = 1.0,
    crs: str | None = "EPSG:4326",
    *,
    transform: Affine | None = None,
    scale: tuple[float, float] | None = None,
    **profile: Any,
) -> Path:
    """Write bands (B, H, W), or one (H, W), of their own type; `scale` is factor and offset.

    `names`, `units`, `colours` (code -> red, green, blue, alpha) and `mask` are of the bands, what else is given is rasterio's.
    """
    values = np.asarray(values)
    values = values[None] if values.ndim == 2 else values
    names, units, colours, mask = (profile.pop(name, None) for name in ("names", "units", "colours", "mask"))
    profile |= {"count": len(values), "height": values.shape[1], "width": values.shape[2], "dtype": values.dtype, "crs": crs}
    place = transform or Affine(cell, 0, west, 0, -cell, north)
    with rasterio.open(path, "w", driver="GTiff", transform=place, **profile) as raster:
        raster.write(values)
        if scale:
            raster.scales, raster.offsets = [scale[0]] * len(values), [scale[1]] * len(values)
        raster.descriptions, raster.units = names or raster.descriptions, units or raster.units
        if mask is not None:
            raster.write_mask(mask)
        if colours:
            raster.write_colormap(1, colours)
    return path
