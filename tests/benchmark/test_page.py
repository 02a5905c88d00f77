"""The report of a comparison: it says what its tables say, and nothing that is put into it can break it."""

import dataclasses
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from soilcarbon import figures as panels
from soilcarbon.benchmark import figures as comparefigures
from soilcarbon.benchmark.comparison import fixed, looks, percent, pooled, verdict
from soilcarbon.benchmark.page import MEAN, Comparison, as_markdown, write_report
from soilcarbon.benchmark.sections import FIGURES
from soilcarbon.benchmark.tables import Best, answer, claim, skill_table

REGIONS = {"south_brazil": 1175, "kenya": 1130, "south_africa": 1190, "north_macedonia": 2970}
LEVEL = {"south_brazil": 22.0, "kenya": 8.0, "south_africa": 3.7, "north_macedonia": 14.0}
WAYS = {
    "random": "Single profiles: the score of filling gaps between profiles.",
    "blocks": "Square blocks: the score on land some way from any profile.",
}
METHODS = {
    "mean": (1.34, "Mean of the training profiles"),
    "median": (1.22, "Median of the training profiles"),
    "idw": (1.12, "Inverse distance weighting"),
    "kriging": (1.08, "Ordinary kriging of ln(1 + SOC)"),
    "linear": (1.10, "Linear regression on ln(1 + SOC)"),
    "elastic": (1.09, "Elastic net on ln(1 + SOC)"),
    "knn": (1.07, "Nearest neighbours in covariate space"),
    "svr": (1.05, "Support vector regression"),
    "cubist": (1.03, "Cubist-like rules"),
    "forest": (1.02, "Random forest"),
    "logforest": (1.00, "Random forest on ln(1 + SOC)"),
    "qrf": (1.015, "Quantile random forest"),
    "boosting": (1.01, "Gradient boosting"),
    "rk": (1.005, "Regression kriging"),
    "scratch": (1.06, "Network from scratch"),
    "pretrained": (1.04, "Network, not fine-tuned"),
    "tuned": (0.99, "Network, fine-tuned"),
    "best": (0.94, "Network, fine-tuned, ensemble of 5"),
}
NETWORKS = ("scratch", "pretrained", "tuned", "best")


def synthetic(shift=0.0, half=3.0, seed=0):
    """Return a comparison of 18 methods in 4 regions; MAE of the winner is changed by -6 + `shift` % +- `half`."""
    random = np.random.default_rng(seed)
    rows, changes, covered, curves, predictions = [], [], [], [], []
    for region, n in REGIONS.items():
        for way in WAYS:
            for key, (factor, _) in METHODS.items():
                mae = LEVEL[region] * factor * (1.12 if way == "blocks" else 0.95) * random.uniform(0.98, 1.02)
                if key == "best":
                    mae *= 1 + shift / 100
                ccc = (
                    np.nan
                    if key in ("mean", "median")
                    else float(np.clip(1.5 - factor, 0.05, 0.8)) * (0.8 if way == "blocks" else 1)
                )
                value = {
                    "mae": mae,
                    "rmse": 1.9 * mae,
                    "me": random.normal(0, 0.04) * mae,
                    "r2": (ccc - 0.05) if ccc == ccc else -0.02,
                }
                value |= {"ccc": ccc, "rpiq": 0.9 / factor}
                value |= {f"{name}_log": 0.04 * v if name in ("mae", "rmse", "me") else v for name, v in value.items()}
                ends = {f"{s}_{end}": v + sign * 0.1 * abs(v) for s, v in value.items() for end, sign in (("low", -1), ("high", 1))}
                rows.append({"region": region, "way": way, "method": key, "n_train": int(0.8 * n), "n_test": n} | value | ends)
    for region in [*REGIONS, MEAN]:
        for way in WAYS:
            for key, (factor, _) in METHODS.items():
                if key == "logforest":
                    continue
                mae = 100 * (factor - 1) + (shift if key == "best" else 0) + (random.normal(0, 1.5) if region != MEAN else 0)
                wide = half * (2 if region != MEAN else 1)
                one = {"mae": mae, "rmse": 0.8 * mae, "ccc": -0.6 * mae / 100, "r2": -0.5 * mae / 100}
                scale = {"mae": wide, "rmse": wide, "ccc": wide / 150, "r2": wide / 150}
                ends = {f"{s}_{end}": v + sign * scale[s] for s, v in one.items() for end, sign in (("low", -1), ("high", 1))}
                changes.append({"region": region, "way": way, "method": key, "against": "logforest"} | one | ends)
    for region, n in REGIONS.items():
        for size in (25, 50, 100, 200, 400, int(0.8 * n)):
            for repeat in range(5):
                for key in ("mean", "kriging", "logforest", "boosting", "scratch", "best"):
                    slow = {"mean": 0.02, "scratch": 0.9, "best": 0.25}.get(key, 0.5)
                    mae = LEVEL[region] * METHODS[key][0] * (1 + slow * (25 / size) ** 0.5) * random.lognormal(0, 0.03)
                    one = {"region": region, "method": key, "n_train": size, "repeat": repeat, "mae": mae}
                    curves.append(one | {"rmse": 1.9 * mae, "ccc": 0.9 - 0.5 * mae / LEVEL[region]})
        for way in WAYS:
            for key, off in (("best", -0.005), ("qrf", 0.025)):
                for level in (0.5, 0.8, 0.9, 0.95):
                    strata = (
                        "all",
                        "observed lowest third",
                        "observed middle third",
                        "observed highest third",
                        "inside",
                        "outside",
                    )
                    for k, stratum in enumerate(strata):
                        share = float(np.clip(level + off + random.normal(0, 0.008) - (0.03 * (k - 1) if k else 0), 0.02, 0.995))
                        width = LEVEL[region] * 4 * level * (1 if key == "best" else 1.18)
                        one = {"region": region, "way": way, "method": key, "level": level, "stratum": stratum}
                        one |= {"n": n if k == 0 else n // 3, "coverage": share, "low": share - 0.02, "high": share + 0.02}
                        covered.append(one | {"mean_width": width, "interval_score": 1.4 * width})
        k = REGIONS[region] // 3
        middle = {"south_brazil": (-51, -29), "kenya": (37.5, 0.2), "south_africa": (25, -29), "north_macedonia": (21.7, 41.6)}[
            region
        ]
        spread = 0.5 if region == "north_macedonia" else 2.5
        lon, lat = middle[0] + spread * random.normal(0, 1, k), middle[1] + 0.7 * spread * random.normal(0, 1, k)
        di = random.lognormal(-1, 0.7, k)
        observed = LEVEL[region] * random.lognormal(0.4, 0.7, k)
        wave = np.sin(3 * (lon - middle[0]) / spread) + random.normal(0, 0.7, k)
        predicted = observed * np.exp(0.3 * wave * (0.6 + di))
        for way in WAYS:
            one = {
                "region": region,
                "way": way,
                "profile_id": [f"P{i}" for i in range(k)],
                "lon": lon,
                "lat": lat,
                "unit": np.arange(k) // 3,
            }
            one |= {"observed": observed, "predicted": predicted, "di": di, "inside": (di < 0.95).astype(float)}
            predictions.append(pd.DataFrame(one))
    chosen = [
        {"region": region, "score": score, "chosen_on": on, "value": value + gap * (on == "test")}
        for region in REGIONS
        for score, value, gap in (("ccc", 0.5, 0.031), ("r2", 0.4, 0.022), ("rmse", 20.0, -0.7))
        for on in ("validation", "test")
    ]
    floor = [{"region": r, "n": 100 + k, "floor_mae": 0.55 * LEVEL[r], "median_mae": 1.1 * LEVEL[r]} for k, r in enumerate(REGIONS)]
    facts = {
        "title": "Soil organic carbon: a pretrained network beside 14 baselines",
        "target": "Soil organic carbon, 0-30 cm",
        "unit": "g/kg",
        "winner": "best",
        "strongest": dict.fromkeys(WAYS, "logforest"),
        "regions": {name: {"profiles": n, "blocks": n // 6} for name, n in REGIONS.items()},
        "ways": {
            "random": {"reason": WAYS["random"], "w_km": dict.fromkeys(REGIONS, 14.2)},
            "blocks": {"reason": WAYS["blocks"], "w_km": dict.fromkeys(REGIONS, 3.1)},
        },
        "settings": {"folds": 5, "seed": 0, "forest": {"trees": 500}},
        "methods": {
            key: {
                "label": label,
                "kind": "network" if key in NETWORKS else "baseline",
                "meaning": f"{label}, on the same covariates.",
            }
            for key, (_, label) in METHODS.items()
        },
        "notes": ["Profiles of one place are never parted by blocks."],
        "how": "python compare.py --regions south_brazil kenya south_africa north_macedonia",
    }
    tables = [rows, changes, curves, covered, pd.concat(predictions, ignore_index=True), chosen, floor]
    return Comparison(facts, *map(pd.DataFrame, tables))


class Tags(HTMLParser):
    """Keep all elements, the words of the page, and whether every element that is opened is closed in turn."""

    VOID = ("meta", "img", "br", "hr", "link")

    def __init__(self, text):
        super().__init__()
        self.found, self.words, self.open, self.wrong = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        if data.strip() and self.open[-1:] not in (["style"], ["script"]):
            self.words.append(data.strip())

    def named(self, name):
        return [attributes for tag, attributes in self.found if tag == name]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The folder of a report that has every section."""
    folder = tmp_path_factory.mktemp("report")
    write_report(folder, synthetic())
    return folder


def words_of(comparison):
    return [" ".join(each) for each in answer(comparison)]


def replaced(comparison, facts=None, **tables):
    return dataclasses.replace(comparison, facts=comparison.facts | (facts or {}), **tables)


def smaller(regions=("kenya", "north_macedonia"), methods=("mean", "logforest", "qrf", "scratch", "best")):
    """Return a comparison that has every table and is soon told."""
    c, tables = synthetic(), {}
    for field in dataclasses.fields(c)[1:]:
        rows = getattr(c, field.name)
        rows = rows[rows["region"].isin([*regions, MEAN])]
        tables[field.name] = rows[rows["method"].isin(methods)] if "method" in rows else rows
    return replaced(c, {"regions": {name: c.facts["regions"][name] for name in regions}}, **tables)


# --- the answer --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shift", "words", "size", "chance"),
    [
        (0.0, "Network, fine-tuned, ensemble of 5 is better than", "6.0 % lower (paired 95 % interval −9.0 to −3.0 %)", False),
        (11.0, "Network, fine-tuned, ensemble of 5 is worse than", "5.0 % higher (paired 95 % interval +2.0 to +8.0 %)", False),
        (5.0, "No difference can be told between", "1.0 % lower (paired 95 % interval −4.0 to +2.0 %)", True),
    ],
)
def test_the_answer_is_what_the_interval_allows(shift, words, size, chance):
    first = words_of(synthetic(shift))[0]
    assert first.startswith(words)
    assert size in first and "Random forest on ln(1 + SOC)" in first and "scored on spatial blocks" in first
    assert ("it may be chance" in first) is chance


def test_the_answer_counts_the_regions_where_mae_is_lower():
    c = synthetic()
    rows = c.differences.copy()
    rows.loc[(rows["region"] == "kenya") & (rows["method"] == "best"), "mae"] = 1.0
    assert "MAE is lower in 3 of 4 regions" in words_of(replaced(c, differences=rows))[0]


def test_ways_may_disagree_and_the_last_one_decides():
    c = synthetic()
    rows = c.differences.copy()
    blocks = (rows["way"] == "blocks") & (rows["method"] == "best") & (rows["region"] == MEAN)
    rows.loc[blocks, ["mae", "mae_low", "mae_high"]] = [-0.04, -2.0, 2.0]
    first, second, *_ = words_of(replaced(c, differences=rows))
    assert first.startswith("No difference can be told") and "0.0 % lower" in first
    assert second.startswith("Scored on random folds, it is better:")


def test_a_rival_of_another_way_is_named():
    c = synthetic()
    rows = c.differences.copy()
    rows.loc[rows["way"] == "random", "against"] = "rk"
    second = words_of(replaced(c, {"strongest": {"random": "rk", "blocks": "logforest"}}, differences=rows))[1]
    assert second.startswith("Scored on random folds, it is better against the strongest there, Regression kriging:")


def test_one_region_stands_for_the_mean():
    c = synthetic()
    one = c.differences[c.differences["region"] == "kenya"]
    first = words_of(replaced(c, {"regions": {"kenya": {}}}, differences=one))[0]
    assert "MAE is lower in 1 of 1 region." in first


def test_without_differences_no_verdict_is_made():
    assert words_of(replaced(synthetic(), differences=pd.DataFrame()))[0].startswith("Which is better cannot be said:")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mae_low": -2.0, "mae_high": -0.1}, "better"),
        ({"mae_low": 0.1, "mae_high": 3.0}, "worse"),
        ({"mae_low": -1.0, "mae_high": 0.0}, "open"),
        ({"mae_low": np.nan, "mae_high": np.nan}, "open"),
    ],
)
def test_verdicts(change, words):
    assert verdict(pd.Series(change)) == words


@pytest.mark.parametrize(
    ("share", "words"), [(0.9, "90.0 % of profiles, as promised"), (0.8, "too narrow"), (0.97, "more than promised")]
)
def test_intervals_are_judged(share, words):
    c = synthetic()
    told = words_of(replaced(c, coverage=c.coverage.assign(coverage=share)))[2]
    assert words in told.replace(f" ({100 * share:.1f} to {100 * share:.1f} by region)", "")


def test_pooled_coverage_weighs_regions_by_their_profiles():
    rows = pd.DataFrame({"region": ["a", "b"], "level": 0.9, "n": [100, 300], "coverage": [0.8, 1.0], "mean_width": [4.0, 8.0]})
    found = pooled(rows.assign(interval_score=1.0), ["level"]).iloc[0]
    assert (found["coverage"], found["mean_width"], found["n"]) == (pytest.approx(0.95), pytest.approx(7.0), 400)


def test_the_area_of_applicability_is_told_by_errors_inside_and_outside():
    c = synthetic()
    rows = c.predictions.assign(predicted=c.predictions["observed"] + np.where(c.predictions["inside"] == 1, 1.0, -3.0))
    told = words_of(replaced(c, predictions=rows))[3]
    assert "MAE is 1.00 g/kg inside and 3.00 outside (mean of 4 regions); on the scale of ln(1 + target)" in told
    assert told.endswith("outside: do not rely on the map there.")


@pytest.mark.parametrize(
    ("factor", "lesson"),
    [(2.0, "do not rely on the map there."), (1.0, "leaving it says little about errors here."), (0.5, "it warns in vain.")],
)
def test_outside_is_judged_by_errors_that_know_no_level(factor, lesson):
    """Profiles outside are ten times as rich, so errors in g/kg are larger there, whatever the relative ones are."""
    c, random = synthetic(), np.random.default_rng(0)
    out = c.predictions["inside"] == 0
    observed = np.where(out, 100.0, 10.0)
    wrong = random.normal(0, 0.2, len(observed)) * np.where(out, factor, 1.0)
    rows = c.predictions.assign(observed=observed, predicted=np.expm1(np.log1p(observed) + wrong))
    changed = replaced(c, predictions=rows)
    assert words_of(changed)[3].endswith(lesson)
    value, low, high = changed.outside(list(c.facts["regions"]))
    assert low < value < high and value == pytest.approx(100 * (factor - 1), abs=25)


def test_all_inside_or_untold_is_said():
    c = synthetic()
    rows = c.predictions
    everywhere = words_of(replaced(c, predictions=rows.assign(inside=1.0)))[3]
    assert everywhere.startswith("Where it may be used: 100.0 % of held-out profiles") and "too few lie outside" in everywhere
    assert len(words_of(replaced(c, predictions=rows.assign(inside=np.nan)))) == 3


@pytest.mark.parametrize(
    ("few", "many", "words"),
    [
        ([-20, -9], [-5, -2], "bear out the claim"),
        ([-2, -1], [-5, -2], "contradict the claim"),
        ([-9, -1], [-5, -2], "do not settle the claim"),
    ],
)
def test_the_claim_on_few_profiles_is_tested(few, many, words):
    index = pd.MultiIndex.from_product([["a", "b"], [25, 400]], names=["region", "n_train"])
    change = pd.Series(np.column_stack([few, many]).ravel().astype(float), index, name="mae")
    told = claim(change)
    assert words in told and f"{percent(np.mean(few))} with the fewest" in told


def test_gains_are_against_one_baseline_and_of_means_over_repeats():
    row = {"region": "a", "n_train": 50, "rmse": 1.0, "ccc": 0.5}
    curves = [row | {"method": "best", "repeat": k, "mae": mae} for k, mae in enumerate([8.0, 10.0])]
    curves += [row | {"method": key, "repeat": 0, "mae": mae} for key, mae in (("logforest", 12.0), ("mean", 11.0))]
    ours, theirs, change = replaced(synthetic(), curves=pd.DataFrame(curves)).gains()
    assert (ours, theirs) == ("best", "logforest")
    assert change["a", 50] == pytest.approx(-25.0)


@pytest.mark.parametrize(
    ("value", "places", "sign", "words"),
    [
        (-1.005, 1, True, "−1.0"),
        (0.04, 1, True, "0.0"),
        (-0.04, 1, True, "0.0"),
        (1234.5, 2, False, "1,234.50"),
        (np.nan, 2, True, "–"),
    ],
)
def test_numbers_have_a_true_minus_and_zeros_no_sign(value, places, sign, words):
    assert fixed(value, places, sign) == words


# --- tables ------------------------------------------------------------------------------------------------------


def test_the_skill_table_is_the_mean_over_regions_sorted_by_the_last_way():
    c = synthetic()
    table = skill_table(c)
    assert [name for _, group in table.groups for name in group][2:8] == ["MAE", "RMSE", "CCC", "R²", "RPIQ", "ME"]
    assert [title for title, _ in table.groups] == ["", "random folds", "spatial blocks"]
    blocks = [float(row[8]) for row in table.rows]
    assert len(blocks) == 18 and blocks == sorted(blocks)
    own = c.table[(c.table["method"] == "best") & (c.table["way"] == "blocks")]["mae"]
    first = table.rows[0]
    assert first[:2] == ["Network, fine-tuned, ensemble of 5", "network"] and first[8] == f"{own.mean():.2f}"
    assert isinstance(first[8], Best) and not isinstance(table.rows[1][8], Best)


def test_a_mean_of_fewer_regions_is_marked():
    c = synthetic()
    rows = c.table.copy()
    rows.loc[(rows["region"] == "kenya") & (rows["method"] == "idw"), "ccc"] = np.nan
    table = skill_table(replaced(c, table=rows))
    assert next(row for row in table.rows if row[0].startswith("Inverse"))[4].endswith("*")
    assert "*: of fewer regions" in table.caption


def test_the_markdown_tells_all_methods_in_both_ways(report):
    text = (report / "report.md").read_text()
    tables = [block.split("\n") for block in text.split("\n\n") if block.startswith("|")]
    assert [len(table) for table in tables] == [20, 20, 7]
    assert {line.count("|") for line in tables[0]} == {15}
    for _, label in METHODS.values():
        assert sum(line.startswith(f"| {label} |") for table in tables for line in table) == 2
    assert "| Network, fine-tuned | −1.0 \\[−4.0, +2.0\\] | +0.006 \\[−0.014, +0.026\\] |" in text
    assert "random folds: MAE" in tables[0][0] and "spatial blocks: MAE" in tables[0][0]
    assert "- **Network, fine-tuned, ensemble of 5 is better" in text and "    python compare.py" in text


def test_names_cannot_make_columns_or_markup_in_markdown():
    c = synthetic()
    methods = c.facts["methods"] | {"knn": {"label": "a | b\n<b>*c*", "kind": "baseline", "meaning": ""}}
    lines = as_markdown(replaced(c, {"methods": methods})).split("\n")
    assert "| a \\| b &lt;b&gt;\\*c\\* | baseline |" in next(line for line in lines if line.startswith("| a"))


# --- the page ----------------------------------------------------------------------------------------------------


def test_the_page_is_well_formed_and_labelled(report):
    tags = Tags((report / "report.html").read_text())
    assert (tags.open, tags.wrong) == ([], [])
    ids = [each["id"] for _, each in tags.found if "id" in each]
    assert len(ids) == len(set(ids)) == 9
    assert [each["href"] for each in tags.named("a")] == [f"#{name}" for name in ids]
    assert len(tags.named("h1")) == 1 and len(tags.named("h2")) == 9
    assert all(each.get("scope") in ("col", "colgroup", "row") for each in tags.named("th"))
    assert len(tags.named("caption")) == len(tags.named("table"))
    pictures = tags.named("img")
    assert len(pictures) == len(FIGURES) and all(each["alt"] for each in pictures)


def test_every_row_of_a_table_is_as_wide_as_its_header(report):
    for table in re.findall(r"<table.*?</table>", (report / "report.html").read_text(), re.DOTALL):
        rows = [re.findall(r"<t[hd]([^>]*)>", row) for row in re.findall(r"<tr.*?</tr>", table, re.DOTALL)]
        assert len({sum(int((re.findall(r'colspan="(\d+)"', cell) or [1])[0]) for cell in row) for row in rows}) == 1


def test_the_page_needs_neither_network_nor_scripts(report):
    text = (report / "report.html").read_text()
    tags = Tags(text)
    policy = next(each["content"] for each in tags.named("meta") if each.get("http-equiv"))
    assert policy.startswith("default-src 'none'; style-src 'sha256-") and "unsafe" not in policy and "script" not in policy
    assert all(each["src"].startswith("data:image/png;base64,") for each in tags.named("img"))
    assert not {tag for tag, _ in tags.found} & {"script", "link", "iframe", "object", "form"}
    assert not [name for _, attributes in tags.found for name in attributes if name.startswith("on") or name == "style"]
    bare = re.sub(r"[A-Za-z0-9+/=]{200,}", "", text).replace("http-equiv", "")
    assert "http" not in bare and "url(" not in bare and "@import" not in bare and "{{" not in bare


def test_every_region_has_its_scores_with_intervals_and_on_the_log_scale(report):
    words = Tags((report / "report.html").read_text()).words
    for region in REGIONS:
        assert f"{region}: all scores with intervals" in words
        for way in ("random folds", "spatial blocks"):
            assert len([each for each in words if each.startswith(f"{region}, {way}: scores")]) == 2


def test_what_is_empty_is_left_out_with_its_section_and_figure(report, tmp_path):
    for name in FIGURES:
        (tmp_path / f"{name}.png").write_bytes(b"of an earlier report")
    none = {name: pd.DataFrame() for name in ("differences", "curves", "coverage", "predictions", "selection", "floor")}
    write_report(tmp_path, replaced(smaller(), {"settings": {}, "notes": []}, **none))
    tags = Tags((tmp_path / "report.html").read_text())
    assert [each["id"] for each in tags.named("section") if "id" in each] == ["skill", "folds", "compared"]
    assert len(tags.named("a")) == 3 and (tags.open, tags.wrong) == ([], [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.md", "ways.png"]
    assert sorted(path.stem for path in report.glob("*.png")) == sorted(FIGURES)


@pytest.mark.parametrize("missing", ["curves", "coverage", "predictions", "selection", "floor"])
def test_any_section_can_be_missing_alone(missing, tmp_path, monkeypatch):
    for name in ("differences", "both_ways", "learning_curves", "coverage", "error_against_dissimilarity", "residual_maps"):
        monkeypatch.setattr(comparefigures, name, lambda path, *_: path.write_bytes(b"drawn elsewhere"))
    c = smaller()
    write_report(tmp_path, replaced(c, **{missing: getattr(c, missing).iloc[:0]}))
    gone = {"predictions": ["dissimilarity", "residuals"], "coverage": ["intervals"]}.get(missing, [missing])
    ids = [each["id"] for each in Tags((tmp_path / "report.html").read_text()).named("section") if "id" in each]
    every = ["skill", "folds", "curves", "intervals", "dissimilarity", "residuals", "selection", "floor", "compared"]
    assert ids == [name for name in every if name not in gone]


HOSTILE = (
    "</style></td><script>document.title='broken'</script><img src=x onerror=alert(1)> {{sections}} & \" ' $x^{_} | `b` \u2028"
)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A report whose every name tries to break out."""
    c = smaller()
    tables = {field.name: getattr(c, field.name) for field in dataclasses.fields(c)[1:]}
    names = {"kenya": f"kenya {HOSTILE}", "best": f"best {HOSTILE}", "inside": HOSTILE, "blocks": f"blocks {HOSTILE}"}
    tables = {
        name: table.replace({k: names for k in ("region", "method", "way", "stratum") if k in table})
        for name, table in tables.items()
    }
    facts = {
        "title": HOSTILE,
        "target": HOSTILE,
        "unit": HOSTILE,
        "winner": names["best"],
        "strongest": {"random": "logforest", names["blocks"]: "logforest"},
        "regions": {names.get(name, name): {HOSTILE: HOSTILE} for name in c.facts["regions"]},
        "ways": {"random": {"reason": HOSTILE}, names["blocks"]: {"reason": HOSTILE, HOSTILE: {names["kenya"]: HOSTILE}}},
        "settings": {HOSTILE: HOSTILE},
        "methods": {names.get(key, key): {"label": f"_{key} {HOSTILE}", "kind": HOSTILE, "meaning": HOSTILE} for key in METHODS},
        "notes": [HOSTILE],
        "how": HOSTILE,
    }
    folder = tmp_path_factory.mktemp("hostile")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("soilcarbon.figures.DPI", 40)
        write_report(folder, Comparison(facts, **tables))
    return folder


def test_nothing_that_is_named_becomes_markup(hostile):
    tags = Tags((hostile / "report.html").read_text())
    assert (tags.open, tags.wrong) == ([], [])
    assert not tags.named("script") and {each["src"][:11] for each in tags.named("img")} == {"data:image/"}
    assert not [name for _, attributes in tags.found for name in attributes if name.startswith("on")]
    assert len(tags.named("section")) == 10
    assert " ".join(tags.words).count("document.title='broken'") > 100
    lines = (hostile / "report.md").read_text().split("\n")
    assert [line[:4] for line in lines if "<script" in line] == ["    "]  # the command, as code


# --- figures -----------------------------------------------------------------------------------------------------


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were drawn, which are not written."""
    kept = []
    monkeypatch.setattr(comparefigures, "save", lambda figure, _: kept.append(figure))
    return kept


def test_figures_are_written_and_hold_ink(report):
    for name in FIGURES:
        image = imread(report / f"{name}.png")[..., :3]
        assert image.shape[1] == pytest.approx(panels.DPI * panels.WIDTH, abs=2)
        assert 0.01 < (image.min(axis=-1) < 0.95).mean() < 0.9


def test_differences_stand_at_their_values_and_far_ones_at_the_edge(tmp_path, drawn):
    look = looks({key: key for key in "abcdef"}, ["a"], "a", "b")
    table = pd.DataFrame({"way": "w", "method": list("abcdef"), "value": [-5.0, 1, 2, 3, 4, 300]})
    table = table.assign(low=table["value"] - 2, high=table["value"] + 2)
    comparefigures.differences(tmp_path / "f.png", table, look, {"w": "blocks"}, "change", "%")
    axes = drawn[0].axes[0]
    points = {round(float(line.get_xdata()[0]), 6): line for line in axes.lines if line.get_marker() in ("s", "o")}
    assert set(points) == {-5, 1, 2, 3, 4}
    assert points[-5].get_marker() == "s" and points[-5].get_color() == comparefigures.NETWORK
    assert points[1].get_marker() == "o" and points[1].get_color() == comparefigures.BASELINE
    assert axes.get_xlim()[1] < 50 and [text.get_text() for text in axes.texts] == ["+300 %"]


def test_methods_look_different_where_they_are_drawn_together():
    c = synthetic()
    keys = [key for key in c.order if key in {*c.curves["method"], *c.coverage["method"]}]
    found = c.look(keys)
    assert len({(each.colour, each.marker) for each in found.values()}) == len(keys) == 7
    assert found["best"].colour == comparefigures.NETWORK and found["logforest"].colour == comparefigures.BASELINE
    assert c.look(["qrf"])["qrf"] == found["qrf"]


def test_curves_are_means_over_repeats_on_a_logarithmic_axis(tmp_path, drawn):
    curves = pd.DataFrame(
        {"region": "a", "method": "best", "n_train": [25, 25, 100, 100], "repeat": [0, 1] * 2, "mae": [4.0, 6, 2, 3]}
    )
    look = looks({"best": "best"}, ["best"], "best", "")
    comparefigures.learning_curves(tmp_path / "f.png", curves, look, "mae", "MAE")
    axes = drawn[0].axes[0]
    assert axes.get_xscale() == "log" and list(axes.lines[0].get_ydata()) == [5.0, 2.5]
    band = axes.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (2, 6)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["25", "100"]


@pytest.mark.parametrize("n", [1, 7, 500])
def test_errors_are_binned_with_every_profile_counted_once(tmp_path, drawn, n):
    random = np.random.default_rng(0)
    table = pd.DataFrame({"region": "a", "observed": random.lognormal(2, 1, n), "predicted": 8.0, "di": random.lognormal(0, 1, n)})
    comparefigures.error_against_dissimilarity(tmp_path / "f.png", table.assign(inside=1.0), "g/kg")
    axes = drawn[0].axes[0]
    assert sum(int(text.get_text()) for text in axes.texts) == n
    assert axes.get_xscale() == ("linear" if n == 1 else "log")


@pytest.mark.parametrize("n", [1, 400])
def test_residual_maps_are_symmetrical_and_tell_signs_by_shape(tmp_path, drawn, n):
    random = np.random.default_rng(0)
    table = pd.DataFrame({"region": "a", "lon": random.uniform(6, 10, n), "lat": random.uniform(46, 48, n), "predicted": 5.0})
    table = table.assign(observed=table["predicted"] + random.normal(0, 5, n))
    comparefigures.residual_maps(tmp_path / "f.png", table, "g/kg")
    up, down = drawn[0].axes[0].collections
    assert up.norm.vmin == -up.norm.vmax
    assert len(up.get_array()) + len(down.get_array()) == n
    assert (up.get_array() >= 0).all() and (down.get_array() < 0).all()


def test_no_global_state_is_touched(report):
    import matplotlib._pylab_helpers as register

    assert not register.Gcf.figs


# --- in a browser ------------------------------------------------------------------------------------------------

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome is installed")


def opened(page, profile):
    """Return the page as it is once loaded, and what the browser's console says of it and of pages within it."""
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run", "--disable-gpu"]
    quiet += ["--allow-file-access-from-files"]  # or a page may not look into a page within it
    where = [f"--user-data-dir={profile}", "--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom", page.as_uri()]
    result = subprocess.run([BROWSER, "--headless", "--no-sandbox", *quiet, *where], capture_output=True, timeout=120, check=True)
    return result.stdout.decode(), [line for line in result.stderr.decode().splitlines() if "CONSOLE" in line]


@needs_browser
@pytest.mark.slow
def test_a_browser_shows_the_pages_without_complaint_and_none_wider_than_a_phone(report, hostile, tmp_path):
    """A page within a page is as narrow as one likes; a browser's window is not."""
    frames = [
        f'<iframe style="width:{width}px;height:900px;border:0" src="{(folder / "report.html").as_uri()}"></iframe>'
        for folder in (report, hostile)
        for width in (380, 1200)
    ]
    script = (
        "document.title = Array.from(frames, ({document: all}) => {"
        "for (const each of all.querySelectorAll('details')) each.open = true;"
        "const page = all.documentElement;"
        "return [page.clientWidth, page.scrollWidth, all.querySelectorAll('section').length, all.title === 'broken',"
        "getComputedStyle(all.body).fontFamily.includes('system-ui'),"
        "all.images.length && [...all.images].every(each => each.naturalWidth > 250)].join(' ')}).join('; ')"
    )
    (tmp_path / "outer.html").write_text(
        f"<!doctype html><body>{''.join(frames)}<script>onload = () => {{{script}}}</script></body>"
    )
    dom, complaints = opened(tmp_path / "outer.html", tmp_path / "profile")
    assert complaints == []
    found = [each.split() for each in re.search(r"<title>(.*?)</title>", dom)[1].split("; ")]
    assert [int(width) for width, *_ in found] in ([380, 1200] * 2, [365, 1185] * 2)  # without or with a scroll bar
    assert all(width == scrolled for width, scrolled, *_ in found)
    assert [rest for _, _, *rest in found] == [["10", "false", "true", "true"]] * 4
