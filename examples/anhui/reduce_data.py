"""Make the files in data/ from the source files of the data set.

    python examples/anhui/reduce_data.py FOLDER

FOLDER holds points.csv, cov_topography_climate.tif (200 m) and geology_strata.tif (90 m), made from grdXuancheng, sampleXuancheng
and Geo_Xuancheng.tif of the R package sswr (D. J. Brus, CC BY 4.0). Kept are the columns that the tutorial uses and five of seven
covariates, rounded to what they can mean; the strata are cut to the cells that have covariates, which are the part of the area
that can be mapped. Of the probability sample soc_gkg is 0.58 times som_gkg.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import rasterio
from rasterio.warp import Resampling, reproject

DATA = Path(__file__).with_name("data")
STEP = {"dem": 1, "slope": 0.1, "twi": 0.1, "temperature": 0.01, "precipitation": 1}
"""Variable -> step that it is rounded to."""
UNITS = {"dem": "m", "slope": "degree", "twi": "1", "temperature": "degree Celsius", "precipitation": "mm"}
ATTRIBUTION = "D. J. Brus, R package sswr (grdXuancheng, Geo_Xuancheng), CC BY 4.0; reduced"
NODATA = -9999
CARBON = 0.58
"""Share of organic matter that is carbon (van Bemmelen)."""


def write_covariates(source: Path) -> None:
    """Write the five covariates as integers with a scale."""
    with rasterio.open(source) as raster:
        bands = [raster.descriptions.index(name) + 1 for name in STEP]
        values = raster.read(bands)
        profile = {
            "driver": "GTiff",
            "crs": raster.crs,
            "transform": raster.transform,
            "width": raster.width,
            "height": raster.height,
        }
        missing = (values == raster.nodata).any(axis=0)
    steps = np.array(list(STEP.values()))[:, None, None]
    stored = np.where(missing, NODATA, np.round(values / steps)).astype("int16")
    profile |= {
        "count": len(STEP),
        "dtype": "int16",
        "nodata": NODATA,
        "compress": "deflate",
        "zlevel": 9,
        "predictor": 2,
        "interleave": "band",
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
    }
    with rasterio.open(DATA / "covariates.tif", "w", **profile) as raster:
        raster.write(stored)
        raster.descriptions = tuple(STEP)
        raster.scales = tuple(STEP.values())
        raster.units = tuple(UNITS.values())
        raster.update_tags(SOURCE=ATTRIBUTION)


def write_strata(source: Path) -> None:
    """Write the strata (1-8) where there are covariates; 0 elsewhere."""
    with rasterio.open(source) as raster, rasterio.open(DATA / "covariates.tif") as covariates:
        strata, profile = raster.read(1), raster.profile
        mapped = np.zeros(strata.shape, "uint8")
        reproject(
            (covariates.read(1) != NODATA).astype("uint8"),
            mapped,
            src_transform=covariates.transform,
            src_crs=covariates.crs,
            dst_transform=raster.transform,
            dst_crs=raster.crs,
            resampling=Resampling.nearest,
        )
    strata[(mapped == 0) | (strata == 99)] = 0
    with rasterio.open(DATA / "strata.tif", "w", **profile) as raster:
        raster.write(strata, 1)
        raster.descriptions = ("stratum",)
        raster.update_tags(SOURCE=ATTRIBUTION)


def write_points(source: Path) -> None:
    """Write the profiles to train on (grid and iPSM) and the probability sample (STSI)."""
    points = pd.read_csv(source).round({"lon": 6, "lat": 6, "som_gkg": 2})
    drawn = points["sample"] == "STSI"
    points[~drawn][["profile_id", "lon", "lat", "som_gkg", "sample"]].to_csv(DATA / "profiles.csv", index=False)
    sample = points[drawn].astype({"stratum": int}).assign(soc_gkg=(points["som_gkg"] * CARBON).round(2))
    sample[["profile_id", "lon", "lat", "som_gkg", "soc_gkg", "stratum"]].to_csv(DATA / "probability_sample.csv", index=False)


if __name__ == "__main__":
    DATA.mkdir(exist_ok=True)
    folder = Path(sys.argv[1])
    write_covariates(folder / "cov_topography_climate.tif")
    write_strata(folder / "geology_strata.tif")
    write_points(folder / "points.csv")
