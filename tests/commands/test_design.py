"""`soilcarbon design`: every place has the probability that is written, strata are as asked, and `validate` reads it back."""

from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from conftest import slow_but
from raster_files import write_raster
from rasterio.transform import Affine

from soilcarbon.commands import design, validate
from soilcarbon.geo.grid import Grid, Tile, raster_grid
from soilcarbon.geo.raster import find_layers, write_geotiff
from soilcarbon.geo.zonal_statistics import cell_areas
from soilcarbon.io.files import run
from soilcarbon.mapping import sampling_design
from soilcarbon.mapping.sampling_design import Population, Strata, draw
from soilcarbon.stats.sample_selection import expected_standard_error

CRS, SIZE = "EPSG:32632", 500.0
HEIGHT, WIDTH = 40, 60
PLACE = Affine(SIZE, 0, 500_000, 0, -SIZE, 5_400_000)


@pytest.fixture
def world(workplace):
    """Covariates, and a map whose errors grow to the east; the western tenth is missing."""
    random = np.random.default_rng(0)
    row, col = np.mgrid[:HEIGHT, :WIDTH]
    slope, wet = 10 * np.sin(row / 6) + random.normal(0, 1, row.shape), np.hypot(row - 20, col - 30)
    slope[:, :6] = np.nan
    Path("covariates").mkdir()
    for name, values in (("slope", slope), ("wet", wet)):
        write_geotiff(Path(f"covariates/{name}.tif"), values[None], [name], PLACE, CRS)
    predicted, sd = 20 + 0.3 * slope, 1 + col / 15
    bands = np.stack([predicted, predicted - 1.644854 * sd, predicted + 1.644854 * sd])
    write_geotiff(Path("map.tif"), bands, ["prediction", "lower", "upper"], PLACE, CRS, units=["g/kg"] * 3)
    return predicted, sd, np.isfinite(slope)


def designed(*arguments, out="out"):
    assert run(lambda: design.main(["--rasters", "covariates", *arguments, "--out", out])) == 0
    return pd.read_csv(Path(out) / "points.csv")


def cells_of(points):
    x, y = rasterio.warp.transform("EPSG:4326", CRS, points["lon"], points["lat"])
    col, row = ~PLACE @ (np.array(x), np.array(y))
    return np.floor(row).astype(int), np.floor(col).astype(int)


def strata_raster(out="out"):
    with rasterio.open(Path(out) / "strata.tif") as raster:
        return raster.read(1)


# --- round trip ------------------------------------------------------------------------------------------------------------


HOWS = [["--design", "random"], [], ["--by", "covariates", "--n_strata", "4"], ["--by", "error", "--error_map", "map.tif"]]


@pytest.mark.parametrize(
    ("file", "how"),
    slow_but([*(("points.csv", how) for how in HOWS), ("points.gpkg", HOWS[3])], ("points.gpkg", HOWS[3]), ("points.csv", HOWS[1])),
)
def test_validate_reads_what_design_writes(world, how, file):
    predicted, sd, _ = world
    points = designed("--n_points", "40", *how)
    row, col = cells_of(points)
    error = np.random.default_rng(5).normal(1, sd[row, col])
    measured = np.where(points["reserve"] == 0, predicted[row, col] + error + 5, np.nan)
    if file.endswith("csv"):
        points.assign(soc=measured).to_csv("sample.csv", index=False)
    else:
        frame = geopandas.read_file("out/points.gpkg")
        assert frame.crs == CRS
        frame.assign(soc=measured).to_file("sample.gpkg", driver="GPKG")
    given = ["--maps", "m=map.tif", "--points", f"sample{Path(file).suffix}", "--value", "soc", "--out", "validated"]
    assert run(lambda: validate.main(given)) == 0
    found = pd.read_csv("validated/design_scores.csv").iloc[0]
    main = points[points["reserve"] == 0]
    size = main.groupby("stratum")["stratum_size"].first()
    residual = (predicted[row, col] - measured)[: len(main)]
    mean = pd.Series(residual).groupby(main["stratum"].to_numpy()).mean()
    assert found["me"] == pytest.approx((size * mean).sum() / size.sum(), rel=1e-4)
    variance = pd.Series(residual).groupby(main["stratum"].to_numpy()).agg(lambda each: each.var(ddof=1) / len(each))
    assert found["me_se"] ** 2 == pytest.approx(((size / size.sum()) ** 2 * variance).sum(), rel=1e-3)
    assert (found["n"], found["df"]) == (40, 40 - len(size))


def test_chosen_points_are_no_probability_sample(world, capsys):
    for kind in ("clhs", "coverage"):
        points = designed("--n_points", "20", "--design", kind, out=kind)
        assert not {"inclusion_probability", "weight", "stratum"} & set(points)
        assert points["design"].str.contains("no probability sample").all()
        assert "no probability sample" in capsys.readouterr().out
        assert not Path(kind, "strata.tif").exists()
        assert len(set(zip(*cells_of(points), strict=True))) == 20
        points.assign(soc=20.0 + np.arange(20)).to_csv("sample.csv", index=False)
        given = ["--maps", "m=map.tif", "--points", "sample.csv", "--value", "soc", "--out", "validated"]
        assert run(lambda given=given: validate.main(given)) == 0
        assert not Path("validated/design_scores.csv").exists()
        assert run(lambda given=given: validate.main([*given, "--sampling", "random"])) == 2
        assert "were chosen, not drawn at random" in capsys.readouterr().err


# --- probabilities ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_places_are_drawn_with_the_probabilities_written(workplace):
    """On a grid in degrees, whose cells are a third as large in the north."""
    grid = Grid("EPSG:4326", 0.0, 72.0, (6.0, 6.0), 12, 10)
    stratum = np.where(np.arange(12) < 5, 1, 2)[:, None] * np.ones((1, 10))
    area = np.broadcast_to(cell_areas(grid, Tile(0, 0, 0, 12, 10)), (12, 10))
    km2 = np.array([area[stratum == k].sum() for k in (1, 2)])
    write_raster("strata.tif", stratum.astype(np.uint16), crs=grid.crs, transform=grid.transform, nodata=0)
    strata, counts = Strata(["1", "2"], np.array([50, 70]), km2, np.full(2, np.nan)), np.array([6, 9])
    hits, runs = np.zeros((12, 10)), 1200
    for seed in range(runs):
        points = draw(Path("strata.tif"), grid, strata, counts, 1, seed)
        main = points[points["reserve"] == 0]
        row, col = main["row"].astype(int), main["col"].astype(int)
        hits[row, col] += 1
        probability = counts[stratum[row, col].astype(int) - 1] * area[row, col] / km2[stratum[row, col].astype(int) - 1]
        assert main["inclusion_probability"].to_numpy() == pytest.approx(probability, rel=1e-6)
    p = np.where(stratum == 1, 6 * area / km2[0], 9 * area / km2[1])
    z = (hits / runs - p) / np.sqrt(p * (1 - p) / runs)
    assert np.abs(z).max() < 4.5
    assert (z**2).mean() == pytest.approx(1, abs=0.5)
    assert (points.groupby("stratum")["reserve"].sum() == 1).all()


@pytest.mark.parametrize("tile", [16, 512])
def test_weights_add_up_to_the_area_and_points_lie_in_their_strata(world, monkeypatch, tile):
    monkeypatch.setattr(sampling_design, "_TILE", tile)
    *_, known = world
    points = designed("--n_points", "31", "--by", "covariates", "--n_strata", "5", "--reserve", "3")
    km2 = np.broadcast_to(cell_areas(raster_grid(Path("map.tif")), Tile(0, 0, 0, HEIGHT, WIDTH)), (HEIGHT, WIDTH))
    main = points[points["reserve"] == 0]
    assert main["weight"].sum() == pytest.approx(km2[known].sum(), rel=1e-6)
    row, col = cells_of(points)
    raster = strata_raster()
    assert (raster[row, col] == points["stratum"]).all()
    assert ((raster > 0) == known).all()
    assert (
        points.groupby("stratum")["order"].apply(list) == points.groupby("stratum").size().map(lambda n: [*range(1, n + 1)])
    ).all()
    assert points.groupby("stratum")["reserve"].sum().tolist() == [3] * 5
    assert len(main) == 31


@pytest.mark.slow
def test_points_are_drawn_tile_by_tile_as_one_draw(workplace):
    """Over many tiles each has its share of the points: the smallest keys of all count."""
    grid = Grid(CRS, 500_000, 5_400_000, (SIZE, SIZE), 40, 40)
    write_raster("strata.tif", np.ones((40, 40), np.uint16), crs=CRS, transform=PLACE)
    km2 = cell_areas(grid, Tile(0, 0, 0, 40, 40)).sum()
    strata = Strata(["1"], np.array([1600]), np.array([km2]), np.full(1, np.nan))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling_design, "_TILE", 10)
        quarters = sum(
            np.histogram2d(*(draw(Path("strata.tif"), grid, strata, np.array([16]), 0, seed)[name] for name in ("row", "col")),
                           bins=[np.arange(0, 41, 10)] * 2)[0] for seed in range(60)
        )  # fmt: skip
    assert quarters.sum() == 16 * 60
    assert ((quarters - 60) ** 2 / 60).sum() < 37.7  # chi-squared of 15 degrees of freedom, 0.1 %


@pytest.mark.parametrize("tile", [8, 512])
def test_cells_that_strata_are_made_of_are_a_sample_by_area(workplace, monkeypatch, tile):
    """On a grid in degrees: of many tiles as of one, and no more than are asked for."""
    monkeypatch.setattr(sampling_design, "_TILE", tile)
    write_geotiff(Path("x.tif"), np.ones((1, 36, 40)), ["x"], Affine(2, 0, 0, 0, -2, 72))
    area = np.broadcast_to(cell_areas(raster_grid(Path("x.tif")), Tile(0, 0, 0, 36, 40)), (36, 40))
    hits = np.zeros(36)
    with Population(raster_grid(Path("x.tif")), find_layers([Path("x.tif")])) as population:
        for seed in range(20):
            cells = population.sample(150, seed)
            assert len(set(zip(cells.row.tolist(), cells.col.tolist(), strict=True))) == len(cells.km2) == 150
            hits += np.bincount(cells.row, minlength=36)
        assert len(population.sample(36 * 40, 0).km2) == 36 * 40
    expected = area.sum(axis=1) / area.sum() * 150 * 20
    assert ((hits - expected) ** 2 / expected).sum() < 67  # chi-squared of 35 degrees of freedom, 0.1 %


def test_strata_of_a_sample_of_cells_cover_all_cells(world, monkeypatch):
    monkeypatch.setattr(sampling_design, "_TILE", 16)
    for how in (["--n_strata", "5"], ["--by", "covariates"], ["--design", "clhs"], ["--design", "coverage"]):
        out = how[1]
        points = designed("--n_points", "20", "--cells", "200", *how, out=out)
        assert (points["reserve"] == 0).sum() == 20 if "reserve" in points else len(points) == 20
        if "reserve" in points:
            assert ((strata_raster(out) > 0) == world[2]).all()
            assert pd.read_csv(Path(out) / "strata.csv")["cells"].sum() == world[2].sum()


# --- strata ----------------------------------------------------------------------------------------------------------------


def test_compact_strata_have_equal_areas(world):
    designed("--n_points", "20")
    strata = pd.read_csv("out/strata.csv")
    assert (strata["points"] == 2).all()
    assert len(strata) == 10
    assert strata["area_km2"].max() / strata["area_km2"].min() < 1.05


def test_strata_of_a_raster_and_optimal_allocation(world, capsys):
    _, sd, known = world
    raster = np.where(np.arange(WIDTH) < 20, 3.0, np.where(np.arange(WIDTH) < 50, 7.0, 99.0)) * np.ones((HEIGHT, 1))
    write_geotiff(Path("soils.tif"), raster[None], ["soils"], PLACE, CRS)
    more = ["--strata", "soils.tif", "--not_sampled", "99", "--error_map", "map.tif"]
    points = designed("--n_points", "50", *more, "--allocation", "optimal")
    strata = pd.read_csv("out/strata.csv").set_index("stratum")
    assert strata.index.tolist() == [3, 7]
    inside = {3: known & (raster == 3), 7: known & (raster == 7)}
    spreads = np.array([np.sqrt((sd[where] ** 2).mean()) for where in inside.values()])
    assert strata["sd"].to_numpy() == pytest.approx(spreads, rel=1e-3)
    sizes = np.array([where.sum() for where in inside.values()])
    assert strata["points"].to_numpy() == pytest.approx(50 * sizes * spreads / (sizes * spreads).sum(), abs=0.6)
    expected = expected_standard_error(strata["points"].to_numpy(), sizes, spreads)
    assert f"standard error of the mean to expect: {expected:.3g} g/kg" in capsys.readouterr().out
    assert set(points["stratum"]) == {3, 7}
    designed("--n_points", "50", *more[:4], "--allocation", "optimal", "--stratum_sd", "1", "3")
    found = pd.read_csv("out/strata.csv")["points"]
    assert found[1] / found[0] == pytest.approx(3 * sizes[1] / sizes[0], rel=0.1)


def test_strata_by_predicted_error_are_of_falling_error_and_pay(world):
    _, sd, known = world
    designed("--n_points", "40", "--by", "error", "--error_map", "map.tif", "--n_strata", "4")
    raster = strata_raster()
    ranges = [(sd[raster == k].min(), sd[raster == k].max()) for k in range(1, 5)]
    assert all(low[1] <= high[0] + 1e-5 for low, high in zip(ranges[:-1], ranges[1:], strict=True))
    bands = np.stack([20 + 0 * sd, sd])
    write_geotiff(Path("sd.tif"), bands, ["prediction", "sd"], PLACE, CRS, units=["g/kg"] * 2)
    designed("--n_points", "40", "--by", "error", "--error_map", "sd.tif", "--n_strata", "4", out="other")
    assert (strata_raster("other") == raster).mean() > 0.99  # the same from the width of intervals and from their deviation
    assert ((raster > 0) == known).all()


def test_the_area_of_interest_and_the_mask_are_kept(world):
    west, north = 500_000, 5_400_000
    box = shapely.box(west + 5_000, north - 15_000, west + 25_000, north - 2_000)
    geopandas.GeoDataFrame({"name": ["a"]}, geometry=[box], crs=CRS).to_file("aoi.gpkg", driver="GPKG")
    land = (np.arange(WIDTH) < 30) * np.ones((HEIGHT, 1))
    write_geotiff(Path("land.tif"), land[None], ["land"], PLACE, CRS)
    for kind in ("stratified", "clhs"):
        points = designed("--n_points", "12", "--aoi", "aoi.gpkg", "--mask", "land.tif", "--design", kind, out=kind)
        row, col = cells_of(points)
        assert (col >= 10).all()
        assert (col < 30).all()
        assert (row >= 4).all()
        assert (row < 30).all()


def test_classes_are_no_numbers(world):
    codes = np.where(np.arange(HEIGHT) % 2, 1.0, 900.0)[:, None] * np.ones((1, WIDTH))
    write_geotiff(Path("covariates/rock.tif"), codes[None], ["rock"], PLACE, CRS)
    points = designed("--n_points", "20", "--design", "clhs", "--classes", "rock")
    row, _ = cells_of(points)
    assert abs((row % 2).sum() - 10) <= 1


def test_the_same_seed_gives_the_same_points(world):
    first = designed("--n_points", "20")
    pd.testing.assert_frame_equal(designed("--n_points", "20"), first)
    assert not designed("--n_points", "20", "--seed", "1").equals(first)


# --- refusals --------------------------------------------------------------------------------------------------------------


def test_a_table_with_measurements_is_not_overwritten(world, capsys):
    designed("--n_points", "20").assign(soc=1.0).to_csv("out/points.csv", index=False)
    assert run(lambda: design.main(["--rasters", "covariates", "--n_points", "20", "--out", "out"])) == 2
    assert "was changed since it was drawn" in capsys.readouterr().err
    assert "soc" in pd.read_csv("out/points.csv")


def test_polygons_and_maps_in_place_of_strata_and_errors_are_named(world, capsys):
    given = ["--rasters", "covariates", "--n_points", "20", "--out", "out"]
    for name in ("st.gpkg", "st.shp"):
        for arguments in (["--strata", name], ["--mask", name]):
            assert run(lambda more=arguments: design.main([*given, *more])) == 2
            assert f"{name}: is a vector file" in capsys.readouterr().err
    write_geotiff(Path("map.tif"), np.ones((1, HEIGHT, WIDTH)), ["prediction"], PLACE, CRS, ["kg/m2"])
    assert run(lambda: design.main([*given, "--by", "error", "--error_map", "map.tif"])) == 2
    assert "has bands prediction, and neither lower and upper nor sd" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--n_points", "1"], "n_points"),
        (["--n_points", "20", "--n_strata", "11"], "too few for 11 strata of two each"),
        (["--n_points", "3000", "--design", "random"], "has 2160 cells, and 3002 points"),
        (["--n_points", "3000", "--design", "clhs"], "no more than the 3000 points"),
        (["--n_points", "20", "--design", "clhs", "--by", "covariates"], "design clhs has none"),
        (["--n_points", "20", "--by", "error"], "needs error_map"),
        (["--n_points", "20", "--by", "raster"], "needs strata"),
        (["--n_points", "20", "--allocation", "optimal"], "needs error_map, or stratum_sd"),
        (["--n_points", "20", "--n_strata", "4", "--stratum_sd", "1", "2", "--allocation", "optimal"], "2 values for 4 strata"),
        (["--n_points", "20", "--error_map", "covariates/slope.tif"], "errors by slope are below 0"),
        (["--n_points", "20", "--strata", "covariates/slope.tif"], "strata"),
        (["--n_points", "20", "--strata", "map.tif"], "has 3 bands"),
        (["--n_points", "20", "--classes", "rocks"], "no variable 'rocks'"),
        (["--n_points", "20", "--aoi", "none.gpkg"], "none.gpkg"),
    ],
)
def test_mistakes_are_named(world, capsys, arguments, words):
    assert run(lambda: design.main(["--rasters", "covariates", *arguments, "--out", "out"])) == 2
    error = capsys.readouterr().err
    assert words in error, error
    assert error.count("\n") <= 2
    assert not list(Path("out").glob("points*"))
