"""Climate zones: quarters, and bands between them."""

import numpy as np
import pytest

from soilcarbon.zonal.climate_zones import ClimateZones, GivenZones

BLENDED = ClimateZones(width_precipitation=100, width_temperature=2)


def test_each_quarter_has_its_zone_and_a_threshold_belongs_to_the_wet_and_warm_side():
    mm, degrees = np.array([900, 900, 100, 100, 400, 399.9, np.nan, 500]), np.array([20, 5, 20, 5, 10, 9.9, 5, np.nan])
    assert ClimateZones().labels(mm, degrees).tolist() == [0, 1, 2, 3, 0, 3, -1, -1]
    assert ClimateZones(temperature=100).labels(np.array([500.0, 500]), np.array([99.0, 101])).tolist() == [1, 0]
    np.testing.assert_array_equal(ClimateZones().weights(np.array([400.0]), np.array([10.0])), [[1, 0, 0, 0]])


def test_weights_are_not_negative_add_up_to_one_and_are_missing_without_climate():
    random = np.random.default_rng(0)
    weights = BLENDED.weights(random.uniform(300, 500, 500), random.uniform(8, 12, 500))
    np.testing.assert_allclose(weights.sum(1), 1)
    assert weights.min() >= 0
    assert ((weights > 0).sum(1) == 4).any()  # in both bands at once
    for zones in (BLENDED, ClimateZones()):
        assert np.isnan(zones.weights(np.array([np.nan, 500]), np.array([5, np.nan]))).all()


@pytest.mark.parametrize("width", [0.0, 1e-9])
def test_without_width_weights_are_the_labels(width):
    random = np.random.default_rng(0)
    mm, degrees = random.uniform(0, 900, 500), random.uniform(-5, 25, 500)
    hard = ClimateZones(width_precipitation=width, width_temperature=width)
    np.testing.assert_array_equal(hard.weights(mm, degrees), np.eye(4)[hard.labels(mm, degrees)])
    assert BLENDED.hard() == ClimateZones()


def test_a_weight_passes_smoothly_over_the_band_and_bands_multiply():
    mm = np.array([349, 350, 375, 400, 425, 450, 451.0])
    wet = BLENDED.weights(mm, np.full(7, 20.0))[:, 0]
    assert wet == pytest.approx([0, 0, 0.15625, 0.5, 0.84375, 1, 1])  # 3 t^2 - 2 t^3 at t = 1/4 is 5/32
    step = np.diff(BLENDED.weights(np.linspace(340, 460, 1201), np.full(1201, 20.0))[:, 0])
    assert step.min() >= 0
    assert np.abs(np.diff(step)).max() < 1e-5  # no kink
    both = BLENDED.weights(np.array([425.0]), np.array([10.0]))[0]
    assert both == pytest.approx([0.84375 / 2, 0.84375 / 2, 0.15625 / 2, 0.15625 / 2])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"width_temperature": -1.0}, "must be 0 or more"),
        ({"precipitation": np.nan}, "expected finite numbers"),
        ({"names": ("a", "b", "c", "a")}, "four different names"),
        ({"names": ("a", "b", "c", "d", "d")}, "four different names"),
    ],
)
def test_zones_that_make_no_sense_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        ClimateZones(**wrong)


def test_given_zones_are_their_codes_and_no_others():
    zones = GivenZones((2.0, 7.0, 3.0))
    code = np.array([7.0, 2.0, np.nan, 5.0, 3.0])
    assert zones.names == ("zone 2", "zone 7", "zone 3")
    np.testing.assert_array_equal(zones.labels(code), [1, 0, -1, -1, 2])
    np.testing.assert_array_equal(zones.weights(code)[[0, 1, 4]], np.eye(3)[[1, 0, 2]])
    assert np.isnan(zones.weights(code)[[2, 3]]).all()
    assert zones.hard() is zones


@pytest.mark.parametrize("codes", [(), (1.0, 1.0), (1.5, 2.0), (np.nan, 1.0)])
def test_given_zones_are_different_whole_numbers(codes):
    with pytest.raises(ValueError, match="expected different whole numbers"):
        GivenZones(codes)
