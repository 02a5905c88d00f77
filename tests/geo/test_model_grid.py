"""Area-weighted averaging onto grids of models: exact on maps in degrees, and nothing lost or counted twice on any."""

import numpy as np
import pytest
import xarray as xr
from pyproj import Geod
from rasterio.transform import Affine

from soilcarbon.geo.grid import Grid, Tile
from soilcarbon.geo.model_grid import ModelGrid, own_grid, read_model_grid, regular_grid
from soilcarbon.geo.raster import write_geotiff
from soilcarbon.geo.zonal_statistics import cell_areas
from soilcarbon.io.files import UserError

FINE = Grid("EPSG:4326", 9.9, 50.3, (0.1, 0.1), 23, 31)


def gaussian():
    """Eight rows of a Gaussian grid, longitudes from 0 to 360."""
    lat = np.degrees(np.arcsin(np.polynomial.legendre.leggauss(8)[0]))
    middle = (lat[1:] + lat[:-1]) / 2
    edges = np.concatenate([[-90], middle, [90]])
    lon = np.arange(0.0, 360, 22.5)
    return ModelGrid(lat, lon, np.stack([edges[:-1], edges[1:]], 1), np.stack([lon - 11.25, lon + 11.25], 1))


def test_cells_have_their_true_areas():
    grid = regular_grid(30.0, Grid("EPSG:4326", -180, 90, (1, 1), 180, 360))
    assert grid.shape == (6, 12) and grid.km2.sum() == pytest.approx(510_065_622, rel=1e-6)  # of the WGS84 ellipsoid
    lon, lat = np.r_[np.linspace(0, 30, 500), np.linspace(30, 0, 500)], np.r_[np.full(500, 0.0), np.full(500, 30.0)]
    assert grid.km2[2, 6] == pytest.approx(abs(Geod(ellps="WGS84").polygon_area_perimeter(lon, lat)[0]) / 1e6, rel=1e-3)


def test_shares_of_a_map_in_degrees_are_exact_by_hand():
    model = ModelGrid(*(np.array(each) for each in ([50.0], [10.0, 11.0], [[49.5, 50.5]], [[9.5, 10.5], [10.5, 11.5]])))
    grid = Grid("EPSG:4326", 9.75, 50.25, (1.5, 0.5), 1, 1)  # 9.75 to 11.25: half of it in each
    ours, fine, km2 = model.overlaps(grid, Tile(0, 0, 0, 1, 1))
    assert ours.tolist() == [0, 1] and fine.tolist() == [0, 0]
    assert km2 == pytest.approx(np.full(2, cell_areas(grid, Tile(0, 0, 0, 1, 1))[0, 0] / 2))


@pytest.mark.parametrize("cell", [None, 1.5, 0.25])
@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3035"])
def test_carbon_is_preserved(cell, crs):
    grid = FINE if crs == "EPSG:4326" else Grid(crs, 4.31e6, 3.05e6, (9000.0, 9000.0), 20, 22)
    model = regular_grid(cell, grid) if cell else gaussian()
    values = np.random.default_rng(0).uniform(1, 20, (grid.height, grid.width))
    mass, area, found = 0.0, 0.0, np.zeros(model.shape[0] * model.shape[1])
    for tile in grid.tiles(9):
        ours, fine, km2 = model.overlaps(grid, tile)
        assert len(set(zip(ours.tolist(), fine.tolist(), strict=True))) == len(ours)  # one error of a cell in each
        part = values[tile.row : tile.row + tile.height, tile.col : tile.col + tile.width]
        own = np.broadcast_to(cell_areas(grid, tile), part.shape)
        assert np.bincount(fine, km2, part.size) == pytest.approx(own.ravel(), rel=1e-6)
        mass, area = mass + float((part * own).sum()), area + float(own.sum())
        found += np.bincount(ours, km2 * part.ravel()[fine], found.size)
    assert found.sum() == pytest.approx(mass, rel=1e-9) and (found > 0).sum() > 1 and area > 0


def test_a_constant_stays_one_and_longitudes_are_angles():
    model = gaussian()
    grid = Grid("EPSG:4326", -20.0, 60.0, (0.5, 0.5), 240, 100)  # 20 W to 30 E, on a grid that begins at 11.25 W
    ours, fine, km2 = model.overlaps(grid, Tile(0, 0, 0, 240, 100))
    share = np.bincount(ours, km2, 8 * 16).reshape(8, 16) / model.km2
    assert share.max() == pytest.approx(1, rel=1e-6) and share[3, 0] == pytest.approx(1, rel=1e-6)
    assert share[3, 15] == pytest.approx(8.75 / 22.5, rel=1e-6)  # 20 W to 11.25 W
    assert km2.sum() == pytest.approx(cell_areas(grid, Tile(0, 0, 0, 240, 100)).sum() * 100, rel=1e-6)


def test_half_degree_cells_lie_where_models_have_them():
    grid = regular_grid(0.5, FINE)
    assert grid.lon_bounds[0, 0] == 9.5 and grid.lat_bounds[-1].tolist() == [50.0, 50.5] and grid.lat[-1] == 50.25
    assert grid.lon_bounds[-1, 1] == 13.0 and grid.lat_bounds[0, 0] == 48.0 and (np.diff(grid.lat) > 0).all()
    assert own_grid(FINE).shape == (23, 31)


def test_a_netcdf_keeps_its_order_and_bounds(tmp_path):
    model, path = gaussian(), tmp_path / "model.nc"
    about = {"units": "degrees_north", "bounds": "latb"}
    axes = {"y": ("y", model.lat, about), "lon": ("lon", model.lon, {"units": "degrees_east"})}
    data = xr.Dataset({"latb": (("y", "b"), model.lat_bounds)}, axes)
    data.to_netcdf(path, engine="scipy")
    found = read_model_grid(path)
    for name in ("lat", "lon", "lat_bounds", "lon_bounds"):
        np.testing.assert_allclose(getattr(found, name), getattr(model, name))
    data.isel(y=slice(None, None, -1)).drop_vars("latb").to_netcdf(path, engine="scipy")
    found = read_model_grid(path)
    assert found.lat[0] > found.lat[-1] and found.lat_bounds.max() == 90 and found.lat_bounds[0, 0] > found.lat_bounds[0, 1]


def test_a_geotiff_in_degrees_is_a_grid_and_one_in_metres_is_not(tmp_path):
    path = tmp_path / "g.tif"
    write_geotiff(path, np.ones((1, 4, 6)), ["a"], Affine(2, 0, 5, 0, -2, 50))
    assert read_model_grid(path).lat.tolist() == [43, 45, 47, 49]
    write_geotiff(path, np.ones((1, 4, 6)), ["a"], Affine(2000, 0, 5e5, 0, -2000, 5e6), crs="EPSG:32633")
    with pytest.raises(UserError, match="is not in degrees"):
        read_model_grid(path)


def bounds(*edges):
    return np.array([edges[:-1], edges[1:]], float).T


BAD = {
    "gap": (np.array([[0, 1], [2, 3]], float), bounds(0, 1, 2), "leave gaps or overlap"),
    "pole": (bounds(80, 95), bounds(0, 1, 2), "within 90 degrees"),
    "two turns": (bounds(0, 1), bounds(0, 200, 400), "one turn"),
}


@pytest.mark.parametrize("fault", BAD)
def test_grids_that_are_none_are_refused(fault):
    lat, lon, words = BAD[fault]
    with pytest.raises(UserError, match=words):
        ModelGrid(lat.mean(1), lon.mean(1), lat, lon)


def test_cells_that_do_not_divide_the_earth_are_refused():
    with pytest.raises(UserError, match="no multiple"):
        regular_grid(0.7, FINE)
