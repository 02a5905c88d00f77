"""The Earth-system model of the example world, whose faults are known: the model that `drivers` is to diagnose.

In: the world's covariates on a grid. Out: soil carbon as such a model would give it, a NetCDF file like CMIP's `cSoil`: coarse
cells, longitudes from 0 to 360, kg/m2, two times.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import xarray as xr

from soilcarbon.io.files import atomic_write
from soilcarbon.simulation.world import ICE, WATER, Pedogenesis, soil_carbon

FAULTY = Pedogenesis(litter=2.4, q10=4.0, rock=0.0)
"""Decay doubles with every 5 degrees rather than every 9, litter follows vegetation more than squared, and parent material and
texture have no effect: too much temperature, too much productivity, no lithology."""
COARSER = 2  # cells of the world along a side of the model's
_FINE_EARTH = 0.39  # t/m2 of 0-30 cm, by which g/kg become kg/m2
_FILL = np.float32(1e20)
_NEEDED = ("bio01", "bio12", "evi_mean", "evi_min", "slope")


def model_output(covariates: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the model's soil carbon, (H // 2, W // 2) in kg/m2, NaN where there is no soil.

    Covariates are (H, W), missing = NaN; bio01, bio12, evi_mean, evi_min, slope and bedrock are read. The model sees means of 2 x 2
    cells.
    """
    soil = ~np.isin(covariates["bedrock"], [WATER, ICE]) & np.all([np.isfinite(covariates[name]) for name in _NEEDED], axis=0)
    height, width = (size // COARSER * COARSER for size in soil.shape)

    def coarse(values: np.ndarray) -> np.ndarray:
        blocks = values[:height, :width].reshape(height // COARSER, COARSER, width // COARSER, COARSER)
        return np.asarray(blocks.swapaxes(1, 2).reshape(height // COARSER, width // COARSER, -1).astype(np.float64).sum(-1))

    count = coarse(soil)
    means = {name: (coarse(np.where(soil, covariates[name], 0)) / np.maximum(count, 1))[count > 0] for name in _NEEDED}
    flat = np.zeros(int((count > 0).sum()))
    means["bedrock"] = flat + 1  # it has no effect
    found = np.full(count.shape, np.nan)
    found[count > 0] = _FINE_EARTH * soil_carbon(means, flat, flat, FAULTY)
    return found


def write_cmip(path: Path, carbon: np.ndarray, west: float, north: float, cell: float) -> None:
    """Write carbon (H, W), kg/m2, north up, as NetCDF: southern rows first, longitudes from 0 on, the same at two times.

    `west` and `north` are of the upper left corner, `cell` the side of a cell, degrees.
    """
    height, width = carbon.shape
    lat = north - (np.arange(height) + 0.5) * cell
    lon = (west + (np.arange(width) + 0.5) * cell) % 360
    columns = np.argsort(lon)
    values = np.broadcast_to(carbon[::-1, columns].astype(np.float32), (2, height, width))
    axes = {
        "time": ("time", [0.0, 365.0], {"units": "days since 2000-01-01"}),
        "lat": ("lat", lat[::-1], {"units": "degrees_north"}),
        "lon": ("lon", lon[columns], {"units": "degrees_east"}),
    }
    data = xr.Dataset({"cSoil": (("time", "lat", "lon"), values, {"units": "kg m-2"})}, axes)
    filled = {"cSoil": {"_FillValue": _FILL}} | {name: {"_FillValue": None} for name in axes}
    with atomic_write(path) as target:
        target.write(data.to_netcdf(format="NETCDF3_CLASSIC", engine="scipy", encoding=filled))
