"""Results and report of a comparison: tables by hand, figures with the numbers, escaped names."""

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest
from conftest import slow_but
from html_tags import Tags
from matplotlib.image import imread

from soilcarbon import figures as panels
from soilcarbon.benchmark import figures
from soilcarbon.benchmark.figures import looks
from soilcarbon.benchmark.methods import Method
from soilcarbon.benchmark.network_variants import SELECTED_ON_TEST
from soilcarbon.benchmark.report import FIGURES, as_markdown, in_words, skill_table, verdict, write_report
from soilcarbon.benchmark.results import MEAN, Comparison, find_strongest, floor_table, gather, pooled, selection_table
from soilcarbon.benchmark.runs import Run
from soilcarbon.categories import Category
from soilcarbon.html import Strong
from soilcarbon.io.manifest import MANIFEST, result_set
from soilcarbon.soil.dataset import Dataset

REGIONS = {"kenya": 8.0, "brazil": 22.0}
METHODS = {"mean": 1.34, "forest": 1.0, "quantile": 1.02, "tuned": 0.99, "best": 0.94}
STRATEGIES = ("random", "blocks")


def synthetic(shift=0.0, seed=0):
    """Return a comparison of five methods in two regions; MAE of the subject is changed by -6 + `shift` % +- 3."""
    random = np.random.default_rng(seed)
    rows, changes, covered, curves, predictions = [], [], [], [], []
    for region, level in REGIONS.items():
        for strategy in STRATEGIES:
            place = {"region": region, "strategy": strategy}
            for key, factor in METHODS.items():
                mae = level * factor * (1.12 if strategy == "blocks" else 0.95)
                ccc = np.nan if key == "mean" else 1.5 - factor
                value = {"mae": mae, "rmse": 1.9 * mae, "me": 0.04 * mae, "r2": 0.9 - factor / 2, "ccc": ccc, "rpiq": 0.9 / factor}
                value |= {f"{name}_log": 0.04 * v for name, v in value.items()}
                ends = {f"{s}_{end}": v + sign * 0.1 * abs(v) for s, v in value.items() for end, sign in (("low", -1), ("high", 1))}
                rows.append(place | {"method": key, "n_train": 80, "n_test": 100} | value | ends)
            for key in ("best", "quantile"):
                for at in (0.5, 0.9):
                    for stratum, n in (("all", 100), ("inside the area", 60)):
                        one = place | {"method": key, "level": at, "stratum": stratum, "n": n, "coverage": at - 0.01}
                        covered.append(one | {"mean_width": level, "interval_score": 1.4 * level})
            di, observed = random.lognormal(-1, 0.7, 60), level * random.lognormal(0.4, 0.7, 60)
            one = place | {"profile_id": [f"P{i}" for i in range(60)], "group": np.arange(60) // 3, "di": di}
            one |= {"lon": random.normal(30, 1, 60), "lat": random.normal(0, 1, 60), "observed": observed}
            one |= {"predicted": observed * np.exp(0.3 * random.normal(size=60)), "inside": (di < 0.5).astype(float)}
            predictions.append(pd.DataFrame(one))
        for size in (25, 100, 400):
            for repeat in range(2):
                for key in ("forest", "best"):
                    mae = level * METHODS[key] * (1 + (25 / size) ** 0.5) * random.lognormal(0, 0.03)
                    curves.append({"region": region, "method": key, "n_train": size, "repeat": repeat, "mae": mae, "ccc": 0.5})
    for region in [*REGIONS, MEAN]:
        for strategy in STRATEGIES:
            for key in METHODS.keys() - {"forest"}:
                mae = 100 * (METHODS[key] - 1) + (shift if key == "best" else 0)
                one = {"mae": mae, "rmse": 0.8 * mae, "ccc": -0.006 * mae, "r2": -0.005 * mae}
                scale = {"mae": 3.0, "rmse": 3.0, "ccc": 0.02, "r2": 0.02}
                ends = {f"{s}_{end}": v + sign * scale[s] for s, v in one.items() for end, sign in (("low", -1), ("high", 1))}
                changes.append({"region": region, "strategy": strategy, "method": key, "against": "forest"} | one | ends)
    selection = [
        {"region": region, "score": score, "chosen_on": on, "value": 0.5 + 0.03 * (on == "test")}
        for region in REGIONS
        for score in ("ccc", "rmse")
        for on in ("validation", "test")
    ]
    return Comparison(
        target="Soil organic carbon",
        unit="g/kg",
        subject="best",
        methods={key: Method(f"the {key}", "what", "network" if key in ("tuned", "best") else "baseline", None) for key in METHODS},
        strongest=dict.fromkeys(STRATEGIES, "forest"),
        regions={name: {"profiles": 100, "blocks": 20} for name in REGIONS},
        folds={"random": {}, "blocks": {"W (km)": dict.fromkeys(REGIONS, 3.1)}},
        scores=pd.DataFrame(rows),
        differences=pd.DataFrame(changes),
        curves=pd.DataFrame(curves),
        coverage=pd.DataFrame(covered),
        predictions=pd.concat(predictions, ignore_index=True),
        selection=pd.DataFrame(selection),
        floor=pd.DataFrame([{"region": r, "n": 100, "floor_mae": 0.5, "median_mae": 1.1, "subject_mae": 0.9} for r in REGIONS]),
        notes=["a note"],
        settings={"folds": 5},
        command="soilcarbon compare --config mine.yaml",
    )


# --- results by hand ----------------------------------------------------------------------------------------------------


def dataset(y, x):
    """Return a dataset of profiles by hand."""
    table = pd.DataFrame({"profile_id": [str(k) for k in range(len(y))], "lon": range(len(y)), "lat": 50.0})
    categories = (Category(name="topo", variables=("elevation", "slope")),)
    return Dataset(table, np.asarray(x, np.float32), np.asarray(y, float), {}, categories)


def test_the_floor_by_hand():
    data = dataset([1, 2, 6, 3, 50], [[0, np.nan]] * 4 + [[1, 1]])
    predicted = pd.DataFrame({"profile_id": data.ids, "observed": data.y, "predicted": data.y + [1, -1, 2, 0, 99], "region": "r"})
    row = floor_table({"r": data}, predicted).iloc[0]
    # of 1, 2, 3, 6 each against the median of the other three: 3-1, 3-2, 3-2, 6-2; of all five the median is 3
    assert (row["n"], row["floor_mae"], row["median_mae"]) == (4, (2 + 1 + 1 + 4) / 4, (2 + 1 + 0 + 3) / 4)
    assert row["subject_mae"] == 1.0
    assert np.isnan(floor_table({"r": data}, predicted[1:])["subject_mae"].iloc[0])  # one of them was not held out


def test_the_strongest_baseline_is_no_network_and_large_errors_do_not_outvote():
    values = {"a": {"mean": 100.0, "forest": 90.0, "tuned": 1.0}, "b": {"mean": 1.0, "forest": 2.0, "tuned": 0.1}}
    rows = [(region, method, mae) for region, its in values.items() for method, mae in its.items()]
    table = pd.DataFrame(rows, columns=["region", "method", "mae"]).assign(strategy="blocks")
    assert find_strongest(table, ["mean", "forest"]) == {"blocks": "mean"}


def test_selection_on_the_test_profiles_is_compared_by_fold_means():
    runs = [
        (
            Run("blocks", fold, ("tuned",), region="r"),
            pd.DataFrame({"observed": y, "n_train": 2, "fold": fold, "tuned": np.add(y, 2.0), SELECTED_ON_TEST: np.add(y, 1.0)}),
        )
        for fold, y in ((0, [1.0, 2.0]), (1, [3.0, 4.0]))
    ]
    found, curves = gather(runs)
    table = selection_table(found, "blocks").set_index(["score", "chosen_on"])["value"]
    assert (table["rmse", "validation"], table["rmse", "test"]) == (2.0, 1.0)
    assert curves["mae"].tolist() == [2.0, 2.0] and len(found["r", "blocks"]) == 4


def test_pooled_coverage_weighs_regions_by_their_profiles():
    rows = pd.DataFrame({"region": ["a", "b"], "level": 0.9, "n": [100, 300], "coverage": [0.8, 1.0], "mean_width": [4.0, 8.0]})
    found = pooled(rows.assign(interval_score=1.0), ["level"]).iloc[0]
    assert (found["coverage"], found["mean_width"], found["n"]) == (pytest.approx(0.95), pytest.approx(7.0), 400)


@pytest.mark.parametrize("factor", [2.0, 1.0, 0.5])
def test_errors_outside_the_area_do_not_depend_on_the_level(factor):
    """Profiles outside are ten times as rich, so errors in g/kg are larger there, whatever the relative ones are."""
    c, random = synthetic(), np.random.default_rng(0)
    out = c.predictions["inside"] == 0
    observed = np.where(out, 100.0, 10.0)
    wrong = random.normal(0, 0.2, len(observed)) * np.where(out, factor, 1.0)
    rows = c.predictions.assign(observed=observed, predicted=np.expm1(np.log1p(observed) + wrong))
    value, low, high = dataclasses.replace(c, predictions=rows).outside(list(REGIONS))
    assert low < value < high and value == pytest.approx(100 * (factor - 1), abs=45)


def test_gains_are_against_one_baseline_and_of_means_over_repeats():
    row = {"region": "a", "n_train": 50, "ccc": 0.5}
    curves = [row | {"method": "best", "repeat": k, "mae": mae} for k, mae in enumerate([8.0, 10.0])]
    curves += [row | {"method": key, "repeat": 0, "mae": mae} for key, mae in (("forest", 12.0), ("mean", 11.0))]
    ours, theirs, change = dataclasses.replace(synthetic(), curves=pd.DataFrame(curves)).gains()
    assert (ours, theirs) == ("best", "forest")
    assert change["a", 50] == pytest.approx(-25.0)


# --- verdict and tables -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shift", "words"),
    [
        (0.0, "is better than the strongest baseline, the forest (spatial blocks, mean of 2 regions): MAE "),
        (11.0, "is worse than the strongest baseline, the forest (spatial blocks, mean of 2 regions): MAE "),
        (5.0, "does not differ clearly from the strongest baseline, the forest (spatial blocks"),
    ],
)
def test_the_verdict_is_what_the_interval_allows(shift, words):
    assert verdict(synthetic(shift)).startswith(f"The best {words}")


def test_the_verdict_is_based_on_the_last_strategy():
    c = synthetic()
    rows = c.differences.copy()
    blocks = (rows["strategy"] == "blocks") & (rows["method"] == "best")
    rows.loc[blocks, ["mae_low", "mae_high"]] = [-8.0, 2.0]
    assert "does not differ clearly" in verdict(dataclasses.replace(c, differences=rows))
    one = dataclasses.replace(c, regions={"kenya": {}})
    assert "mean of 1 region)" in verdict(one)
    alone = dataclasses.replace(c, differences=pd.DataFrame())
    assert verdict(alone) == "The strongest method under spatial blocks is the forest; no network was compared with it."


@pytest.mark.parametrize(("shift", "words"), [(0.0, "clearly more"), (11.0, "clearly less"), (5.0, "no clear difference")])
def test_the_report_opens_with_a_plain_sentence_of_its_numbers(shift, words):
    c = synthetic(shift)
    said, errors = in_words(c), c.means.xs("blocks", level="strategy")["mae"]
    first = "Where no profile is near, a prediction of soil organic carbon by the best errs by "
    assert said.startswith(f"{first}{errors['best']:.3g} g/kg on average of 2 regions; by the forest")
    assert f"; by the forest, the strongest simple method, {errors['forest']:.3g} g/kg, {words}; one value for all places" in said
    assert said in as_markdown(c)
    assert "simple method" not in in_words(dataclasses.replace(c, differences=pd.DataFrame()))


def test_the_skill_table_is_the_mean_over_regions_sorted_by_the_last_strategy():
    c = synthetic()
    rows = c.scores.copy()
    rows.loc[(rows["region"] == "kenya") & (rows["method"] == "tuned"), "ccc"] = np.nan
    table = skill_table(dataclasses.replace(c, scores=rows))
    assert table.header[2:8] == ["MAE", "RMSE", "CCC", "R²", "RPIQ", "ME"]
    assert [title for title, _ in table.groups] == ["", "random folds", "spatial blocks"]
    blocks = [float(row[8]) for row in table.rows]
    own = rows[(rows["method"] == "best") & (rows["strategy"] == "blocks")]["mae"]
    assert blocks == sorted(blocks) and table.rows[0][:2] == ["the best", "network"] and table.rows[0][8] == f"{own.mean():.2f}"
    assert isinstance(table.rows[0][8], Strong) and not isinstance(table.rows[1][8], Strong)
    assert table.rows[1][4].endswith("*") and "*: of fewer regions" in table.caption


def test_markdown_holds_all_methods_under_all_strategies():
    text = as_markdown(synthetic())
    tables = [block.split("\n") for block in text.split("\n\n") if block.startswith("|")]
    assert [len(table) for table in tables] == [7, 7, 5]
    assert "| the tuned | −1.0 \\[−4.0, +2.0\\] | +0.006 \\[−0.014, +0.026\\] |" in text
    assert "random folds: MAE" in tables[0][0] and "    soilcarbon compare --config mine.yaml" in text


# --- the page -----------------------------------------------------------------------------------------------------------


SECTIONS = ["skill", "strategies", "curves", "intervals", "dissimilarity", "residuals", "selection", "floor", "methods"]


def sections(folder):
    tags = Tags((folder / "report.html").read_text())
    assert (tags.open, tags.wrong) == ([], [])
    return [each["id"] for each in tags.named("section") if "id" in each]


HOSTILE = "</style></td><script>document.title='broken'</script><img src=x onerror=alert(1)> {{x}} & \" ' $x^{_} | `b` \u2028"
DPI = 40


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The folder of a report that has every section, in which every name is hostile."""
    c, names = synthetic(), {"kenya": f"kenya {HOSTILE}", "best": f"best {HOSTILE}", "inside the area": HOSTILE}
    tables = {each.name: getattr(c, each.name) for each in dataclasses.fields(c)}
    tables = {name: table for name, table in tables.items() if isinstance(table, pd.DataFrame)}
    columns = ("region", "method", "stratum")
    tables = {name: table.replace({k: names for k in columns if k in table}) for name, table in tables.items()}
    regions = {names.get(name, name): {HOSTILE: HOSTILE} for name in REGIONS}
    methods = {names.get(key, key): Method(f"_{key} {HOSTILE}", HOSTILE, HOSTILE, None) for key in METHODS}
    facts = {"target": HOSTILE, "unit": HOSTILE, "subject": names["best"], "regions": regions}
    facts |= {"methods": methods, "notes": [HOSTILE], "settings": {HOSTILE: HOSTILE}, "command": HOSTILE}
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(panels, "DPI", DPI)
        write_report(folder, dataclasses.replace(c, **facts, **tables))
    return folder


def test_the_page_has_all_sections_and_figures_of_one_width_that_hold_ink(report):
    assert sections(report) == SECTIONS
    tags = Tags((report / "report.html").read_text())
    assert len(tags.named("img")) == len(FIGURES) and all(each["alt"] for each in tags.named("img"))
    for name in FIGURES:
        image = imread(report / f"{name}.png")[..., :3]
        assert image.shape[1] == pytest.approx(DPI * panels.WIDTH, abs=2)
        assert 0.01 < (image.min(axis=-1) < 0.95).mean() < 0.9
    for table in re.findall(r"<table.*?</table>", (report / "report.html").read_text(), re.DOTALL):
        rows = [re.findall(r"<t[hd]([^>]*)>", row) for row in re.findall(r"<tr.*?</tr>", table, re.DOTALL)]
        assert len({sum(int((re.findall(r'colspan="(\d+)"', cell) or [1])[0]) for cell in row) for row in rows}) == 1


def test_untrusted_names_do_not_become_markup(report):
    text = (report / "report.html").read_text()
    tags = Tags(text)
    assert not tags.named("script") and {each["src"][:11] for each in tags.named("img")} == {"data:image/"}
    assert not [name for _, attributes in tags.found for name in attributes if name.startswith("on")]
    assert text.count("document.title=") > 50
    lines = (report / "report.md").read_text().split("\n")
    assert [line[:4] for line in lines if "<script" in line] == ["    "]  # the command, as code


def test_what_is_empty_is_left_out_with_its_section_and_figure(tmp_path):
    with result_set(tmp_path, "compare") as new:
        for name in FIGURES:
            (new / f"{name}.png").write_bytes(b"of an earlier report")
    none = {name: pd.DataFrame() for name in ("differences", "curves", "coverage", "predictions", "selection", "floor")}
    with result_set(tmp_path, "compare") as new:
        write_report(new, dataclasses.replace(synthetic(), settings=None, notes=(), **none))
    assert sections(tmp_path) == ["skill", "strategies", "methods"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.md", MANIFEST, "strategies.png"]


@pytest.mark.parametrize(
    "missing", slow_but(["curves", "coverage", "predictions", "selection", "floor"], "coverage", "predictions")
)
def test_any_section_can_be_missing_alone(missing, tmp_path, no_drawing):
    write_report(tmp_path, dataclasses.replace(synthetic(), **{missing: pd.DataFrame()}))
    gone = {"predictions": ["dissimilarity", "residuals"], "coverage": ["intervals"]}.get(missing, [missing])
    assert sections(tmp_path) == [name for name in SECTIONS if name not in gone]


def test_baselines_can_be_compared_without_a_network(tmp_path, no_drawing):
    c = synthetic()
    tables = {
        name: table[~table["method"].isin(["tuned", "best"])]
        for name, table in vars(c).items()
        if name in ("scores", "differences")
    }
    none = dict.fromkeys(("curves", "coverage", "predictions", "selection"), pd.DataFrame())
    write_report(tmp_path, dataclasses.replace(c, subject="regional", **tables, **none))
    assert sections(tmp_path) == ["skill", "strategies", "floor", "methods"]
    assert "no network was compared with it" in (tmp_path / "report.md").read_text()


# --- figures ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were drawn, which are not written."""
    kept = []
    monkeypatch.setattr(figures, "save", lambda figure, _: kept.append(figure))
    return kept


def test_differences_are_at_their_values_and_far_ones_at_the_edge(tmp_path, drawn):
    look = looks({key: key for key in "abcdef"}, ["a"], "a", "b")
    table = pd.DataFrame({"strategy": "s", "method": list("abcdef"), "value": [-5.0, 1, 2, 3, 4, 300]})
    table = table.assign(low=table["value"] - 2, high=table["value"] + 2)
    figures.differences(tmp_path / "f.png", table, look, {"s": "blocks"}, "change", "%")
    axes = drawn[0].axes[0]
    points = {round(float(line.get_xdata()[0]), 6): line for line in axes.lines if line.get_marker() in ("s", "o")}
    assert set(points) == {-5, 1, 2, 3, 4}
    assert points[-5].get_marker() == "s" and points[-5].get_color() == figures.NETWORK
    assert points[1].get_marker() == "o" and points[1].get_color() == figures.BASELINE
    assert axes.get_xlim()[1] < 50 and [text.get_text() for text in axes.texts] == ["+300 %"]


def test_seven_methods_look_different():
    found = looks({key: key for key in "abcdefg"}, "abc", "a", "d")
    assert len({(each.colour, each.marker) for each in found.values()}) == 7
    assert found["a"].colour == figures.NETWORK and found["d"].colour == figures.BASELINE


def test_curves_are_means_over_repeats_on_a_logarithmic_axis(tmp_path, drawn):
    numbers = {"n_train": [25, 25, 100, 100], "repeat": [0, 1] * 2, "mae": [4.0, 6, 2, 3]}
    curves = pd.DataFrame({"region": "a", "method": "best"} | numbers)
    figures.learning_curves(tmp_path / "f.png", curves, looks({"best": "best"}, ["best"], "best", ""), "mae", "MAE")
    axes = drawn[0].axes[0]
    assert axes.get_xscale() == "log" and list(axes.lines[0].get_ydata()) == [5.0, 2.5]
    band = axes.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (2, 6)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["25", "100"]


@pytest.mark.parametrize("n", [1, 7, 500])
def test_errors_are_binned_with_every_profile_counted_once(tmp_path, drawn, n):
    random = np.random.default_rng(0)
    table = pd.DataFrame({"region": "a", "observed": random.lognormal(2, 1, n), "predicted": 8.0, "di": random.lognormal(0, 1, n)})
    figures.error_against_dissimilarity(tmp_path / "f.png", table.assign(inside=1.0), "g/kg")
    axes = drawn[0].axes[0]
    assert sum(int(text.get_text()) for text in axes.texts) == n
    assert axes.get_xscale() == ("linear" if n == 1 else "log")


@pytest.mark.parametrize("n", [1, 400])
def test_residual_maps_are_symmetrical_and_show_signs_by_shape(tmp_path, drawn, n):
    random = np.random.default_rng(0)
    table = pd.DataFrame({"region": "a", "lon": random.uniform(6, 10, n), "lat": random.uniform(46, 48, n), "predicted": 5.0})
    figures.residual_maps(tmp_path / "f.png", table.assign(observed=5.0 + random.normal(0, 5, n)), "g/kg")
    up, down = drawn[0].axes[0].collections
    assert up.norm.vmin == -up.norm.vmax
    assert len(up.get_array()) + len(down.get_array()) == n
    assert (up.get_array() >= 0).all() and (down.get_array() < 0).all()
