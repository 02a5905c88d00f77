"""Figures: what they show is read back from the axes before they are saved, and from the file after."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from soilcarbon import figures


@pytest.fixture(autouse=True)
def _coarse(monkeypatch):
    monkeypatch.setattr(figures, "DPI", 50)


@pytest.fixture
def drawn(monkeypatch):
    """Return a list that every figure saved is put into."""
    kept = []
    save = figures.save
    monkeypatch.setattr(figures, "save", lambda figure, path: (kept.append(figure), save(figure, path)))
    return kept


def soc(n, seed=0):
    random = np.random.default_rng(seed)
    observed = random.lognormal(2.5, 0.8, n)
    return observed, observed * random.lognormal(0, 0.4, n)


def ink(path):
    """Return the share of pixels that are not white, of an image that must be a PNG."""
    assert path.read_bytes().startswith(b"\x89PNG")
    return float((imread(path)[..., :3].min(axis=-1) < 0.95).mean())


@pytest.mark.parametrize("n", [1, 150])
def test_observed_against_predicted_draws_something_at_any_size(tmp_path, n):
    figures.observed_against_predicted(tmp_path / "new" / "figure.png", *soc(n), "g/kg", "anhui")
    assert 0.01 < ink(tmp_path / "new" / "figure.png") < 0.5
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["figure.png"]


@pytest.mark.parametrize("n", [150, 5000])
def test_both_axes_span_the_same_range_and_hold_every_profile(tmp_path, drawn, n):
    observed, predicted = soc(n)
    figures.observed_against_predicted(tmp_path / "f.png", observed, predicted, "g/kg", "anhui")
    axes = drawn[0].axes[0]
    assert axes.get_xlim() == axes.get_ylim()
    assert axes.get_xlim()[1] > max(observed.max(), predicted.max())
    shown = sum(len(c.get_offsets()) if n < 2000 else int(np.sum(c.get_array())) for c in axes.collections[:1])
    outside = sum(len(c.get_offsets()) for c in axes.collections[1:])
    assert shown + outside == n
    assert outside <= 0.005 * n


def test_skewed_content_gets_logarithmic_axes_and_symmetric_content_linear_ones(tmp_path, drawn):
    figures.observed_against_predicted(tmp_path / "f.png", *soc(200), "g/kg", "skewed")
    symmetric = np.random.default_rng(0).normal(10, 1, 200)
    figures.observed_against_predicted(tmp_path / "f.png", symmetric, symmetric + 0.5, "g/kg", "symmetric")
    assert [figure.axes[0].get_xscale() for figure in drawn] == ["log", "linear"]


def test_predictions_below_zero_are_shown_at_the_edge_and_counted(tmp_path, drawn):
    observed, predicted = soc(200)
    predicted[:3] = (-2, 0, 1e-6)
    figures.observed_against_predicted(tmp_path / "f.png", observed, predicted, "g/kg", "anhui")
    axes = drawn[0].axes[0]
    assert axes.get_ylim()[0] > 0.2  # 1e-6 does not stretch the axes over seven decades
    assert len(axes.collections[1].get_offsets()) == 3
    assert any(text.get_text().startswith("▼ 3 below") for text in axes.texts)


def test_the_title_says_how_many_and_how_well(tmp_path, drawn):
    figures.observed_against_predicted(
        tmp_path / "f.png", np.array([1.0, 2, 3, 4]), np.array([2.0, 2, 2, 6]), "g/kg", "anhui, test profiles"
    )
    axes = drawn[0].axes[0]
    assert axes.get_title() == "anhui, test profiles\nn = 4, RMSE 1.22, MAE 1, ME 0.5 g/kg; R² -0.20, CCC 0.67"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("observed (g/kg)", "predicted (g/kg)")


def test_residual_map_is_centred_at_zero_and_not_ruled_by_an_outlier(tmp_path, drawn):
    random = np.random.default_rng(0)
    lon, lat, residual = random.uniform(6, 10, 200), random.uniform(46, 48, 200), random.normal(0, 5, 200)
    residual[7] = 400
    figures.residual_map(tmp_path / "f.png", lon, lat, residual, "g/kg", "switzerland")
    axes = drawn[0].axes[0]
    points = axes.collections[0]
    assert points.norm.vmin == -points.norm.vmax
    assert 8 < points.norm.vmax < 13  # the 95th percentile of |N(0, 5)| is 9.8
    assert points.get_array()[-1] == 400  # drawn last, on top
    assert axes.get_aspect() == pytest.approx(1 / np.cos(np.deg2rad(47)), rel=0.01)
    assert "n = 200" in axes.get_title()
    assert ink(tmp_path / "f.png") > 0.1


@pytest.mark.parametrize("n", [1, 10_000])
def test_residual_map_draws_something_at_any_size(tmp_path, n):
    random = np.random.default_rng(0)
    figures.residual_map(tmp_path / "f.png", random.uniform(-180, 180, n), random.uniform(-60, 80, n), np.zeros(n), "g/kg", "zero")
    assert ink(tmp_path / "f.png") > 0.1


def test_skill_bars_show_each_method_once_per_region_and_leave_out_the_undefined(tmp_path, drawn):
    table = pd.DataFrame(
        {"region": region, "method": method, "n_test": 50, "mae": 5.0 + k, "mae_low": 4.0, "mae_high": 7.0}
        | {"ccc": ccc, "ccc_low": 0.1, "ccc_high": 0.8}
        for region in ("anhui", "denmark")
        for k, (method, ccc) in enumerate([("mean", np.nan), ("forest", 0.4), ("network", 0.5)])
    )
    figures.skill_bars(tmp_path / "f.png", table, "g/kg")
    mae, ccc = drawn[0].axes
    assert [bar.get_width() for bar in mae.patches] == [5, 6, 7, 5, 6, 7]
    assert [bar.get_width() for bar in ccc.patches] == [0.4, 0.5, 0.4, 0.5]
    assert [label.get_text() for label in mae.get_yticklabels()] == ["anhui\nn = 50", "denmark\nn = 50"]
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["mean", "forest", "network"]
    assert mae.get_xlabel() == "MAE (g/kg): less is better"
    assert ink(tmp_path / "f.png") > 0.1


def test_soc_maps_draw_every_map_on_one_ramp(tmp_path, drawn):
    random = np.random.default_rng(0)
    maps = []
    for k, (lon, lat) in enumerate(random.uniform(35, 45, (3, 2, 25))):
        values = np.where(random.uniform(size=(20, 30)) < 0.2, np.nan, 10.0**k * random.uniform(1, 2, (20, 30)))
        maps.append(figures.SocMap(f"map {k}", values, (0, 30, 60, 60), lon, lat))
    figures.soc_maps(tmp_path / "x.png", maps, "g/kg")
    assert ink(tmp_path / "x.png") > 0.2
    images = [ax.get_images()[0] for ax in drawn[0].axes if ax.get_images()]
    assert [image.axes.get_title() for image in images] == ["map 0", "map 1", "map 2"]
    assert len({(image.norm.vmin, image.norm.vmax) for image in images}) == 1
    assert list(images[0].get_extent()) == [0, 60, 30, 60]


def test_no_global_state_is_touched(tmp_path):
    import matplotlib._pylab_helpers as register

    figures.observed_against_predicted(tmp_path / "f.png", *soc(20), "g/kg", "anhui")
    assert not register.Gcf.figs
