"""Coverage of conformal intervals under known noise; quantiles against hand-worked numbers."""

import io

import numpy as np
import pytest
import torch
from scipy.stats import beta

from soilcarbon.stats.conformal import ConformalCalibration
from soilcarbon.stats.metrics import interval_score

LEVELS = (0.5, 0.8, 0.9, 0.95)


def hits(calibration, y, predicted, level, stratum=None):
    lower, upper = calibration.interval(predicted, level, stratum)
    return (lower <= y) & (y <= upper)


# --- quantiles ---------------------------------------------------------------------------------------------------


def test_of_nine_profiles_by_hand():
    # errors 1..9; (9 + 1) * 0.9 = 9: the 9th; (9 + 1) * 0.8 = 8: the 8th; 10 * 0.75 = 7.5, so the 8th; 10 * 0.91: none
    y, predicted = np.array([14.0, 12, 5, 13, 11, 19, 18, 17, 16]), np.array([10.0, 10, 10, 10, 10, 10, 10, 10, 10])
    calibration = ConformalCalibration.fit(y, predicted)  # errors 4 2 -5 3 1 9 8 7 6
    ends = {level: calibration.interval(np.array([20.0]), level) for level in (0.9, 0.8, 0.75, 0.5, 0.1, 0.91)}
    assert {level: (lower[0], upper[0]) for level, (lower, upper) in ends.items()} == {
        0.9: (11, 29),
        0.8: (12, 28),
        0.75: (12, 28),
        0.5: (15, 25),
        0.1: (19, 21),
        0.91: (0, np.inf),
    }
    assert calibration.highest_level() == pytest.approx(0.9)


def test_two_sides_by_hand():
    # of 9 errors -4..4, level 0.8 leaves a tenth on each side: the 9th of the errors upwards, 4, and downwards, 4;
    # shifted by 2 they are 6 and 2
    y = np.full(9, 10.0) + np.arange(-4, 5) + 2
    calibration = ConformalCalibration.fit(y, np.full(9, 10.0), symmetric=False)
    assert [end[0] for end in calibration.interval(np.array([20.0]), 0.8)] == [18, 26]
    assert [end[0] for end in calibration.interval(np.array([20.0]), 0.81)] == [0, np.inf]
    assert calibration.highest_level() == pytest.approx(0.8)


def test_profiles_count_alike_but_of_two_groups_only_by_hand():
    y, groups = np.array([1.0, 2, 3, 4, 10]), np.array(["a", "a", "a", "a", "b"])
    found = ConformalCalibration.fit(y, np.zeros(5), groups=groups)
    assert found.overall[0][1] == pytest.approx(np.arange(1, 6) / 5 * 2 / 3)
    assert [found.interval(np.zeros(1), level)[1][0] for level in (0.4, 0.5, 0.6, 0.7)] == [3, 4, 10, np.inf]


def test_many_scores_are_thinned_without_narrowing():
    random = np.random.default_rng(0)
    y = random.normal(size=50_000)
    calibration = ConformalCalibration.fit(y, np.zeros(50_000), bounds=(-100, None))
    assert len(calibration.overall[0][0]) <= 2000
    assert calibration.highest_level() == pytest.approx(50_000 / 50_001, abs=1e-9)
    for level in (*LEVELS, 0.999):
        exact = np.sort(np.abs(y))[int(np.ceil(50_001 * level)) - 1]
        found = calibration.interval(np.zeros(1), level)[1][0]
        assert exact <= found <= np.sort(np.abs(y))[min(int(np.ceil(50_001 * (level + 1 / 2000))), 49_999)]


# --- coverage ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("scale", ["identity", "log1p"])
def test_coverage_is_exact_over_repeats(symmetric, scale):
    random = np.random.default_rng(1)
    n, repeats = 99, 400  # (n + 1) * level and half of it are whole numbers at these levels: coverage is the level itself
    found = {level: [] for level in (0.5, 0.8, 0.9, 0.96)}
    for _ in range(repeats):
        predicted, spread = random.uniform(5, 50, n + 200), 0.5
        y = np.expm1(np.log1p(predicted) + spread * random.normal(size=n + 200))
        calibration = ConformalCalibration.fit(y[:n], predicted[:n], scale=scale, symmetric=symmetric, bounds=(-0.99, None))
        for level, parts in found.items():
            parts.append(hits(calibration, y[n:], predicted[n:], level).mean())
    for level, parts in found.items():
        error = np.sqrt(level * (1 - level) * (1 / n + 1 / 200) / repeats)
        assert abs(np.mean(parts) - level) < 4 * error
        within = np.mean(np.array(parts) < beta(level * (n + 1), (1 - level) * (n + 1)).ppf(0.5))
        assert 0.35 < within < 0.65  # the coverage of one calibration is beta distributed (Vovk 2012)


def test_coverage_holds_for_few_profiles():
    random = np.random.default_rng(2)
    for n, level in ((3, 0.5), (3, 0.9), (19, 0.95), (18, 0.95)):
        found = []
        for _ in range(1000):
            y = random.lognormal(size=n + 1)
            found.append(hits(ConformalCalibration.fit(y[:n], np.ones(n)), y[n:], np.ones(1), level)[0])
        assert np.mean(found) > level - 4 * np.sqrt(level * (1 - level) / 1000)
        assert (level > n / (n + 1) + 1e-9) == np.all(found)


def test_two_sides_fit_skewed_errors():
    random = np.random.default_rng(4)
    y, test = (random.exponential(5, 20_000) + 20 for _ in range(2))
    centre = np.full(20_000, 21.0)
    one, two = (ConformalCalibration.fit(y, centre, symmetric=symmetric) for symmetric in (True, False))
    narrow, wide = two.interval(centre, 0.9), one.interval(centre, 0.9)
    assert np.mean(test < narrow[0]) == pytest.approx(0.05, abs=0.007)
    assert np.mean(test > narrow[1]) == pytest.approx(0.05, abs=0.007)
    assert np.mean(test < wide[0]) == 0
    assert interval_score(test, *narrow, 0.9).mean() < 0.9 * interval_score(test, *wide, 0.9).mean()


def test_each_group_holds_its_level_and_a_small_one_gets_the_rest():
    random = np.random.default_rng(5)

    def draw(n):
        group = random.choice(["clay", "peat", "rare"], n, p=[0.6, 0.395, 0.005])
        size = np.array([{"clay": 1.0, "peat": 8.0, "rare": 1.0}[g] for g in group])
        return 50 + size * random.normal(size=n), np.full(n, 50.0), group

    y, predicted, group = draw(4000)
    calibration = ConformalCalibration.fit(y, predicted, strata=group)
    assert set(calibration.strata) == {"clay", "peat"}
    test, centre, label = draw(8000)
    found = hits(calibration, test, centre, 0.9, label)
    for name in ("clay", "peat"):
        assert found[label == name].mean() == pytest.approx(0.9, abs=0.025)
    assert hits(calibration, test, centre, 0.9)[label == "clay"].mean() > 0.97
    ends = [calibration.interval(np.array([50.0]), 0.9, name)[1][0] for name in ("rare", "never seen", None)]
    assert ends[0] == ends[1] == ends[2]
    assert (calibration.interval(centre, 0.9, "peat")[1] > calibration.interval(centre, 0.9, "clay")[1]).all()


def test_strata_count_groups_and_may_be_integers():
    y = np.arange(120.0)
    calibration = ConformalCalibration.fit(
        y, np.zeros(120), strata=np.repeat([3, 7], 60), groups=np.r_[np.zeros(60), np.arange(60)]
    )
    assert set(calibration.strata) == {"7"}
    assert (
        calibration.interval(np.zeros(2), 0.5, np.array([7, 3]))[1].tolist()
        == calibration.interval(np.zeros(2), 0.5, np.array(["7", "3"]))[1].tolist()
    )
    assert calibration.highest_level(7) == pytest.approx(60 / 61)


def clustered(random, blocks):
    """Return errors and blocks: a shared error each, one block in eight crowded, and crowded ones well predicted."""
    crowded = random.random(blocks) < 0.125
    unit = np.repeat(np.arange(blocks), np.where(crowded, 100, random.integers(1, 8, blocks)))
    width = np.where(crowded, 0.4, 1.0)
    return 30 + (width * random.normal(0, 2, blocks))[unit] + random.normal(0, 0.5, len(unit)), unit


@pytest.mark.parametrize("level", [0.8, 0.9])
def test_intervals_of_groups_cover_profiles_of_new_blocks(level):
    random = np.random.default_rng(6)
    gaps = []
    for _ in range(150):
        y, group = clustered(random, 60)
        test, _ = clustered(random, 60)
        pooled = ConformalCalibration.fit(y, np.full(len(y), 30.0), groups=group)
        gaps.append(hits(pooled, test, np.full(len(test), 30.0), level).mean() - level)
    assert abs(np.mean(gaps)) < 0.02


# --- ends --------------------------------------------------------------------------------------------------------


def test_ends_lie_between_the_bounds_and_round_the_prediction():
    random = np.random.default_rng(7)
    y, predicted = random.lognormal(2, 1, 300), random.lognormal(2, 0.8, 300)
    for scale in ("identity", "log1p"):
        calibration = ConformalCalibration.fit(y, predicted, scale=scale, bounds=(0, 40))
        last = predicted.clip(0, 40), predicted.clip(0, 40)
        for level in LEVELS:
            lower, upper = calibration.interval(predicted, level)
            assert lower.min() >= 0
            assert upper.max() <= 40
            assert (lower <= last[0]).all()
            assert (upper >= last[1]).all()
            last = lower, upper


def test_a_prediction_beyond_the_bounds_is_treated_as_in_the_calibration():
    calibration = ConformalCalibration.fit(np.arange(9.0), np.arange(9.0) - 3, symmetric=False, bounds=(0, 20))  # always 3 too low
    assert [end.tolist() for end in calibration.interval(np.array([-1.0, 30]), 0.8)] == [[2, 20], [2, 20]]


def test_a_map_with_gaps_keeps_its_shape_and_gaps():
    calibration = ConformalCalibration.fit(
        np.arange(20.0), np.zeros(20), scale="log1p", strata=np.repeat([1, 2], 10), smallest_stratum=5
    )
    cells = np.array([[1.0, np.nan, 3], [4, 5, 6]])
    lower, upper = calibration.interval(cells, 0.5, np.array([[1, 1, 1], [2, 2, 9]]))
    assert np.isnan(lower).tolist() == np.isnan(upper).tolist() == [[False, True, False], [False] * 3]
    one = [calibration.interval(np.array([value]), 0.5, group)[1][0] for value, group in ((1, 1), (4, 2), (6, 9))]
    assert [upper[0, 0], upper[1, 0], upper[1, 2]] == one


# --- refusals ----------------------------------------------------------------------------------------------------

GOOD = {"y": np.arange(1.0, 5), "predicted": np.ones(4)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"y": np.array([1.0, np.nan, 2, 3])}, "y has 1 values"),
        ({"predicted": np.array([1.0, np.nan, np.inf, 3])}, "predicted has 2 values"),
        ({"y": np.ones(3)}, "one length"),
        ({"y": np.ones(0), "predicted": np.ones(0)}, "0 profiles"),
        ({"y": np.array([1.0, -1, 2, 3]), "scale": "log1p"}, r"ln\(1 \+ y\)"),
        ({"scale": "log"}, "neither"),
        ({"groups": np.ones(3)}, "groups"),
        ({"strata": np.array(["a"] * 3)}, "strata"),
        ({"strata": np.ones(4)}, "text or integers"),
        ({"strata": np.array(["a", "b", None, "c"], object)}, "text or integers"),
        ({"bounds": (3, 1)}, "bounds"),
        ({"bounds": (-2, None), "scale": "log1p"}, "bounds"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(change, said):
    ConformalCalibration.fit(**GOOD)
    with pytest.raises(ValueError, match=said):
        ConformalCalibration.fit(**GOOD | change)


@pytest.mark.parametrize("symmetric", [True, False])
def test_round_trip_through_a_checkpoint_of_plain_content(symmetric):
    random = np.random.default_rng(8)
    y, group = random.lognormal(size=500), random.choice(["a", "b"], 500)
    calibration = ConformalCalibration.fit(
        y, np.ones(500), scale="log1p", symmetric=symmetric, strata=group, bounds=(0, np.float64(9))
    )
    file = io.BytesIO()
    torch.save({"calibration": calibration.to_plain()}, file)
    file.seek(0)
    assert ConformalCalibration.from_plain(torch.load(file, weights_only=True)["calibration"]) == calibration


@pytest.mark.parametrize(
    "change",
    [
        {"scale": "log"},
        {"scale": []},
        {"bounds": None},
        {"bounds": [0.0]},
        {"bounds": [None, 1.0]},
        {"bounds": [2.0, 1.0]},
        {"bounds": [-1.0, None]},
        {"bounds": [0.0, float("inf")]},
        {"overall": None},
        {"overall": []},
        {"overall": [[[1.0], [0.5]]] * 3},
        {"overall": [[[1.0]]]},
        {"overall": [[[], []]]},
        {"overall": [[[1.0], [0.5, 0.6]]]},
        {"overall": [[[2.0, 1.0], [0.5, 0.6]]]},
        {"overall": [[[1.0, 2.0], [0.6, 0.5]]]},
        {"overall": [[[1.0, 2.0], [0.5, 1.0]]]},
        {"overall": [[[1.0, 2.0], [0.0, 0.5]]]},
        {"overall": [[[float("nan")], [0.5]]]},
        {"overall": [[["1"], [0.5]]]},
        {"overall": [[[0.0] * 2001, list(np.linspace(0.1, 0.9, 2001))]]},
        {"strata": None},
        {"strata": {1: [[[1.0], [0.5]]]}},
        {"strata": {"a": None}},
        {"strata": {"a": [[[1.0], [0.5]]] * 2}},
        {"strata": {str(k): [[[1.0], [0.5]]] for k in range(1001)}},
        {"more": 1},
    ],
)
def test_invalid_content_of_an_untrusted_file_is_refused(change):
    plain = ConformalCalibration.fit(**GOOD, scale="log1p").to_plain()
    ConformalCalibration.from_plain(plain)
    with pytest.raises(ValueError, match="calibration:"):
        ConformalCalibration.from_plain(plain | change)


@pytest.mark.parametrize("level", [0.0, 1.0, 90])
def test_a_level_out_of_range_is_refused(level):
    with pytest.raises(ValueError, match="between 0 and 1"):
        ConformalCalibration.fit(**GOOD).interval(np.ones(4), level)


def test_a_calibration_written_by_version_0_1_is_read():
    plain = ConformalCalibration.fit(**GOOD).to_plain()
    old = {"groups" if name == "strata" else name: value for name, value in plain.items()} | {"floor": None}
    assert ConformalCalibration.from_plain(old) == ConformalCalibration.from_plain(plain)
    with pytest.raises(ValueError, match="expected bounds"):
        ConformalCalibration.from_plain(old | {"floor": 0.1})


def test_content_that_lacks_something_or_is_no_mapping_is_refused():
    plain = ConformalCalibration.fit(**GOOD).to_plain()
    for content in (None, [], "text", {}, {k: v for k, v in plain.items() if k != "scale"}, {1: 2}):
        with pytest.raises(ValueError, match="expected bounds, "):
            ConformalCalibration.from_plain(content)
