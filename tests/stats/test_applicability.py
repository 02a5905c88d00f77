"""The area of applicability against hand-worked numbers, plain double loops and a planted region outside the domain."""

import io

import numpy as np
import pytest
import torch

from soilcarbon.stats import applicability
from soilcarbon.stats.applicability import ApplicabilityArea


def world(n: int = 120, p: int = 5, seed: int = 0):
    """Return predictors of very unlike units, weights and folds."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, p)) * 10.0 ** np.arange(p) + 100 * random.normal(size=p)
    return x, random.uniform(0.1, 3, p), random.integers(0, 4, n)


def naive(x, weights, folds, new):
    """Return threshold, index and density, one pair of rows at a time."""
    std = x.std(axis=0, ddof=1)

    def apart(a, b):
        return np.sqrt(np.sum(((a - b) / std * weights) ** 2))

    n = len(x)
    mean_distance = sum(apart(x[i], x[j]) for i in range(n) for j in range(i)) / (n * (n - 1) / 2)
    training = [min(apart(x[i], x[j]) for j in range(n) if folds[i] != folds[j]) / mean_distance for i in range(n)]
    low, high = np.percentile(training, [25, 75])
    threshold = min(max(training), high + 1.5 * (high - low))
    distances = np.array([[apart(row, point) for point in x] for row in new]) / mean_distance
    return threshold, distances.min(axis=1), (distances <= threshold).sum(axis=1)


def test_three_points_on_a_line_by_hand():
    # 0, 1, 5: mean 2, variance (4 + 1 + 9) / 2 = 7, pairs 1, 4, 5 apart, 10 / 3 on average. To the nearest other one:
    # 1, 1, 4, so indices 0.3, 0.3, 1.2; quartiles 0.3 and 0.75; 0.75 + 1.5 * 0.45 = 1.425 is above the largest, 1.2
    area = ApplicabilityArea.fit(np.array([[0.0], [1], [5]]), np.array([7.0]))
    assert area.mean_distance == pytest.approx(10 / 3 / np.sqrt(7))
    assert area.threshold == pytest.approx(1.2)
    index, density = area.assess(np.array([[-2.0], [1.1], [9.1], [2.5]]))
    assert index == pytest.approx([0.6, 0.03, 1.23, 0.45], abs=1e-6)
    assert density.tolist() == [2, 3, 0, 3]  # 4 is the reach: 0 and 1 lie within that of -2, all three of 1.1 and 2.5
    assert area.inside(np.array([[-2.0], [9.1]])).tolist() == [1, 0]


def test_an_outlier_among_the_training_indices_does_not_set_the_threshold():
    # 0, 1, ..., 9 and 100: nearest distances are ten times 1 and once 91; the quartiles agree, so the threshold is 1
    area = ApplicabilityArea.fit(np.append(np.arange(10.0), 100)[:, None])
    assert area.threshold * area.mean_distance * area.std[0] == pytest.approx(1, abs=1e-5)


def test_equals_a_plain_double_loop(monkeypatch):
    x, weights, folds = world()
    new = np.concatenate([x[:10], world(60, seed=1)[0] * 1.5])
    threshold, index, density = naive(x, weights, folds, new)
    monkeypatch.setattr(applicability, "_BLOCK", 7 * len(x))  # blocks that do not divide the rows
    area = ApplicabilityArea.fit(x, weights, folds)
    assert area.threshold == pytest.approx(threshold, rel=1e-6)
    found = area.assess(new)
    assert found[0] == pytest.approx(index, abs=1e-6)
    assert (found[1] == density).all()
    assert 0 < (index <= threshold).mean() < 1
    assert (area.index(new) == found[0]).all()
    assert (area.density(new) == found[1]).all()
    assert (area.inside(new) == (density > 0)).all()


def test_units_order_and_size_of_weights_do_not_matter():
    x, weights, folds = world()
    new = world(50, seed=1)[0]
    before = ApplicabilityArea.fit(x, weights, folds)
    scale, shift = np.array([3.0, 0.1, 50, 2, 7]), np.array([1.0, -5, 0, 20, 3])
    columns, rows = [3, 1, 0, 4, 2], np.random.default_rng(2).permutation(len(x))
    for area, cells in (
        (ApplicabilityArea.fit(x * scale + shift, weights, folds), new * scale + shift),
        (ApplicabilityArea.fit(x[:, columns], weights[columns], folds), new[:, columns]),
        (ApplicabilityArea.fit(x[rows], weights, folds[rows]), new),
        (ApplicabilityArea.fit(x, weights * 1000, folds + 17), new),
    ):
        assert area.threshold == pytest.approx(before.threshold, rel=1e-6)
        assert area.index(cells) == pytest.approx(before.index(new), abs=1e-5)


def test_a_planted_region_outside_the_domain_is_found_and_the_rest_is_not():
    random = np.random.default_rng(3)
    training, same = random.normal(size=(400, 6)), random.normal(size=(1000, 6))
    planted = random.normal(size=(300, 6)) + np.array([6.0, 0, 0, -6, 0, 0])
    area = ApplicabilityArea.fit(training, folds=np.arange(400) % 10)
    assert area.inside(same).mean() > 0.95
    assert (area.inside(planted) == 0).all()
    assert (area.density(planted) == 0).all()
    assert area.density(same * 0.1).mean() > 5 * area.density(same * 1.5).mean()


def test_a_place_that_lacks_a_predictor_is_neither_inside_nor_outside():
    x, weights, folds = world()
    area = ApplicabilityArea.fit(x, weights * [1, 1, 1, 1, 0], folds)
    gaps = x[:5].copy()
    gaps[np.arange(5), np.arange(5)] = np.nan
    index, density = area.assess(gaps)
    assert np.isnan(index).tolist() == np.isnan(density).tolist() == [True] * 4 + [False]  # the fifth has no weight
    assert np.isnan(area.inside(gaps)).tolist() == [True] * 4 + [False]
    assert (area.inside(gaps)[4], density[4] >= 1) == (1, True)
    assert np.isnan(area.is_inside(index.astype(np.float32))).sum() == 4


def test_training_profiles_that_lack_a_predictor_are_left_out_as_complete_cases(caplog):
    x, weights, folds = world()
    gappy = np.concatenate([x, x[:20]])
    gappy[120:, 2] = np.nan
    with caplog.at_level("INFO"):
        area = ApplicabilityArea.fit(gappy, weights, np.r_[folds, folds[:20]])
    assert "20 of 140 training profiles lack a predictor" in caplog.text
    assert (len(area.points), area.profiles, area.density_name) == (120, 120, "lpd")
    assert area.to_plain() == ApplicabilityArea.fit(x, weights, folds).to_plain()
    with pytest.raises(ValueError, match="1 of 3 training profiles lack no predictor"):
        ApplicabilityArea.fit(np.array([[0.0, np.nan], [np.nan, 1], [3, 4]]))


def test_a_predictor_that_does_not_vary_or_is_never_known_has_no_weight():
    x, weights, folds = world()
    area = ApplicabilityArea.fit(np.c_[x, np.full(len(x), 0.1), np.full(len(x), np.nan)], np.r_[weights, 1, 1], folds)
    assert area.weights[5:] == (0, 0)
    assert area.threshold == pytest.approx(ApplicabilityArea.fit(x, weights, folds).threshold, rel=1e-6)


def test_absurd_cells_are_outside_without_a_warning():
    x, weights, folds = world()
    area = ApplicabilityArea.fit(x, weights, folds)
    absurd = np.array([[np.inf] * 5, [-3.4e38] * 5, [1e300, 0, 0, 0, 0]])
    assert (area.inside(absurd) == 0).all()
    assert np.isfinite(area.index(absurd)).all()


def test_a_profile_far_from_the_mean_is_still_at_no_distance_from_itself():
    x = np.random.default_rng(5).normal(size=(200, 17))
    x[0] *= 1e4  # its square leaves float32 no digit for a small distance
    area = ApplicabilityArea.fit(x)
    assert area.index(x).max() < 1e-9
    assert (area.density(x) >= 1).all()


def test_thinning_is_seeded_said_and_keeps_the_area(caplog):
    random = np.random.default_rng(6)
    x, new = random.normal(size=(4000, 3)), random.normal(size=(2000, 3)) * 1.5
    folds = np.arange(4000) % 10
    whole, thin = ApplicabilityArea.fit(x, folds=folds), None
    with caplog.at_level("INFO"):
        thin = ApplicabilityArea.fit(x, folds=folds, max_points=800, seed=1)
    assert "800 of 4000" in caplog.text
    assert (len(thin.points), thin.profiles, whole.profiles) == (800, 4000, 4000)
    assert (thin.density_name, whole.density_name) == ("lpd_in_sample", "lpd")
    assert thin.mean == whole.mean
    assert thin.threshold == ApplicabilityArea.fit(x, folds=folds, max_points=800, seed=1).threshold
    assert thin.threshold != ApplicabilityArea.fit(x, folds=folds, max_points=800, seed=2).threshold
    assert (thin.inside(new) == whole.inside(new)).mean() > 0.8
    assert thin.inside(new).mean() == pytest.approx(whole.inside(new).mean(), abs=0.06)


@pytest.mark.parametrize(
    ("x", "weights", "folds", "said"),
    [
        (np.zeros((1, 2)), None, None, "two or more profiles"),
        (np.array([[0.0, np.inf], [1, 2]]), None, None, "infinite"),
        (np.eye(3), [1, 1], None, "one per column"),
        (np.eye(3), [1, 1, np.nan], None, "finite"),
        (np.eye(3), None, [0, 1], "one per row"),
        (np.eye(3), None, [4, 4, 4], "one fold"),
        (np.ones((3, 2)), None, None, "varies"),
    ],
)
def test_what_cannot_be_fitted_is_refused(x, weights, folds, said):
    with pytest.raises(ValueError, match=said):
        ApplicabilityArea.fit(x, weights, folds)


def test_rows_of_other_predictors_are_refused():
    area = ApplicabilityArea.fit(*world())
    with pytest.raises(ValueError, match="5 predictors"):
        area.index(np.zeros((3, 4)))


def test_round_trip_through_a_checkpoint_of_plain_content():
    area, new = ApplicabilityArea.fit(*world()), world(50, seed=1)[0]
    file = io.BytesIO()
    torch.save({"applicability": area.to_plain()}, file)
    file.seek(0)
    again = ApplicabilityArea.from_plain(torch.load(file, weights_only=True)["applicability"])
    assert all((a == b).all() for a, b in zip(again.assess(new), area.assess(new), strict=True))
    assert again.to_plain() == area.to_plain()


@pytest.mark.parametrize(
    "change",
    [
        {"points": None},
        {"points": b""},
        {"points": b"\0" * 4 * 5},
        {"points": b"\0" * (4 * 5 * 120 - 1)},
        {"points": np.full((120, 5), np.nan, "<f4").tobytes()},
        {"points": np.full((120, 5), 1e30, "<f4").tobytes()},
        {"mean": [0.0] * 4},
        {"mean": [0.0] * 4 + [float("nan")]},
        {"mean": [0.0] * 4 + ["0"]},
        {"mean": {}},
        {"mean": [], "std": [], "weights": []},
        {"std": [1.0] * 4 + [0.0]},
        {"std": [1.0] * 4 + [-1.0]},
        {"weights": [0.0] * 5},
        {"weights": [6.0, -1, 0, 0, 0]},
        {"weights": [1e20] * 5},
        {"mean_distance": 0.0},
        {"mean_distance": float("inf")},
        {"mean_distance": [1.0]},
        {"threshold": -1.0},
        {"threshold": True},
        {"profiles": 1},
        {"profiles": 200.5},
        {"profiles": 10**400},
        {"more": 1},
    ],
)
def test_invalid_content_of_an_untrusted_file_is_refused(change):
    plain = ApplicabilityArea.fit(*world()).to_plain()
    ApplicabilityArea.from_plain(plain)
    with pytest.raises(ValueError, match="applicability:"):
        ApplicabilityArea.from_plain(plain | change)


def test_content_that_lacks_something_or_is_no_mapping_is_refused():
    plain = ApplicabilityArea.fit(*world()).to_plain()
    for content in (None, [], "text", {}, {k: v for k, v in plain.items() if k != "std"}, {1: 2}):
        with pytest.raises(ValueError, match="expected mean, "):
            ApplicabilityArea.from_plain(content)
