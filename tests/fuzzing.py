"""Seeded fuzzer of everything that reads a user's file: small valid files, changed at random, are given to their readers.

    python tests/fuzzing.py FOLDER --kinds patches samples --count 1000 --seed 0
    python tests/fuzzing.py FOLDER --kinds patches --first 123 --count 1    one case again

Each case must end within seconds and little memory: with a result, or with a UserError. The process prints a line of JSON for every
case that does not, and the last line is `{"done": CASES}`. It is run as a process of its own, since a library may crash or hang.
"""

import argparse
import contextlib
import copy
import faulthandler
import io
import json
import logging
import pickle
import random
import re
import resource
import sqlite3
import sys
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

SECONDS = 20
MEGABYTES = 1500
"""That one case may add to the peak of the resident set."""
ADDRESS_SPACE = 8 << 30
IDS = [f"P{k:03d}" for k in range(12)]
VARIABLES = ("elevation", "slope")
TOKENS = [
    *(
        "1e400",
        "-1e308",
        "nan",
        "inf",
        "-inf",
        "0",
        "-0",
        "1" + "0" * 400,
        "9" * 25,
        "1e-320",
        "1,5",
        "<10",
        "40%",
        "1_000",
        "0x10",
    ),
    *('"', "'", "\n", "\r", "\0", "\t", ";", ",", "\ufeff", "\ud7ff", "é", "=1+1", "../../x", "/etc/passwd", "a" * 3000),
    *("[" * 500, "{" * 500, "{}", "[]", "null", "true", "&a", "*a", "<<", "!!python/name:os.system", "---", "- ", ": ", "{{x}}"),
    *(
        "type",
        "Polygon",
        "Point",
        "FeatureCollection",
        "Feature",
        "coordinates",
        "<!DOCTYPE a>",
        "http://127.0.0.1:9/x",
        "EPSG:4326",
    ),
]
SETTINGS = """data_dir: data
checkpoint: x.pth
rasters: [x.tif]
epochs: 3
categories:
- {name: a, variables: [b, c], radius: 1}
lr: 1.0e-3
"""
NUMBERS = [b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80\0\0\0", b"\0\0\0\x80", b"\1\0\0\0", b"\0\0\0\1"]
NUMBERS += [b"\0\0\x01\0", b"\0\0\xc0\x7f", b"\x7f\xc0\0\0", b"\0\0\x80\x7f", b"\0" * 8, b"\xff" * 8, b"\xff" * 7 + b"\x7f"]


# --- small valid files ---------------------------------------------------------------------------------------------------


def samples() -> str:
    rows = [f"{name},{5 + k / 2},{45 + k / 3:.3f},{10 + k},{2000 + k}" for k, name in enumerate(IDS)]
    return "\n".join(["profile_id,lon,lat,soc,year", *rows]) + "\n"


def horizons() -> str:
    rows = [
        f"{name}\t{5 + k / 2}\t{45 + k / 3:.3f}\t{top}\t{top + 10}\t{30 - top}\t1.{k:02d}"
        for k, name in enumerate(IDS)
        for top in (0, 10)
    ]
    return "\n".join(["profile_id\tlon\tlat\ttop\tbottom\tsoc\tbulk_density", *rows]) + "\n"


def geojson(kind: str) -> str:
    features = []
    for k, name in enumerate(IDS):
        x, y = 5 + k / 2, 45 + k / 3
        ring = [[x, y], [x + 0.4, y], [x + 0.4, y + 0.3], [x, y]]
        place = {"type": "Point", "coordinates": [x, y]} if kind == "points" else {"type": "Polygon", "coordinates": [ring]}
        features.append({"type": "Feature", "properties": {"profile_id": name, "name": name, "soc": 10.0 + k}, "geometry": place})
    return json.dumps({"type": "FeatureCollection", "features": features})


def kml() -> str:
    ring = "5,45 6,45 6,46 5,45"
    shape = f"<Polygon><outerBoundaryIs><LinearRing><coordinates>{ring}</coordinates></LinearRing></outerBoundaryIs></Polygon>"
    marks = "".join(f"<Placemark><name>{name}</name>{shape}</Placemark>" for name in IDS[:3])
    return f'<?xml version="1.0"?><kml xmlns="http://www.opengis.net/kml/2.2"><Document>{marks}</Document></kml>'


def zones(path: Path) -> None:
    import geopandas

    geopandas.read_file(io.StringIO(geojson("zones"))).to_file(path)


def categories():
    from soilcarbon.categories import Category

    return (Category(name="relief", variables=VARIABLES, radius=1),)


def dataset(folder: Path) -> None:
    import pandas as pd

    from soilcarbon.soil.dataset import write_dataset

    random_ = np.random.default_rng(0)
    patches = {name: random_.normal(5, 2, (len(IDS), 3, 3)).astype(np.float32) for name in VARIABLES}
    split = np.array(["train", "valid", "test"])[np.arange(len(IDS)) % 3]
    write_dataset(
        folder,
        pd.read_csv(io.StringIO(samples())),
        patches,
        split,
        categories(),
        {"split": {"method": "blocks", "block_size": 0.5}},
    )


def checkpoint(path: Path) -> None:
    from soilcarbon.network.checkpoint import save_checkpoint
    from soilcarbon.network.network import SoilCarbonNet
    from soilcarbon.network.specification import Specification

    facts = Specification(categories=categories(), statistics=dict.fromkeys(VARIABLES, (5.0, 2.0)), bounds=(0.0, 100.0))
    save_checkpoint(SoilCarbonNet(facts), path)


def state(path: Path) -> None:
    import torch

    from soilcarbon.network.checkpoint import save_state
    from soilcarbon.training.loop import Best

    best = {each.name: 2 for each in fields(Best)} | {"weights": {"a": torch.ones(3, 3)}}
    save_state(path, {"fingerprint": {"seed": 1}, "best": best, "epoch": 3, "random": torch.get_rng_state()})


def zonal_model(path: Path) -> None:
    from simulated import ZONED_QUICK, zoned_world

    from soilcarbon.zonal.climate_zones import ClimateZones
    from soilcarbon.zonal.forest import SelectedForest, ZonedForest
    from soilcarbon.zonal.persistence import ZonedModel, save_zoned

    profiles = zoned_world(150)
    forest = ZonedForest(ClimateZones(), (0, 1), SelectedForest(**ZONED_QUICK | {"best": 2}), min_profiles=1000)
    forest.fit(profiles.x, profiles.y, profiles.groups, 0)
    save_zoned(ZonedModel(forest, "socd_0_20", "kg/m2", ("map", "mat", "a", "b", "noise", "year"), record={"seed": 0}), path)


def geotiff(path: Path, **options: object) -> None:
    import rasterio
    from rasterio.transform import from_origin

    form = {"driver": "GTiff", "height": 40, "width": 50, "count": 2, "dtype": "float32", "nodata": -9999, "crs": "EPSG:4326"}
    with rasterio.open(path, "w", transform=from_origin(5, 50, 0.1, 0.1), **(form | options)) as raster:
        raster.write(np.random.default_rng(0).normal(5, 2, (2, 40, 50)).astype(np.float32))
        raster.descriptions = VARIABLES


def netcdf(path: Path, form: str) -> None:
    import netCDF4

    with netCDF4.Dataset(path, "w", format=form) as data:
        data.createDimension("time", None)
        for name, values in (("lat", np.linspace(40, 50, 8)), ("lon", np.linspace(5, 15, 9))):
            data.createDimension(name, len(values))
            data.createVariable(name, "f8", (name,))[:] = values
            data[name].units = {"lat": "degrees_north", "lon": "degrees_east"}[name]
        data.createVariable("cSoil", "f4", ("time", "lat", "lon"), fill_value=1e20)[:] = np.full((3, 8, 9), 8.0)
        data["cSoil"].units = "kg m-2"


# --- readers -------------------------------------------------------------------------------------------------------------


def read_samples(path: Path) -> None:
    from soilcarbon.soil.dataset import read_samples

    read_samples(path, "soc")


def read_points(path: Path) -> None:
    from soilcarbon.io.points import read_points

    table = read_points(path)
    table.ids()
    table.places()
    table.years()
    table.check_measurement("soc", "--target")
    table.numbers("soc")


def read_settings(path: Path) -> None:
    from soilcarbon.commands.arguments import read_settings
    from soilcarbon.commands.map import MapSettings
    from soilcarbon.settings import RegionalSettings

    for kind in (RegionalSettings, MapSettings):
        read_settings(kind, "", ["--config", str(path)])


def read_dataset(path: Path) -> None:
    from soilcarbon.soil.dataset import read_dataset, read_statistics

    folder = path.parent if path.parent.name == "data" else path.parents[1]
    data = read_dataset(folder)
    read_statistics(folder / "stats.csv", data.categories)
    assert data.blocks is None or len(data.blocks) == len(data.ids)


def read_checkpoint(path: Path) -> None:
    from soilcarbon.io.files import write_yaml
    from soilcarbon.network.checkpoint import load_checkpoint
    from soilcarbon.network.network import predict

    network = load_checkpoint(path)
    network.get_extra_state()
    write_yaml(path.with_suffix(".yaml"), network.specification.model_dump(mode="json"))
    predict(network, np.zeros((3, sum(each.width for each in network.specification.categories)), np.float32))


def read_resume_state(path: Path) -> None:
    from soilcarbon.training.ensemble import RunFiles

    RunFiles(path.parent, {"seed": 1}, True, False).read(path, "cpu")


def read_zonal_model(path: Path) -> None:
    from soilcarbon.zonal.persistence import load_zoned, save_zoned

    model = load_zoned(path)
    model.forest.predict(np.full((4, len(model.variables)), 5.0))
    save_zoned(model, path.with_name("again.npz"))


def read_raster(path: Path) -> None:
    from soilcarbon.geo.grid import raster_grid
    from soilcarbon.geo.raster import cut_windows, describe, find_layers
    from soilcarbon.geo.resampling import Stack

    layers = find_layers([path])[:50]
    describe(layers)
    cut_windows(layers, np.linspace(4.9, 10.1, 50), np.linspace(45.9, 50.1, 50), 1)
    grid = raster_grid(path)
    with Stack(layers, grid) as stack:
        stack.read(0, 0, min(grid.height, 64), min(grid.width, 64))


def read_field(path: Path) -> None:
    from soilcarbon.geo.field import read_field

    field = read_field(path, unit=None)
    field.at(np.linspace(5, 15, 20), np.linspace(40, 50, 20))


def read_areas(path: Path) -> None:
    from soilcarbon.geo.grid import Grid
    from soilcarbon.geo.vector import read_areas
    from soilcarbon.geo.zonal_statistics import zone_masks

    areas, _ = read_areas(path, "EPSG:3035")
    grid = Grid("EPSG:3035", 3_900_000, 2_600_000, (20_000, 20_000), 50, 50)
    zone_masks(areas, grid, grid.tile(0, 50))


Make = Callable[[Path], object]
KINDS: dict[str, tuple[str, Make, Callable[[Path], None]]] = {
    "samples": ("samples.csv", lambda path: path.write_text(samples()), read_samples),
    "horizons": ("horizons.tsv", lambda path: path.write_text(horizons()), read_points),
    "points": ("points.geojson", lambda path: path.write_text(geojson("points")), read_points),
    "settings": ("x.yaml", lambda path: path.write_text(SETTINGS), read_settings),
    "dataset": ("data/dataset.yaml", lambda path: dataset(path.parent), read_dataset),
    "split": ("data/split/train.csv", lambda path: dataset(path.parents[1]), lambda path: read_dataset(path.parent)),
    "patches": ("data/patches/slope.pkl", lambda path: dataset(path.parents[1]), read_dataset),
    "checkpoint": ("x.pth", checkpoint, read_checkpoint),
    "resume": ("resume.pth", state, read_resume_state),
    "zonal": ("x.npz", zonal_model, read_zonal_model),
    "geotiff": ("x.tif", geotiff, read_raster),
    "tiles": (
        "x.tif",
        lambda path: geotiff(path, tiled=True, blockxsize=16, blockysize=16, compress="deflate", BIGTIFF="YES"),
        read_raster,
    ),
    "classic": ("x.nc", lambda path: netcdf(path, "NETCDF3_CLASSIC"), read_field),
    "hdf5": ("x.nc", lambda path: netcdf(path, "NETCDF4"), read_field),
    "geopackage": ("x.gpkg", zones, read_areas),
    "shapefile": ("x.shp", zones, read_areas),
    "zones": ("x.geojson", lambda path: path.write_text(geojson("zones")), read_areas),
    "flatgeobuf": ("x.fgb", zones, read_areas),
    "kml": ("x.kml", lambda path: path.write_text(kml()), read_areas),
}
TEXT = {".csv", ".tsv", ".geojson", ".yaml", ".kml"}


# --- changes -------------------------------------------------------------------------------------------------------------


def change_bytes(content: bytes, dice: random.Random) -> bytes:
    """Change one to eight places: bytes, numbers, parts cut, repeated, swapped, and what stands in the first bytes more often."""
    data = bytearray(content)
    for _ in range(dice.choice((1, 1, 1, 2, 4, 8))):
        if not data:
            break
        reach = dice.choice((len(data), len(data), min(len(data), 512)))
        at, end = dice.randrange(reach), min(len(data), dice.randrange(reach) + dice.choice((1, 4, 40)))
        kind = dice.randrange(7)
        if kind == 0:
            data[at] = dice.randrange(256)
        elif kind == 1:
            data[at] ^= 1 << dice.randrange(8)
        elif kind == 2:
            number = dice.choice(NUMBERS)
            data[at : at + len(number)] = number
        elif kind == 3:
            del data[at : dice.choice((len(data), at + 1, at + 4, at + 100))]
        elif kind == 4:
            data[at:at] = data[min(at, end) : max(at, end)][:5000] * dice.choice((1, 1, 20))
        elif kind == 5:
            data[at:at] = bytes(dice.randrange(256) for _ in range(dice.choice((1, 4, 16))))
        else:
            data[at : at + 8] = data[end : end + 8]
    return bytes(data)


def change_text(content: bytes, dice: random.Random) -> bytes:
    """Put nasty words in the place of words, between them, or change bytes."""
    if dice.random() < 0.3:
        return change_bytes(content, dice)
    words = re.split(r"([^\W_]+(?:\.\d+)?|\W)", content.decode(errors="replace"))
    for _ in range(dice.choice((1, 1, 2, 5))):
        at = dice.randrange(len(words))
        words[at] = dice.choice((dice.choice(TOKENS), words[at] + dice.choice(TOKENS), dice.choice(words), ""))
    return "".join(words).encode(errors="surrogatepass")


VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    7,
    1e308,
    -1e308,
    1e-320,
    float("nan"),
    float("inf"),
    10**30,
    -(2**63),
    "",
    "x" * 3000,
    "../../x",
]
VALUES += ["\x1b[2J\n\n\n", "nan", b"\xff", [], {}, [[]], {"a": None}, [0] * 2000, ["a", "a"], {"type": "Point"}, "\ud800"]


def places_in(value: Any) -> list[tuple[Any, Any]]:
    """Return (container, key) of all values in plain containers."""
    pairs = list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    return [place for key, each in pairs for place in ((value, key), *places_in(each))]


def change_tree(value: Any, dice: random.Random) -> None:
    """Put other values in one or more places of plain containers, remove one, or repeat one many times."""
    for _ in range(dice.choice((1, 1, 2, 3))):
        places = places_in(value)
        if not places:
            return
        container, key = dice.choice(places)
        kind = dice.randrange(6)
        if kind < 3:
            container[key] = copy.deepcopy(dice.choice(VALUES))
        elif kind == 3:
            other, there = dice.choice(places)
            container[key] = copy.deepcopy(other[there])
        elif kind == 4:
            del container[key]
        elif isinstance(container, dict):
            container[dice.choice(("a", "", "x" * 3000, "../x"))] = copy.deepcopy(container[key])
        else:
            container *= dice.choice((2, 100))


def as_tree(path: Path, content: bytes, dice: random.Random) -> bytes | None:
    """Change a file by the values that it holds, as a program would that writes it; None for formats that are no containers."""
    import torch
    import yaml

    if path.suffix == ".geojson":
        tree = json.loads(content)
        change_tree(tree, dice)
        return json.dumps(tree, default=str).encode()
    if path.suffix == ".yaml":
        tree = yaml.safe_load(content)
        change_tree(tree, dice)
        return yaml.dump(tree).encode(errors="replace")
    if path.suffix == ".npz":
        with np.load(io.BytesIO(content)) as file:
            arrays = dict(file)
        tree = json.loads(arrays["metadata"].tobytes())
        change_tree(tree, dice)
        arrays["metadata"] = np.frombuffer(json.dumps(tree, default=str).encode(), np.uint8)
        if dice.random() < 0.3:
            name = dice.choice([name for name in arrays if name != "metadata"])
            arrays[name] = dice.choice(
                (arrays[name][:-1], -arrays[name].astype("i4"), arrays[name].astype("f8") * 1e300, arrays[name][None])
            )
        out = io.BytesIO()
        np.savez(out, **arrays)
        return out.getvalue()
    if path.suffix == ".pth":
        tree = torch.load(io.BytesIO(content), weights_only=True)
        change_tree(tree if dice.random() < 0.3 else tree.get("_extra_state", tree), dice)
        out = io.BytesIO()
        torch.save(tree, out)
        return out.getvalue()
    if path.suffix == ".pkl":
        tree = pickle.loads(content)
        if dice.random() < 0.5:
            change_tree(tree, dice)
        else:
            key, forms = dice.choice(list(tree)), (object, ">f8", "i1", "U3", "?", "c16", "M8[D]", "V4")
            with contextlib.suppress(TypeError, ValueError):
                tree[key] = dice.choice(
                    (tree[key].astype(dice.choice(forms)), tree[key][:1], tree[key] * np.float32(3e38), tree[key].T)
                )
        return pickle.dumps(tree, protocol=dice.randrange(6))
    return None


def change_archive(content: bytes, dice: random.Random) -> bytes:
    """Change a record of an archive, and write it with right checksums; or the archive as bytes."""
    if dice.random() < 0.2:
        return change_bytes(content, dice)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(out, "w") as again:
        names = archive.namelist()
        chosen = dice.choice([name for name in names if "data.pkl" in name or "metadata" in name or "_" in name] or names)
        for name in names:
            record = archive.read(name)
            if name == chosen or dice.random() < 0.05:
                text = record.lstrip()[:1] in (b"{", b"[") or b'{"' in record[:200]
                start = 128 if name.endswith(".npy") and dice.random() < 0.8 else 0  # behind NumPy's header
                record = record[:start] + (change_text if text and start else change_bytes)(record[start:], dice)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                again.writestr(name, record)
                if dice.random() < 0.01:
                    again.writestr(name, record)
    return out.getvalue()


def change_database(content: bytes, dice: random.Random, path: Path) -> bytes:
    """Change a GeoPackage by a statement, or as bytes."""
    if dice.random() < 0.6:
        return change_bytes(content, dice)
    number, word = (
        dice.choice(("1e308", "-1", "NULL", "9223372036854775807", "'x'")),
        dice.choice(("''", "NULL", "'x'", "zeroblob(99)")),
    )
    statement = dice.choice(
        [
            f"UPDATE gpkg_ogr_contents SET feature_count = {number}",
            f"UPDATE gpkg_geometry_columns SET srs_id = {number}",
            f"UPDATE gpkg_geometry_columns SET geometry_type_name = {word}, z = {number}",
            f"UPDATE gpkg_spatial_ref_sys SET definition = {word}, organization_coordsys_id = {number}",
            f"UPDATE gpkg_contents SET min_x = {number}, data_type = {word}",
            f"UPDATE gpkg_contents SET table_name = {word}",
            "DROP TABLE gpkg_contents",
            "DROP TABLE gpkg_geometry_columns",
            "DELETE FROM gpkg_spatial_ref_sys",
        ]
    )
    path.write_bytes(content)
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute(statement)
    return path.read_bytes()


def changed(path: Path, content: bytes, dice: random.Random) -> bytes:
    """Return the content of a file, changed."""
    if dice.random() < 0.6 and (tree := as_tree(path, content, dice)) is not None:
        return tree
    if path.suffix in (".pth", ".npz"):
        return change_archive(content, dice)
    if path.suffix == ".gpkg":
        return change_database(content, dice, path)
    return (change_text if path.suffix in TEXT else change_bytes)(content, dice)


# --- cases ---------------------------------------------------------------------------------------------------------------


def causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        yield error
        error = error.__cause__ or error.__context__


def resident() -> float:
    """Return the peak of the resident set so far, megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def one(kind: str, folder: Path, k: int, seed: int, whole: bytes) -> str | None:
    """Run a case; return what is wrong with its end."""
    from soilcarbon.io.files import UserError

    name, _, read = KINDS[kind]
    path = folder / name
    path.write_bytes(changed(path, whole, random.Random(f"{seed} {kind} {k}")))
    before = resident()
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    try:
        read(path)
    except (UserError, OSError) as error:
        if any(isinstance(each, MemoryError) for each in causes(error)):
            return f"asks for more memory than there is: {error}"
        if isinstance(error, UserError) and str(error).count("\n") > 3:
            return f"a message of many lines: {error}"
    except BaseException:
        return traceback.format_exc(limit=-6)
    finally:
        faulthandler.cancel_dump_traceback_later()
    return f"takes {resident() - before:,.0f} MB" if resident() - before > MEGABYTES else None


def faults(kind: str, folder: Path, numbers: range, seed: int) -> Iterator[dict[str, object]]:
    """Run cases of a kind in a folder of their own, and yield what is wrong with the ends of any."""
    name, make, read = KINDS[kind]
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    make(folder / name)
    read(folder / name)
    whole = (folder / name).read_bytes()
    for k in numbers:
        print(json.dumps({"case": [kind, k]}), file=sys.stderr, flush=True)  # the last one, if this process dies
        if fault := one(kind, folder, k, seed, whole):
            yield {"kind": kind, "case": k, "fault": fault}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS))
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    logging.disable()
    warnings.simplefilter("ignore")
    for kind in options.kinds:
        for fault in faults(kind, options.folder / kind, range(options.first, options.first + options.count), options.seed):
            print(json.dumps(fault), flush=True)
    print(json.dumps({"done": len(options.kinds) * options.count}), flush=True)


if __name__ == "__main__":
    main()
