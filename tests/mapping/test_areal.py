"""Sums of a map's errors over zones of a tile, against sums written out cell by cell."""

from dataclasses import replace

import numpy as np
import pytest

from soilcarbon.geo.grid import Grid
from soilcarbon.geo.zonal_statistics import Estimation, Sums, ZoneCells, cell_areas
from soilcarbon.mapping.areal import CHANGE, Place, deviation_of_change, estimation, sums_with_errors
from soilcarbon.stats.error_field import ErrorField

GRID = Grid("EPSG:4326", 10, 50, (0.05, 0.05), 20, 30)
LON, LAT = np.meshgrid(10 + 0.05 * (np.arange(30) + 0.5), 50 - 0.05 * (np.arange(20) + 0.5))


@pytest.fixture(scope="module")
def errors():
    """An error model whose profiles lie in the western half, in two periods."""
    random = np.random.default_rng(0)
    at = np.column_stack([random.uniform(10, 10.75, 80), random.uniform(49, 50, 80)])
    y = (6 + random.normal(size=80)).clip(0)
    return ErrorField.fit(y, np.full(80, 5.0), np.zeros(80, int), 1, at, np.repeat([2000, 2010], 40), apart=np.full(80, 8.0))


def place():
    tile = GRID.tile(0, 512)
    masks = [("west", LON < 10.75), ("east", LON >= 10.75), ("all", LON > 0), ("none", LON < 0)]
    return Place(GRID, tile, np.broadcast_to(cell_areas(GRID, tile), LON.shape), ZoneCells.of(masks))


def test_sums_of_periods_and_change_are_those_of_their_cells(errors):
    here, values = place(), {"2000": np.full(LON.shape, 5.0), "2010": 5.0 + LON - 10}
    values["2010"][3, 4] = np.nan
    members = {name: np.stack([each - 0.5, each + 0.5]) for name, each in values.items()}
    found = sums_with_errors(errors, here, values, {name: np.ones((1, *LON.shape)) for name in values}, members)
    assert list(found) == ["2000", "2010", CHANGE] and all(set(each) == {"west", "east", "all"} for each in found.values())
    growth = errors.growth(LON.ravel(), LAT.ravel()).reshape(LON.shape)
    spread = {name: errors.deviations[0] * (1 + each) ** 0.5 * here.km2 * growth for name, each in values.items()}
    for zone, mask in (("west", LON < 10.75), ("all", LON > 0)):
        known = mask & np.isfinite(values["2010"])
        change = found[CHANGE][zone]
        assert (found["2000"][zone].cells, change.cells) == (mask.sum(), known.sum())
        assert change.mapped == pytest.approx(((values["2010"] - values["2000"]) * here.km2)[known].sum())
        assert change.spread == pytest.approx([spread[name][known].sum() for name in ("2000", "2010")], rel=1e-2)
        assert change.members == pytest.approx([change.mapped] * 2)
        alone = [(errors.cell_variance(values[name]) * here.km2**2)[known].sum() for name in ("2000", "2010")]
        assert found["2010"][zone].square == pytest.approx(alone[1])
        assert change.square == pytest.approx(0.1 * sum(alone))
    both = found["2010"]["west"], found["2010"]["east"]
    np.testing.assert_allclose((both[0] + both[1]).weighted, found["2010"]["all"].weighted, rtol=1e-6)
    east, west = (found["2000"][zone].spread[0] / found["2000"][zone].area for zone in ("east", "west"))
    assert east > 1.2 * west  # no profile is near


def test_the_budget_of_a_change_has_the_biases_of_both_periods(errors):
    here, values = place(), {"2000": np.full(LON.shape, 5.0), "2010": np.full(LON.shape, 5.0)}
    part = sums_with_errors(errors, here, values, {name: np.ones((1, *LON.shape)) for name in values})[CHANGE]["all"]
    mean = estimation(errors, list(values), CHANGE, 0.9).mean(part)
    drawn = part.weighted / part.area
    biases = errors.biases({2000: np.array([-part.spread[0]]), 2010: np.array([part.spread[1]])})[0] / part.area
    assert mean.variances.bias == pytest.approx(np.mean((drawn - drawn.mean()) * biases))
    assert mean.variances.cells == pytest.approx(part.square / part.area**2)
    assert mean.variances.total == pytest.approx(drawn.var() + mean.variances.cells)
    assert mean.variances.shared == mean.variances.floor == 0


def test_a_change_is_not_widened_to_the_standard_error_of_the_mean_residual():
    """Which is for the level: the errors of both periods are almost the same."""
    part = Sums(9, 9.0, np.array([8.9, 9.1]), 9.0, spread=(90.0, 90.0))
    level, change = (Estimation(0.9, 0.5, (), signed=signed).mean(part) for signed in (False, True))
    assert level.variances.floor == pytest.approx(25, abs=0.1) and change.variances.floor == 0


@pytest.mark.parametrize("periods", [["2000", "2010"], ["1980", "1990"]])
def test_the_interval_of_a_cell_s_change_is_that_of_a_zone_of_one_cell(errors, periods):
    """Of cells one by one as zones, the drawn changes' deviation; of both periods, and of two that no profile is of."""
    values = dict(zip(periods, (np.full(LON.shape, 5.0), 5.0 + LON - 10), strict=True))
    values[periods[0]][:, :2] = np.nan
    weights = {name: np.ones((1, *LON.shape)) for name in values}
    each = np.arange(LON.size)
    here = replace(place(), zones=ZoneCells([str(k) for k in each], each, each))
    sums = sums_with_errors(errors, here, values, weights)[CHANGE]
    expected = np.full(LON.size, np.nan)
    for name, part in sums.items():
        expected[int(name)] = (part.weighted.var() + part.square) ** 0.5 / part.area
    found = deviation_of_change(errors, here, values, weights)
    ratio = found / expected.reshape(LON.shape)
    assert (np.isnan(found) == np.isnan(values[periods[0]])).all()
    assert np.nanmean(ratio) == pytest.approx(1, abs=0.05)
    assert np.nanquantile(ratio, 0.05) > 0.7 and np.nanquantile(ratio, 0.95) < 1.45  # of 200 draws, in blocks of 8 x 8 cells
