"""From profiles and rasters to a dataset: contents, messages and refused input."""

import os
import pickle
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import REALDATA, needs_realdata, slow_but
from prepare_world import CELL, NORTH, WEST, flags, made, profiles, raster, refused, split_of, write_world
from rasterio.transform import Affine

from soilcarbon.categories import PUBLISHED_CATEGORIES, variable_columns
from soilcarbon.commands import predict, prepare, train
from soilcarbon.geo.raster import write_geotiff
from soilcarbon.io.files import UserError, run, sha256
from soilcarbon.soil.dataset import read_dataset
from soilcarbon.soil.places import precision_hint
from soilcarbon.soil.split import FEW_BLOCKS, SplitRule, draw_split


@pytest.fixture
def world(tmp_path):
    return write_world(tmp_path)


# --- what it makes -------------------------------------------------------------------------------------------------


def test_dataset_holds_every_profile_with_the_cells_round_it(world):
    folder, facts = made(world, "--radius", "1")
    given = pd.read_csv(world / "points.csv").set_index("id")
    samples = pd.read_csv(folder / "samples.csv").set_index("profile_id")
    assert list(samples.columns) == ["lon", "lat", "soc", "year"]
    np.testing.assert_allclose(samples["soc"], given.loc[samples.index, "soc_gkg"])
    patches = pickle.loads((folder / "patches" / "lon.pkl").read_bytes())  # ours
    assert set(patches) == set(given.index)
    for name, patch in patches.items():
        column = np.floor((given.loc[name, "longitude"] - WEST) / CELL)
        np.testing.assert_allclose(patch, np.tile(WEST + CELL * (column + np.array([-0.5, 0.5, 1.5])), (3, 1)), rtol=1e-6)
    assert [(c["name"], c["variables"]) for c in facts["categories"]] == [("place", ["lon", "lat"]), ("relief", ["slope"])]


def test_statistics_are_of_the_training_profiles_alone(world):
    folder, _ = made(world)
    data = read_dataset(folder)
    stats = pd.read_csv(folder / "stats.csv").set_index("var_name").loc[["lon", "lat", "slope"]]
    train = data.x[data.split["train"]].astype(float)
    np.testing.assert_allclose(stats[["v_mean", "v_std"]].T, [train.mean(0), train.std(0)], rtol=1e-6)
    assert [len(data.split[name]) for name in ("train", "valid", "test")] == [140, 20, 40]


def test_provenance_is_written_and_blocks_are_held_out_whole(world):
    folder, facts = made(world, "--split", "blocks", "--block_size", "2")
    assert facts["points"]["columns"] == {
        "profile_id": "id",
        "lon": "longitude",
        "lat": "latitude",
        "year": "year",
        "soc": "soc_gkg",
    }
    assert facts["points"]["sha256"] == sha256(world / "points.csv")
    place = facts["rasters"][0]
    assert (place["file"], place["crs"], place["cell_size"]) == ("cov_place.tif", "EPSG:4326", [CELL, CELL])
    assert place["sha256"] == sha256(world / "rasters" / "cov_place.tif")
    assert (facts["split"]["method"], facts["split"]["block_size"]) == ("blocks", 2)
    assert "neighbours share covariates" in facts["split"]["reason"]
    assert (facts["settings"]["seed"], facts["missing_cells"]["slope"], facts["rejected"]) == (314, 0, {})
    samples = pd.read_csv(folder / "samples.csv")
    block = (samples["lon"] + 180) // 2 * 1000 + (samples["lat"] + 90) // 2
    assert samples["profile_id"].map(split_of(folder)).groupby(block).nunique().max() == 1
    assert block.nunique() > 20


def test_same_seed_same_dataset(world):
    first, second, other = (split_of(made(world, "--seed", seed, out=out)[0]) for seed, out in (("1", "a"), ("1", "b"), ("2", "c")))
    assert first == second != other


def test_published_table_is_taken_when_all_its_variables_are_there(tmp_path):
    names = [v for category in PUBLISHED_CATEGORIES for v in category.variables]
    (tmp_path / "rasters").mkdir()
    raster(tmp_path / "rasters" / "all.tif", *names, "rain")
    profiles(tmp_path / "points.csv")
    _, facts = made(tmp_path)
    assert [c["name"] for c in facts["categories"]] == [c.name for c in PUBLISHED_CATEGORIES]
    assert not (tmp_path / "out" / "patches" / "rain.pkl").exists()


def test_categories_of_a_yaml_file_and_their_windows(world):
    table = [{"name": "a", "variables": ["slope"], "radius": 2}, {"name": "b", "variables": ["lon"], "kind": "classes"}]
    (world / "c.yaml").write_text(yaml.safe_dump({"categories": table, "split": "blocks"}))
    folder, facts = made(world, "--config", str(world / "c.yaml"))
    assert facts["split"]["method"] == "blocks"
    shapes = {p.stem: next(iter(pickle.loads(p.read_bytes()).values())).shape for p in (folder / "patches").iterdir()}
    assert shapes == {"slope": (5, 5), "lon": (1, 1)}
    assert pd.read_csv(folder / "stats.csv")["var_name"].tolist() == ["slope"]  # classes have none


def test_what_is_left_out_is_listed(world, caplog):
    raster(world / "rasters" / "cov_place.tif", "lon", "lat", hole=True)
    raster(world / "rasters" / "relief.tif", "slope", hole=True)
    table = profiles(world / "points.csv", 200)
    table["soc_gkg"] = table["soc_gkg"].astype(object)
    table.loc[0, "longitude"] = 35.0  # east of the rasters
    table.loc[1, ["longitude", "latitude"]] = 10.5, 49.5  # in the hole
    table.loc[2, "soc_gkg"] = "n.a."
    table.loc[3, "soc_gkg"] = -5
    table.loc[4, "id"] = "p005"
    table.loc[6, "latitude"] = 95
    table.to_csv(world / "points.csv", index=False)
    with caplog.at_level("INFO"):
        folder, facts = made(world)
    assert facts["rejected"] == {
        "longitude or latitude out of range": 1,
        "soc_gkg missing": 1,
        "soc_gkg negative": 1,
        "duplicate profile_id": 1,
        "outside a raster": 1,
        "nodata in every variable": 1,
    }
    listed = pd.read_csv(folder / "rejected.csv")
    assert dict(zip(listed["profile_id"], listed["reason"], strict=True))["p001"] == "nodata in every variable"
    assert facts["profiles"] == len(pd.read_csv(folder / "samples.csv")) == 194
    assert "1 outside a raster" in caplog.text
    raster(world / "rasters" / "cov_place.tif", "lon", "lat")  # some missing variables are fine, and counted
    _, facts = made(world)
    assert (facts["profiles"], facts["missing_cells"]) == (195, {"lon": 0, "lat": 0, "slope": 1})
    assert int(np.isnan(read_dataset(folder).x).sum()) == 1


def test_horizons_and_wosis(world):
    points = pd.read_csv(world / "points.csv")
    layers = pd.concat([points.assign(upper_depth=0, lower_depth=10), points.assign(upper_depth=10, lower_depth=40, soc_gkg=5.0)])
    layers = layers.rename(columns={"soc_gkg": "value_avg", "id": "profile_id"}).assign(layer_id=range(len(layers)))
    layers.to_csv(world / "wosis_202312_orgc.tsv", sep="\t", index=False)
    folder, facts = made(world, points="wosis_202312_orgc.tsv", target=None)
    samples = pd.read_csv(folder / "samples.csv").set_index("profile_id")
    np.testing.assert_allclose(samples["soc"], (points.set_index("id").loc[samples.index, "soc_gkg"] * 10 + 5 * 20) / 30)
    assert (facts["points"]["columns"]["soc"], facts["points"]["depth_cm"]) == ("value_avg", [0, 30])
    folder, facts = made(world, "--depth", "0", "10", points="wosis_202312_orgc.tsv", target="value_avg")
    samples = pd.read_csv(folder / "samples.csv").set_index("profile_id")
    np.testing.assert_allclose(samples["soc"], points.set_index("id").loc[samples.index, "soc_gkg"])


def test_spline_and_its_intervals(world, caplog):
    points = pd.read_csv(world / "points.csv")
    deep = points.iloc[:150].assign(top=10, bottom=40, soc_gkg=5.0)
    pd.concat([points.assign(top=0, bottom=10), deep]).to_csv(world / "horizons.csv", index=False)
    flags = ["--depth_limits", "0", "10", "40", "80", "--spline_lambda", "0", "--min_covered", "10"]
    with caplog.at_level("INFO"):
        folder, facts = made(world, "--depth_method", "spline", *flags, points="horizons.csv")
    samples = pd.read_csv(folder / "samples.csv").set_index("profile_id")
    np.testing.assert_allclose(samples["soc_0_10"], points.set_index("id").loc[samples.index, "soc_gkg"])
    assert samples["soc_10_40"].dropna().to_numpy() == pytest.approx(np.full(150, 5.0))
    assert samples["soc_40_80"].isna().all()
    mean, _ = made(world, points="horizons.csv", out="mean")
    assert not np.allclose(pd.read_csv(mean / "samples.csv").set_index("profile_id")["soc"][samples.index], samples["soc"])
    assert facts["points"]["further_depths"]["soc_10_40"] == {"profiles": 150, "without a horizon in it": 50}
    assert "soc_10_40: 150 profiles, 50 without a horizon in it" in caplog.text
    assert "50 alone in their profile" in caplog.text
    assert facts["settings"]["depth_method"] == "spline"
    of_it, facts = made(world, points="out/samples.csv", target="soc_10_40", out="deeper")
    assert facts["rejected"] == {"soc_10_40 missing": 50}
    assert (pd.read_csv(of_it / "samples.csv")["soc"] - 5 < 1e-9).all()


def test_hints_about_unit_and_few_blocks(world, capsys, caplog):
    caplog.set_level("INFO")
    table = profiles(world / "points.csv", 200)
    table["soc_gkg"] /= 10
    table.to_csv(world / "points.csv", index=False)
    made(world)
    assert "look like per cent" in caplog.text
    _, facts = made(world, "--split", "blocks", "--block_size", "5")
    assert facts["split"]["groups"]["test"] < FEW_BLOCKS
    assert f"test {facts['split']['test']} in {facts['split']['groups']['test']} blocks" in capsys.readouterr().out
    assert "so few blocks are held out" in caplog.text


def test_profiles_that_share_their_raster_cell_with_training_are_counted(world, caplog):
    caplog.set_level("INFO")
    rng = np.random.default_rng(3)
    corner = rng.integers(13, 20, 200), rng.integers(31, 36, 200)  # few cells of 0.25 degrees, many places in each
    lon, lat = (degrees + rng.uniform(0.01, 0.2, 200) for degrees in corner)
    profiles(world / "points.csv", 200, longitude=lon, latitude=lat)
    folder, facts = made(world)
    cell, split = pd.Series(zip(*corner, strict=True)), pd.read_csv(folder / "samples.csv")["profile_id"].map(split_of(folder))
    seen = cell.isin(set(cell[split == "train"]))
    expected = {name: int((seen & (split == name)).sum()) for name in ("valid", "test")}
    assert facts["split"]["shared_with_training"] == expected
    assert expected["test"] > 30
    assert f"{expected['test']} of {facts['split']['test']} test profiles have all covariates of a training profile" in caplog.text
    assert "--split blocks avoids this optimistic bias of the scores" in caplog.text
    _, facts = made(world, "--split", "blocks", "--block_size", "1")
    assert facts["split"]["shared_with_training"] == {"valid": 0, "test": 0}


@pytest.mark.parametrize(
    ("step", "cell", "words"),
    [
        (0.1, 0.01, "multiples of 0.1 degrees: they may be 5,560 m off, and raster cells are 1,"),
        (1 / 60, 0.01, "multiples of 1 arc minute: they may be 927 m off"),
        (0.1, 0.25, None),  # the cells are wider
        (0.0001, 0.01, None),
    ],
)
def test_rounded_coordinates_are_recognised(step, cell, words):
    rng = np.random.default_rng(0)
    lon, lat = ((rng.integers(0, 5 / step, 300) * step).round(4) for _ in range(2))
    hint = precision_hint(lon, lat, cell * 111_195)
    assert (words in hint) if words else hint is None
    assert precision_hint(*rng.uniform(0, 5, (2, 300)).round(3), 50.0)  # whole 0.001 degrees, 56 m
    assert precision_hint(*rng.uniform(0, 5, (2, 300)).round(5), 50.0) is None


def test_coordinates_rounded_for_most_profiles_are_told_of_with_their_share(world, caplog):
    caplog.set_level("INFO")
    table = profiles(world / "points.csv")
    lon, lat = (np.where(np.arange(200) < 160, (table[name] * 2).round() / 2, table[name]) for name in ("longitude", "latitude"))
    profiles(world / "points.csv", longitude=lon, latitude=lat)
    made(world)
    assert "of the places are multiples of 0.5 degrees: they may be 27,800 m off" in caplog.text


def test_the_hint_on_centimetres_is_of_horizons_only(world, caplog):
    caplog.set_level("INFO")
    profiles(world / "points.csv", cm_covered=10.0, soc_30_60=7.0)
    made(world, target="soc_30_60")
    assert "cm of the interval observed" not in caplog.text


# --- blocks ---------------------------------------------------------------------------------------------------------


def test_without_a_size_blocks_are_chosen_that_work_and_the_reason_is_told(world, caplog):
    caplog.set_level("INFO")
    for spread in (10.0, 1.0):
        rng = np.random.default_rng(1)
        lon, lat = 20 + rng.uniform(0, spread, 200), 40 + rng.uniform(0, spread, 200)
        profiles(world / "points.csv", longitude=lon, latitude=lat, soc_gkg=20 + 5 * np.sin(20 * lon / spread))
        _, facts = made(world, "--split", "blocks")
        split = facts["split"]
        assert min(split["groups"].values()) >= FEW_BLOCKS
        assert split["block_size"] <= 0.5
        assert f"whole blocks of {split['block_size']:g} degrees" in split["reason"]
        assert "the target is correlated over" in split["reason"]
        assert split["reason"] in caplog.text
    lon, lat = 20 + rng.uniform(0, 0.05, 60), 40 + rng.uniform(0, 0.05, 60)  # a farm
    for values in (lon, np.ones(60)):  # also without a range
        split = draw_split(lon, lat, values, SplitRule("blocks"))[1]
        assert min(split["groups"].values()) >= 3
        assert split["block_size"] < 0.02


def test_an_empty_set_names_a_block_size_that_works(world, capfd):
    message = refused(world, capfd, "--split", "blocks", "--block_size", "90")
    assert re.search(
        r"the (valid|test) split would be empty: 200 profiles in 1 blocks of 90 degrees; --block_size [\d.]+ works", message
    )
    _, facts = made(world, "--split", "blocks", "--block_size", re.search(r"--block_size ([\d.]+) works", message)[1])
    assert min(facts["split"]["groups"][name] for name in ("valid", "test")) >= FEW_BLOCKS
    profiles(world / "points.csv", longitude=20.0, latitude=40.0)
    assert "200 profiles at 1 places; use more, or a larger --valid_share" in refused(world, capfd, out="other")
    assert "and with smaller ones; use more profiles" in refused(world, capfd, "--split", "blocks", out="other")


@pytest.mark.parametrize("size", slow_but(["nan", "-1", "0", "inf", "181"], "nan", "-1"))
def test_a_block_size_that_is_none_is_refused(world, capfd, size):
    assert "block_size" in refused(world, capfd, "--split", "blocks", "--block_size", size)
    folder, facts = made(world, "--split", "blocks", out="globe")
    facts["split"]["block_size"] = float(size)
    (folder / "dataset.yaml").write_text(yaml.safe_dump(facts))
    assert "globe/dataset.yaml: block_size of the split is" in refused(world, capfd, "--global_data", str(folder))
    with pytest.raises(UserError, match="block_size of the split is"):
        read_dataset(folder)


def test_dataset_without_a_test_split(world, workplace, capfd):
    folder, facts = made(world, "--test_share", "0")
    assert (facts["split"]["test"], facts["split"]["train"], facts["split"]["valid"]) == (0, 180, 20)
    assert sorted(path.stem for path in (folder / "split").iterdir()) == ["train", "valid"]
    quick = ["--data_dir", str(folder), "--run", "g", "--epochs", "2", "--no-tensorboard", "--device", "cpu"]
    assert run(lambda: train.main(quick)) == 0
    checkpoint = ["--checkpoint", "model/pretrain_model/g.pth", "--run", "g"]
    capfd.readouterr()
    assert run(lambda: predict.main([*checkpoint, "--data_dir", str(folder)])) == 2
    words = capfd.readouterr().err
    assert "has no test split (made with --test_share 0); predict your own test profiles" in words
    assert len(words.strip().splitlines()) == 1
    profiles(world / "own.csv", 30, seed=5)
    own, _ = made(world, "--predict_only", points="own.csv", out="own")
    assert run(lambda: predict.main([*checkpoint, "--data_dir", str(own), "--on", "all"])) == 0
    region, facts = made(world, "--global_data", str(folder), points="own.csv", out="region")
    assert facts["split"]["test"] > 0


# --- a region of a global dataset ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [["--split", "random"], ["--split", "blocks", "--block_size", "1"]])
def test_region_keeps_held_out_places_and_statistics(world, rule):
    globe, _ = made(world, *rule, out="globe")
    old = pd.read_csv(world / "points.csv").iloc[:120]
    new = profiles(world / "new.csv", 80, seed=9, id=[f"n{k}" for k in range(80)])
    pd.concat([old.assign(id=[f"renamed{k}" for k in range(120)]), new]).to_csv(world / "region.csv", index=False)
    folder, facts = made(world, "--global_data", str(globe), "--seed", "7", points="region.csv", out="region")
    before, after = split_of(globe), split_of(folder)
    assert all(after[f"renamed{k}"] == before[name] for k, name in enumerate(old["id"]))
    assert set(after.values()) == {"train", "valid", "test"}
    assert facts["split"]["method"] == rule[1]
    pd.testing.assert_frame_equal(pd.read_csv(folder / "stats.csv"), pd.read_csv(globe / "stats.csv"))


def test_region_in_blocks_tests_on_no_place_that_the_world_trained_on(world):
    globe, _ = made(world, "--split", "random", out="globe")
    new = profiles(world / "new.csv", 300, seed=9, id=[f"n{k}" for k in range(300)])
    pd.concat([pd.read_csv(world / "points.csv").iloc[:20], new]).to_csv(world / "region.csv", index=False)
    folder, facts = made(world, "--global_data", str(globe), "--split", "blocks", points="region.csv", out="region")
    before, after = split_of(globe), split_of(folder)
    assert facts["split"]["method"] == "blocks"
    assert {after[name] for name in after if before.get(name) == "train"} == {"train"}
    assert facts["split"]["test"] > 40


def test_region_takes_the_global_categories(world):
    (world / "c.yaml").write_text(yaml.safe_dump({"categories": [{"name": "relief", "variables": ["slope", "lat"], "radius": 1}]}))
    globe, _ = made(world, "--config", str(world / "c.yaml"), out="globe")
    _, facts = made(world, "--global_data", str(globe), "--bounds", "13", "25", "31", "47", out="region")
    assert facts["categories"] == [{"name": "relief", "variables": ["slope", "lat"], "radius": 1, "kind": "numeric"}]
    assert facts["points"]["out_of_bounds"] + facts["profiles"] == 200


def test_a_region_s_own_rasters_are_further_categories_cut_on_their_own_grid(world, caplog):
    caplog.set_level("INFO")
    made(world, out="world_data")
    (world / "local").mkdir()
    raster(world / "local" / "relief.tif", "curvature", "flat_lon", cell=0.05, side=400)
    raster(world / "local" / "radar.tif", "vv", cell=0.125, side=160)
    caplog.clear()
    where = ["--points", str(world / "points.csv"), "--target", "soc_gkg", "--rasters", str(world / "local")]
    where += ["--world_rasters", str(world / "rasters"), "--radius", "1"]
    prepare.main([*where, "--global_data", str(world / "world_data"), "--out", str(world / "mine")])
    facts = yaml.safe_load((world / "mine/dataset.yaml").read_text())
    names = [each["name"] for each in facts["categories"]]
    assert names == ["place", "relief", "radar", "relief_local"]
    assert facts["sources"] == {"world_rasters": ["place", "relief"], "rasters": ["radar", "relief_local"]}
    assert "categories of --rasters, cut on their own grids: radar, relief_local" in caplog.text
    data = read_dataset(world / "mine")
    columns = variable_columns(data.categories)
    wide = read_dataset(world / "mine", [each.model_copy(update={"radius": 1}) for each in data.categories])
    at = variable_columns(wide.categories)["lon"]
    np.testing.assert_allclose(wide.x[:, at.start + 5] - wide.x[:, at.start + 3], 2 * CELL, rtol=1e-4)  # of the world's cells
    own, theirs = (pd.read_csv(world / name / "stats.csv").set_index("var_name") for name in ("mine", "world_data"))
    assert own.loc["lon"].tolist() == pytest.approx(theirs.loc["lon"].tolist())
    vv = wide.x[wide.split["train"]][:, variable_columns(wide.categories)["vv"]]
    assert own.loc["vv"].tolist() == pytest.approx([vv.mean(), vv.std()], rel=1e-5)
    assert len(columns) == 6
    prepare.main([*where, "--out", str(world / "alone")])
    assert [each.name for each in read_dataset(world / "alone").categories] == names


def test_world_variables_without_a_raster_are_told_of_and_two_of_a_name_refused(world, caplog, capfd):
    made(world, out="world_data")
    (world / "local").mkdir()
    raster(world / "local" / "radar.tif", "vv")
    only = ["--world_rasters", str(world / "rasters/relief.tif"), "--global_data", str(world / "world_data")]
    where = ["--points", str(world / "points.csv"), "--target", "soc_gkg", "--rasters", str(world / "local"), *only]
    prepare.main([*where, "--out", str(world / "mine")])
    assert "in none of the rasters, left out; finetune takes them as their means: lat, lon" in caplog.text
    assert [each.name for each in read_dataset(world / "mine").categories] == ["relief", "radar"]
    raster(world / "local" / "other.tif", "slope")
    assert run(lambda: prepare.main([*where, "--out", str(world / "other")])) == 2
    assert "variable 'slope' is in" in capfd.readouterr().err
    none = [*where[:4], "--rasters", str(world / "rasters/relief.tif"), *only, "--out", str(world / "none")]
    assert run(lambda: prepare.main(none)) == 2
    assert "no local variable is in them" in capfd.readouterr().err


def test_a_mask_is_left_out_and_a_second_dataset_leaves_nothing_of_the_first(world, caplog):
    caplog.set_level("INFO")
    grid = Affine(CELL, 0, WEST, 0, -CELL, NORTH)
    write_geotiff(world / "rasters" / "mask.tif", np.ones((1, 80, 80)), ["land"], grid)
    folder, facts = made(world)
    assert "left out: land" in caplog.text
    assert [category["name"] for category in facts["categories"]] == ["place", "relief"]
    assert sorted(p.stem for p in (folder / "patches").iterdir()) == ["lat", "lon", "slope"]
    (world / "rasters" / "relief.tif").unlink()
    made(world)
    assert sorted(p.stem for p in (folder / "patches").iterdir()) == ["lat", "lon"]


def test_places_without_observations_become_a_dataset_that_pred_reads(world, workplace):
    import pred
    import train_global

    world_folder, _ = made(world)
    places = pd.read_csv(world / "points.csv").drop(columns="soc_gkg")
    places.to_csv(world / "places.csv", index=False)
    more = ["--predict_only", "--global_data", str(world_folder)]
    folder, facts = made(world, *more, points="places.csv", out="new", target=None)
    assert not (folder / "split").exists()
    assert facts["categories"] == yaml.safe_load((world_folder / "dataset.yaml").read_text())["categories"]
    train_global.main(["--data_dir", str(world_folder), "--run", "g", "--epochs", "1", "--no-tensorboard"])
    pred.main(["--data_dir", str(folder), "--checkpoint", "model/pretrain_model/g.pth", "--on", "all"])
    assert len(pd.read_csv("results/g/predictions_all_new.csv")) == len(pd.read_csv(folder / "samples.csv"))


def test_ids_that_are_formulas_are_written_so_that_none_runs_and_stay_ids(world):
    ids = ["=1+1", "@x", "+A", "-B", *(f"p{k}" for k in range(196))]
    profiles(world / "points.csv", 200, id=ids)
    folder, _ = made(world)
    assert not any(line.startswith(("=", "@", "+", "-")) for line in (folder / "samples.csv").read_text().splitlines())
    assert read_dataset(folder).ids == ids


# --- bad input -----------------------------------------------------------------------------------------------------


def swapped(world: Path) -> None:
    table = pd.read_csv(world / "points.csv")
    table.rename(columns={"longitude": "latitude", "latitude": "longitude"}).to_csv(world / "points.csv", index=False)


def relief(values: float):
    """Return a function that writes a raster of one value."""
    grid = Affine(CELL, 0, WEST, 0, -CELL, NORTH)
    return lambda world: write_geotiff(world / "rasters" / "relief.tif", np.full((1, 80, 80), values), ["slope"], grid)


def torn_raster(world: Path) -> None:
    (world / "rasters" / "again.tif").write_bytes((world / "rasters" / "relief.tif").read_bytes()[:2000])


def points(**columns):
    return lambda world: profiles(world / "points.csv", **columns)


GIVEN = "[{name: place, variables: [lon, lat]}, {name: relief, variables: [slope]}]"


@pytest.mark.parametrize(
    ("change", "more", "options", "words"),
    [
        (None, [], {"points": "none.csv"}, "none.csv: no such"),
        (None, ["--rasters", "nothing"], {}, "no such raster"),
        (points(longitude=100.0), [], {}, "no profile is left; 200 outside a raster"),
        (points(soc_gkg=5000.0), [], {}, "200 of 200 values lie beyond 0 to 1000 g/kg: --unit"),
        (None, ["--bounds", "-10", "-5", "-10", "-5"], {}, "200 out of bounds"),
        (swapped, [], {}, "swapped: 0% of 200 profiles have covariates as they stand, 100% if swapped"),
        (lambda world: raster(world / "rasters" / "again.tif", "slope"), [], {}, "'slope'"),
        (torn_raster, [], {}, "again.tif: not readable as a GeoTIFF"),
        (None, [], {"categories": "[{name: a, variables: [slop, lon]}]"}, "none of the rasters: 'slop', did you mean 'slope'?"),
        (relief(1.0), [], {"categories": GIVEN}, "'slope' is constant (1)"),
        (relief(np.nan), [], {"categories": GIVEN}, "'slope' is missing everywhere"),
        (None, ["--depth", "30", "0"], {}, "depth"),
        (None, ["--bounds", "10", "5", "0", "1"], {}, "bounds"),
        (None, ["--depth_limits", "0", "30", "15"], {}, "each below the one before"),
        (None, ["--depth_limits", "30"], {}, "two or more limits"),
        (None, ["--spline_lambda", "-1"], {}, "spline_lambda"),
        (None, ["--valid_share", "0.5", "--test_share", "0.5"], {}, "leave no profiles to train on"),
        (None, ["--split", "blocks", "--block_size", "90"], {}, "split would be empty"),
        (None, ["--radios", "1"], {}, "did you mean '--radius'"),
        (lambda world: (world / "file").write_text(""), [], {"out": "file/out"}, "cannot be written"),
        (None, ["--global_data", "nothing"], {}, "no such YAML file"),
    ],
)
def test_bad_input_is_refused(world, capfd, monkeypatch, change, more, options, words):
    monkeypatch.chdir(world)
    if change:
        change(world)
    if categories := (options := dict(options)).pop("categories", None):
        (world / "c.yaml").write_text(f"categories: {categories}\n")
        more = [*more, "--config", "c.yaml"]
    assert words in refused(world, capfd, *more, **options)


def test_points_are_never_overwritten(world, capfd):
    (world / "points.csv").rename(world / "samples.csv")
    prepare_into_itself = ["--points", str(world / "samples.csv"), "--rasters", str(world / "rasters"), "--out", str(world)]
    assert run(lambda: prepare.main(prepare_into_itself)) == 2
    assert "would overwrite" in capfd.readouterr().err
    assert run(lambda: prepare.main(["--out", "x"])) == 2
    assert "--points is required" in capfd.readouterr().err


def test_full_disk_leaves_no_dataset(world, capfd, monkeypatch):
    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert "No space left" in refused(world, capfd)


def test_full_disk_at_any_write_leaves_the_earlier_dataset_and_the_user_s_files(world, capfd, monkeypatch):
    folder, _ = made(world)
    (folder / "patches" / "mine.pkl").write_text("mine")
    (folder / "notes.txt").write_text("mine")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    profiles(world / "points.csv", n=150, seed=1)
    real, left = os.fsync, [0]

    def full(descriptor):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        real(descriptor)

    for enough_for in (0, 1, 9, 19):
        left[0] = enough_for
        with monkeypatch.context() as patched:
            patched.setattr("os.fsync", full)
            assert run(lambda: prepare.main(flags(world))) == 2
        assert "untouched" in capfd.readouterr().err
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    made(world)
    assert len(read_dataset(folder).table) == 150
    assert (folder / "patches" / "mine.pkl").read_text() == (folder / "notes.txt").read_text() == "mine"


def test_files_that_prepare_did_not_write_are_not_replaced(world, capfd):
    (world / "out").mkdir()
    (world / "out" / "samples.csv").write_text("mine")
    assert run(lambda: prepare.main(flags(world))) == 2
    assert "samples.csv: is there, and is not of an earlier run" in capfd.readouterr().err
    assert [path.name for path in (world / "out").iterdir()] == ["samples.csv"]


def test_failed_run_leaves_the_dataset_that_was_there(world, capfd):
    folder, facts = made(world)
    profiles(world / "points.csv", longitude=100.0)
    assert run(lambda: prepare.main(flags(world))) == 2
    assert yaml.safe_load((folder / "dataset.yaml").read_text()) == facts
    assert len(read_dataset(folder).table) == 200
    (folder / "split" / "test.csv").unlink()
    profiles(world / "points.csv")
    assert "test.csv" in refused(world, capfd, "--global_data", str(folder), out="region")


@pytest.mark.slow
@needs_realdata
def test_real_region_trains_on_no_held_out_profile_of_the_global_dataset(tmp_path):
    globe, region = tmp_path / "globe", tmp_path / "kenya"
    points = ["--points", str(REALDATA / "global" / "points.csv"), "--target", "soc_gkg"]
    covariates = ["--rasters", str(REALDATA / "global" / "cov_vegetation.tif")]
    prepare.main([*points, *covariates, "--split", "blocks", "--out", str(globe)])
    bounds = ["--bounds", "33.9", "41.9", "-4.7", "5.0"]
    prepare.main([*points, *covariates, *bounds, "--global_data", str(globe), "--out", str(region)])
    before, after = split_of(globe), split_of(region)
    assert len(after) == 1381
    assert all(before[name] == split for name, split in after.items())
