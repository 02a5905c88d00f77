"""Reading a dataset's folder: what is packed where, and errors for everything that can be wrong with it."""

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import make_dataset, simulate_dataset

from soilcarbon.categories import PUBLISHED_CATEGORIES, Category, category_views
from soilcarbon.io.files import UserError
from soilcarbon.io.pickles import dump_pickle, load_pickle
from soilcarbon.settings import GlobalSettings
from soilcarbon.soil.dataset import check_variables, read_dataset, read_samples, read_split, read_statistics, write_dataset


def test_packed_array_holds_each_variables_window_in_table_order(dataset):
    table = (Category(name="b", variables=("bio12", "bio01"), radius=1), Category(name="a", variables=("slope",)))
    data = read_dataset(dataset, table)
    assert data.x.shape == (120, 19)
    assert data.x.dtype == np.float32
    for k, name in ((5, "bio12"), (77, "bio01")):
        patch = load_pickle(dataset / "patches" / f"{name}.pkl")[data.ids[k]]
        np.testing.assert_array_equal(category_views(data.x, table)["b"][k, table[0].variables.index(name)], patch)
    assert all(np.shares_memory(view, data.x) for view in category_views(data.x, table).values())
    slope = load_pickle(dataset / "patches" / "slope.pkl")
    np.testing.assert_array_equal(data.x[:, 18], [slope[name][1, 1] for name in data.ids])


def test_order_of_the_sample_table_decides_not_that_of_the_patches(dataset):
    before = read_dataset(dataset)
    table = pd.read_csv(dataset / "samples.csv").sample(frac=1, random_state=1)
    table.to_csv(dataset / "samples.csv", index=False)
    after = read_dataset(dataset)
    row = {name: k for k, name in enumerate(before.ids)}
    np.testing.assert_array_equal(after.x, before.x[[row[name] for name in after.ids]])
    assert [after.ids[k] for k in after.split["test"]] == [before.ids[k] for k in before.split["test"]]


def test_each_variables_patches_may_be_in_an_order_and_form_of_their_own(dataset):
    before = read_dataset(dataset)
    for name, form in (("slope", lambda p: dict(reversed(p.items()))), ("bio01", lambda p: [p[key] for key in before.ids])):
        path = dataset / "patches" / f"{name}.pkl"
        dump_pickle(path, form(load_pickle(path)))
    np.testing.assert_array_equal(read_dataset(dataset).x, before.x)


GOOD = {"profile_id": ["a", "b", "c"], "lon": [1.0, 2.0, 3.0], "lat": [50.0, 51.0, 52.0], "soc": [10.0, 20.0, 30.0]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"profile_id": ["a", "b", "a"]}, "must be unique; repeated: 1 of 3, first 'a'"),
        ({"soc": [1, "much", 3]}, "soc must be a number; not so in 1 of 3, first 'much' at profile 'b'"),
        ({"soc": [1, None, 3]}, "soc must be a number"),
        ({"soc": [1, -4, 3]}, "between 0 and 1000"),
        ({"soc": [1, 4000, 3]}, "4000.0 at profile 'b'"),
        ({"soc": [1, "inf", 3]}, "soc must be a number"),
        ({"lon": [1, 200, 3]}, "lon must lie in -180..180"),
        ({"lat": [100.0, 101.0, 102.0]}, "look swapped"),
        ({"lat": ["x", 1, 2]}, "lat must be a number"),
        ({"profile_id": ["a", None, "c"]}, "profile_id is empty in row 3"),
    ],
)
def test_bad_samples_are_refused(tmp_path, change, words):
    path = tmp_path / "samples.csv"
    pd.DataFrame(GOOD | change).to_csv(path, index=False)
    with pytest.raises(UserError) as error:
        read_samples(path, "soc")
    assert words in str(error.value)
    assert str(path) in str(error.value)


def test_a_target_may_be_missing_where_it_is_not_needed(tmp_path):
    path = tmp_path / "samples.csv"
    pd.DataFrame(GOOD).drop(columns="soc").to_csv(path, index=False)
    with pytest.raises(UserError, match="no column 'soc'"):
        read_samples(path, "soc")
    assert np.isnan(read_samples(path, "soc", target_needed=False)[1]).all()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"train": "a", "valid": "b", "test": "z"}, r"test\.csv: 1 of 1 ids are not in the sample table, first 'z'"),
        ({"train": "a\nb", "valid": "b", "test": "c"}, "'b' is already in the train split"),
        ({"train": "a", "valid": "", "test": "c"}, "valid split is empty"),
        ({"train": "a", "test": "c"}, r"valid\.csv"),
    ],
)
def test_bad_splits_are_refused(tmp_path, content, words):
    for name, ids in content.items():
        (tmp_path / f"{name}.csv").write_text(f"profile_id\n{ids}\n" if ids else "profile_id\n")
    with pytest.raises(UserError, match=words):
        read_split(tmp_path, ["train", "valid", "test"], ["a", "b", "c"])


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([("x", 1, 1)], "0 rows for variable 'y'"),
        ([("x", 1, 1), ("y", 1, 0)], "variable 'y' has mean 1 and deviation 0"),
        ([("x", 1, 1), ("y", "a", 1)], "variable 'y'"),
        ([("x", 1, 1), ("y", 1, 1), ("y", 2, 1)], "2 rows"),
    ],
)
def test_bad_statistics_are_refused(tmp_path, rows, words):
    path = tmp_path / "stats.csv"
    pd.DataFrame(rows, columns=["var_name", "v_mean", "v_std"]).to_csv(path, index=False)
    with pytest.raises(UserError, match=words):
        read_statistics(path, [Category(name="a", variables=("x", "y"))])


def test_variables_without_information_are_refused_and_missing_cells_logged(caplog):
    caplog.set_level("INFO")
    table = [Category(name="a", variables=("x", "y"))]
    with pytest.raises(UserError, match="'y' is missing at all 3"):
        check_variables(np.array([[1, np.nan], [2, np.nan], [3, np.nan]]), table, "missing")
    constant = np.array([[1, 7], [2, 7], [3, np.nan]])
    with pytest.raises(UserError, match=r"'y' is constant \(7\)"):
        check_variables(constant, table, "constant")
    check_variables(constant, table, "missing")
    assert "missing cells of 3 profiles: in 1 of 2 variables, most in y 33.3%" in caplog.text


def test_a_missing_variable_is_named_and_a_hostile_patch_file_refused(dataset):
    class Hostile:
        def __reduce__(self):
            return Path.touch, (dataset / "ran",)

    (dataset / "patches" / "evi_mean.pkl").rename(dataset / "patches" / "evi_meen.pkl")
    with pytest.raises(UserError, match="no patches of variable 'evi_mean'.*did you mean 'evi_meen'"):
        read_dataset(dataset)
    (dataset / "patches" / "evi_mean.pkl").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(UserError, match=r"evi_mean\.pkl: refused"):
        read_dataset(dataset)
    assert not (dataset / "ran").exists()


def test_the_datasets_own_categories_are_the_default(tmp_path):
    table = (Category(name="relief", variables=("height",), radius=1), Category(name="rock", variables=("code",), kind="classes"))
    folder = make_dataset(tmp_path, categories=table)
    assert read_dataset(folder).categories == table


def test_published_layout_is_read_through_its_preset(tmp_path, published_dataset):
    dataset = published_dataset
    published = tmp_path / "DL_inputs" / "global"
    for category in PUBLISHED_CATEGORIES:
        for name in category.variables:
            dump_pickle(published / f"{name}.pkl", load_pickle(dataset / "patches" / f"{name}.pkl"))
    (published / "samples").mkdir()
    (dataset / "samples.csv").rename(published / "samples" / "df_soc_0to30.csv")
    (dataset / "stats.csv").rename(published / "samples" / "df_var_stats.csv")
    (dataset / "split").rename(published / "samples" / "data_split")
    from soilcarbon.commands.arguments import read_settings

    preset = str(Path(__file__).parents[2] / "configs" / "published_layout.yaml")
    layout = read_settings(GlobalSettings, "", ["--config", preset, "--data_dir", "x"]).layout
    assert read_dataset(published, layout=layout).x.shape == (120, 32)
    with pytest.raises(UserError, match="did you mean --data_dir .*global"):
        read_dataset(tmp_path, layout=layout)


def test_a_dataset_whose_making_was_interrupted_is_the_old_one(dataset, monkeypatch):
    def no_space(*_):
        raise OSError(28, "No space left on device")

    before = read_dataset(dataset)
    monkeypatch.setattr("soilcarbon.soil.dataset.write_table", no_space)
    with pytest.raises(UserError, match="No space.*untouched"):
        simulate_dataset(dataset, seed=5)
    after = read_dataset(dataset)
    assert np.array_equal(after.x, before.x, equal_nan=True)
    assert after.table.equals(before.table)


def test_a_dataset_that_waits_to_be_moved_is_moved_when_it_is_read(dataset, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("soilcarbon.io.files._move", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            simulate_dataset(dataset, seed=5)
    make_dataset(dataset.with_name("other"), seed=5)
    assert read_dataset(dataset).table.equals(read_dataset(dataset.with_name("other")).table)


def test_a_variable_is_named_as_a_file_may_be(tmp_path):
    samples = pd.DataFrame({"profile_id": ["a"], "lon": 1.0, "lat": 2.0})
    for name in ("../../x", "a/b", ".x", "x\0y"):
        with pytest.raises((UserError, ValueError), match="cannot be the name of a file|names a file"):
            write_dataset(tmp_path / "out", samples, {name: np.ones((1, 1, 1))}, None, [Category(name="c", variables=(name,))], {})
    assert not list(tmp_path.iterdir())
