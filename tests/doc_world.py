"""The files that the pages of docs/ name, tiny: a region whose soil carbon follows its covariates, tables, models and maps."""

import shutil
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import xarray as xr
from conftest import PUBLISHED_WEIGHTS, make_dataset
from rasterio.transform import Affine
from rasterio.warp import transform
from shapely.geometry import box

from soilcarbon.__main__ import dispatch
from soilcarbon.geo.raster import write_geotiff

ROOT = Path(__file__).resolve().parents[1]
CRS, WEST, NORTH, CELL, HEIGHT, WIDTH = "EPSG:32632", 540_000.0, 5_620_000.0, 2500.0, 60, 64
DEGREES = Affine(0.025, 0, 9.5, 0, -0.025, 51.0)
"""Of the rasters that servers and models have: 9.5 to 12 E, 49 to 51 N."""
Y, X = np.mgrid[0:HEIGHT, 0:WIDTH] / 20


def covariates(y: np.ndarray = Y, x: np.ndarray = X) -> dict[str, np.ndarray]:
    """Return variable -> (H, W), and `soc` (g/kg), which follows them."""
    rough = np.random.default_rng(20).normal(size=(4, *y.shape))
    wave = np.sin(2.1 * y + x) + np.cos(1.7 * x - 0.6 * y)
    found = {"elevation": 500 + 150 * wave + 15 * rough[0], "slope": np.abs(6 + 3 * np.sin(3 * x) + rough[1])}
    found["bio01"] = 9.5 - 0.006 * (found["elevation"] - 500) + 0.1 * rough[2]
    found["bio04"] = 640 + 40 * np.cos(y) + 3 * rough[1]
    found["bio12"] = 450 + 80 * np.sin(1.3 * x + y) + 8 * rough[3]
    found["npp"] = 0.5 + 0.1 * np.cos(2.5 * y) + 0.02 * rough[2]
    found["lithology"] = 1.0 + (np.sin(4 * x) > 0) + 2 * (np.cos(5 * y) > 0)
    found["glim"] = found["lithology"] + 4
    found["biome"] = 7.0 + (y > 1.5)
    found["soc"] = np.exp(3 + 0.3 * wave + 0.003 * (found["bio12"] - 450) + 0.2 * (found["lithology"] == 2))
    return found


def write_raster(path: str, *names: str, of: np.ndarray, transform: Affine | None = None, dtype: str = "float32") -> None:
    """Write one or several bands, by default on the grid of the region."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    grid = transform or Affine(CELL, 0, WEST, 0, -CELL, NORTH)
    bands = of if of.ndim == 3 else of[None]
    write_geotiff(Path(path), bands.astype(dtype), list(names) or [Path(path).stem], grid, "EPSG:4326" if transform else CRS)


def write_rasters() -> None:
    """Write covariates, masks, strata, borders, and the maps and models of others."""
    world = covariates()
    groups = {"climate": ("bio01", "bio04", "bio12"), "relief": ("elevation", "slope"), "plants": ("npp",)}
    for name, variables in groups.items():
        write_raster(f"covariates/{name}.tif", *variables, of=np.stack([world[each] for each in variables]))
    for name in ("lithology", "glim", "biome"):
        write_raster(f"covariates/{name}.tif", of=world[name], dtype="uint8")
    for name in ("climate", "relief"):
        write_raster(f"world/{name}.tif", *groups[name], of=np.stack([world[each] for each in groups[name]]))
    write_raster("local/radar.tif", of=world["npp"] + 0.1 * world["slope"])
    write_raster("land.tif", of=np.where(Y < 2.5, 1, 0), dtype="uint8")
    write_raster("soils.tif", of=np.where(X > 2.8, 99, 1 + (X > 1.2)), dtype="uint8")
    write_raster("strata.tif", of=1 + (X > 1.2) + 2 * (Y > 1.5), dtype="uint8")
    write_raster("dem.tif", "elevation", of=world["elevation"])
    write_raster("covariates/static/climate.tif", *groups["climate"], of=np.stack([world[each] for each in groups["climate"]]))
    for first in (2000, 2005, 2010):
        soc = world["soc"] + 0.5 * (first - 2000)
        bands = np.stack([8000 + 0 * soc, 10_000 - 40 * soc, 12_000 + 100 * soc, 11_000 + 10 * X])
        write_raster(f"landsat/{first}-{first + 4}.tif", "blue", "red", "nir", "swir1", of=bands, dtype="uint16")
    density = world["soc"] * 3.9  # t/ha of 0-30 cm
    for name in ("soilgrids_ocs.tif", "ocs_0-30cm_mean.tif", "GSOCmap1.5.0.tif"):
        write_raster(name, "ocs", of=1.1 * density)
    write_raster("SoilGrids.tif", "soc", of=1.1 * world["soc"])
    east, south, middle = WEST + WIDTH * CELL, NORTH - HEIGHT * CELL, WEST + WIDTH * CELL / 2
    halves = [box(WEST, south, middle, NORTH), box(middle, south, east, NORTH)]
    counties = geopandas.GeoDataFrame({"name": ["west", "east"]}, geometry=halves, crs=CRS)
    for name in ("counties.gpkg", "provinces.gpkg"):
        counties.to_file(name)
    counties[:1].to_file("farm.gpkg")
    y, x = np.mgrid[0:80, 0:100] / 30
    served = covariates(y, x)
    write_raster("served/climate.tif", "bio01", "bio12", of=np.stack([served["bio01"], served["bio12"]]), transform=DEGREES)
    lat, lon = 49.05 + 0.1 * np.arange(20), 9.55 + 0.1 * np.arange(25)
    carbon = 4 + np.exp(0.2 * covariates(y[::4, ::4], x[::4, ::4])["bio01"])
    for path, name in (("cSoil_Emon_MODEL.nc", "cSoil"), ("cSoil_Emon_MODEL-A_historical.nc", "cSoil"), ("model_b.nc", "soilc")):
        field = xr.Dataset({name: (("lat", "lon"), carbon, {"units": "kg m-2"})}, {"lat": lat, "lon": lon})
        field["lat"].attrs, field["lon"].attrs = {"units": "degrees_north"}, {"units": "degrees_east"}
        field.to_netcdf(path)


def places(n: int, seed: int = 0) -> pd.DataFrame:
    """Return n places at random: profile_id, lon, lat, soc (g/kg, measured with noise), and the place on the grid."""
    random = np.random.default_rng(seed)
    x, y = random.uniform(WEST, WEST + WIDTH * CELL, n), random.uniform(NORTH - HEIGHT * CELL, NORTH, n)
    lon, lat = transform(CRS, "EPSG:4326", x, y)
    row, column = ((NORTH - y) / CELL).astype(int), ((x - WEST) / CELL).astype(int)
    soc = (covariates()["soc"][row, column] * np.exp(random.normal(0, 0.1, n))).round(2)
    names = [f"p{seed}{k:03d}" for k in range(n)]
    return pd.DataFrame({"profile_id": names, "lon": np.round(lon, 5), "lat": np.round(lat, 5), "soc": soc, "x": x, "y": y})


def horizons(points: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return three layers of each place, in which carbon falls with depth, with bulk density and a year."""
    random, parts = np.random.default_rng(seed), []
    for top, bottom, share in ((0, 15, 1.2), (15, 40, 0.8), (40, 100, 0.4)):
        more = {"top": top, "bottom": bottom, "soc": (points["soc"] * share).round(2)}
        parts.append(points.assign(**more, bulk_density=random.normal(1.3, 0.05, len(points)).round(3), stones=5))
    found = pd.concat(parts).sort_values(["profile_id", "top"])
    return found.assign(year=2000 + found["profile_id"].str[2:].astype(int) % 15)


def write_tables() -> None:
    """Write profiles, horizons, cores of two visits, and points of a probability sample."""
    profiles, keys = places(120), ["profile_id", "lon", "lat"]
    profiles.rename(columns={"soc": "soc_gkg"})[[*keys, "soc_gkg"]].to_csv("profiles.csv", index=False)
    shutil.copy("profiles.csv", "my_profiles.csv")
    places(20, 1)[keys].to_csv("places.csv", index=False)
    layers = horizons(profiles)
    columns = {"lon": "longitude", "lat": "latitude", "top": "upper_depth", "bottom": "lower_depth", "soc": "value_avg"}
    wosis = horizons(places(160, 2)).rename(columns=columns)[["profile_id", *columns.values()]]
    wosis.assign(licence="CC-BY").to_csv("wosis_202312_orgc.tsv", sep="\t", index=False)
    layers = layers[[*keys, "year", "top", "bottom", "soc", "bulk_density", "stones"]]
    layers.to_csv("horizons.csv", index=False)
    percent = layers.assign(soc=layers["soc"] / 10, bulk_density=layers["bulk_density"] * 1000)
    percent.to_csv("old_survey.csv", index=False)

    random, cores = np.random.default_rng(3), []
    for year, more in ((2010, 1.0), (2020, 1.04)):
        for top, bottom, share in ((0, 15, 1.2), (15, 30, 0.8), (30, 45, 0.6)):
            core = profiles[:24].assign(year=year, top=top, bottom=bottom, soc=profiles["soc"][:24] * share * more)
            core["soc"] *= np.exp(random.normal(0, 0.02, 24))
            cores.append(core.assign(bulk_density=1.3 * (1.02 if year == 2020 else 1), stones=0))
    cores = pd.concat(cores).round({"soc": 2, "bulk_density": 3})
    number = cores["profile_id"].str[2:].astype(int)
    cores["treatment"], cores["zone"] = np.where(number % 2, "T1", "T2"), np.where(number < 12, "hill", "plain")
    cores.drop(columns=["x", "y"]).to_csv("layers.csv", index=False)
    names = {"Plot": number // 2, "Point": number % 2, "Campaign": cores["year"], "Block": number // 8}
    plots = cores.assign(**names)[[*names, "top", "bottom", "soc", "bulk_density"]]
    plots.drop(columns="bulk_density").to_csv("soc.csv", index=False)
    plots[plots["top"] < 30].drop(columns="soc").assign(bottom=lambda t: t["bottom"] + 15 * (t["top"] == 15)).to_csv(
        "bd.csv", index=False
    )
    old = profiles[:40].assign(year=1990, soc_gkg=profiles["soc"][:40])
    new = old.assign(year=2015, soc_gkg=(old["soc"] * random.normal(1.05, 0.05, 40)).round(2), lon=old["lon"] + 0.0001)
    new["profile_id"] = "new" + new["profile_id"]
    pd.concat([old, new])[[*keys, "year", "soc_gkg"]].to_csv("resampled.csv", index=False)

    sample = places(60, 4)
    sample["stratum"] = 1 + (sample["x"] > WEST + 24 * CELL) + 2 * (sample["y"] < NORTH - 30 * CELL)
    for name in ("socd_0_20", "socd_0_30"):
        sample[name] = (sample["soc"] * (0.39 if name.endswith("30") else 0.28)).round(3)
    sample["dsocd"] = random.normal(0.2, 0.1, len(sample)).round(3)
    sample.drop(columns=["x", "y"]).to_csv("sample.csv", index=False)
    sample[[*keys, "socd_0_20"]].to_csv("new.csv", index=False)
    probability = {"inclusion_probability": 0.01, "weight": 400.0, "stratum_size": 6000.0}
    sample[[*keys, "stratum", "soc"]].assign(**probability).to_csv("points.csv", index=False)
    pd.DataFrame({"stratum": [1, 2, 3, 4, 99], "area_km2": [4500, 7500, 4500, 7500, 100]}).to_csv("strata.csv", index=False)


def write_sources() -> None:
    """Write what docs/data-sources.md downloads."""
    world = covariates()
    for name, values in (("elevation", world["elevation"]), ("slope", world["slope"]), ("bedrock", world["lithology"])):
        write_raster(f"rasters/{name}.tif", of=values)
    reflectance = np.stack([0.1 * world["npp"] + 0.01 * k for k in range(7)])
    write_raster("rasters/reflectance.tif", *(f"b{k}" for k in range(7)), of=reflectance)
    for name in ("gmted/10N010E_20101117_gmted_mea075", "slope/n45e000"):
        write_raster(f"{name}.tif", of=world["slope" if name.startswith("slope") else "elevation"])
    lines = "\n".join(" ".join(str(1 + (row + column) % 4) for column in range(8)) for row in range(6))
    head = "ncols 8\nnrows 6\nxllcorner 9\nyllcorner 48.5\ncellsize 0.5\nNODATA_value -9999\n"
    Path("glim_wgs84_0point5deg.txt.asc").write_text(f"{head}{lines}\n", encoding="ascii")
    halves = [box(9, 48, 10.5, 52), box(10.5, 48, 13, 52)]
    geopandas.GeoDataFrame({"code": [1, 3]}, geometry=halves, crs="EPSG:4326").to_file("glim_wgs84.gpkg")
    for k in range(1, 20):
        write_raster(f"wc2.1_30s_bio_{k}.tif", "", of=world["bio01"] + k)
    for k in range(23):
        write_raster(f"evi/{k:02d}.tif", "evi", of=3000 + 1000 * world["npp"] + 10 * k, dtype="int16")


def write_published_layout() -> None:
    """Write a dataset in the folders of the published code, and its weights where they are there."""
    source, folder = make_dataset(Path("published")), Path("DL_inputs/regional/anhui")
    shutil.copytree(source / "patches", folder)
    for name, target in (("samples.csv", "df_soc_0to30.csv"), ("stats.csv", "df_var_stats.csv")):
        (folder / "samples").mkdir(exist_ok=True)
        shutil.copy(source / name, folder / "samples" / target)
    shutil.copytree(source / "split", folder / "samples" / "data_split")
    if PUBLISHED_WEIGHTS.is_file():
        Path("model/pretrain_model").mkdir(parents=True, exist_ok=True)
        shutil.copy(PUBLISHED_WEIGHTS, "model/pretrain_model/published.pth")


def quiet(line: str) -> None:
    """Run a command of soilcarbon."""
    dispatch(line.split())


def make_models() -> None:
    """Make what the pages take for made: datasets, a network of the world, models, maps of content and of density."""
    tables = {"mine": "profiles.csv --target soc_gkg", "world": "wosis_202312_orgc.tsv --target value_avg"}
    for name, table in tables.items():
        quiet(f"prepare --points {table} --rasters covariates/ --split blocks --out data/{name}")
    short = "--epochs 2 --no-tensorboard --workers 1"
    for name in ("world", "GSoilCPM"):
        quiet(f"train --data_dir data/world --run {name} --members 2 --target_transform log1p {short}")
    quiet(f"finetune --data_dir data/mine --run mine --init_from model/pretrain_model/world.pth {short}")
    quiet("fit --data_dir data/mine --candidates mean ridge --workers 1")
    quiet("map --checkpoint model/mine.npz --rasters covariates/ --out results/mine/soc.tif --workers 1")
    shutil.copytree("data/mine", "data/agency")
    quiet("densities --horizons horizons.csv --depths 0 30 100 --out data/densities.csv")
    table = pd.read_csv("data/densities.csv")
    table["socd_30_100"] = table["socd_0_100"] - table["socd_0_30"]
    table.to_csv("data/by_layer.csv", index=False)
    for name, folder in (("socd_0_30", "a"), ("socd_30_100", "b")):
        quiet(f"prepare --points data/by_layer.csv --target {name} --rasters covariates/ --split blocks --out data/{name}")
        quiet(f"fit --data_dir data/{name} --candidates mean ridge --workers 1")
        quiet(f"map --checkpoint model/{name}.npz --rasters covariates/ --out results/{folder}/{name}.tif --workers 1")
    quiet("covariates --bands landsat/ --scale landsat_collection_2 --out covariates/periodic")
    quiet("covariates --dem dem.tif --out covariates/static/terrain.tif")
    quiet("densities --horizons horizons.csv --depths 0 20 100 --out data/mine/densities.csv")
    few = "--trees 5 --search_trees 3 --best 2 --candidates 1 --workers 1 --folds 2 --inner_folds 2 --block_size 0.3"
    quiet(
        "zones --samples data/mine/densities.csv --rasters covariates/static --periods covariates/periodic "
        f"--precipitation bio12 --temperature bio01 {few}"
    )
    shutil.rmtree("results/zoned")  # a second run of the name would ask
    quiet("simulate --profiles 600 --cell 2")
    for region in ("anhui", "denmark"):
        start = f"--init_from none --members 2 {short}"
        quiet(f"finetune --data_dir data/sim/{region} --run {region} {start}")
        quiet(f"predict --data_dir data/sim/{region} --run {region}")
    quiet("map --checkpoint model/socd_0_30.npz --rasters covariates/ --out results/mine/socd_0_30.tif --workers 1")


def make_inputs() -> None:
    """Make the input files in the working directory."""
    write_rasters()
    write_tables()
    write_sources()
    write_published_layout()
    Path("few.yaml").write_text("methods: [mean, ridge]\n", encoding="utf-8")
