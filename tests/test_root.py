"""The six files of the published pipeline at the root."""

import numpy as np
import pytest
import torch
from conftest import PUBLISHED_WEIGHTS, needs_published_weights

import config
import models
import utils
from soilcarbon.categories import PUBLISHED_CATEGORIES
from soilcarbon.io.files import UserError
from soilcarbon.io.pickles import load_pickle
from soilcarbon.settings import GlobalSettings, PredictSettings, RegionalSettings, with_defaults


def test_config_holds_the_published_table_and_values():
    assert config.CATEGORIES == PUBLISHED_CATEGORIES
    settings = with_defaults(GlobalSettings, config.TRAIN_GLOBAL)(data_dir="d")
    assert (settings.lr, settings.batch_size, settings.seed, settings.epochs, settings.select_on) == (1e-3, 32, 314, 1000, "r2")
    assert with_defaults(RegionalSettings, config.TRAIN_REGIONAL)(data_dir="d").select_on == "ccc"
    assert with_defaults(PredictSettings, config.PREDICT)(data_dir="d").level == 0.9


def test_a_value_of_config_is_a_default_that_counts_as_not_given():
    settings = with_defaults(GlobalSettings, {"epochs": 7})(data_dir="d")
    assert (settings.epochs, settings.given("epochs")) == (7, False)
    assert GlobalSettings(data_dir="d").epochs == 1000
    with pytest.raises(UserError, match="unknown setting 'epoch'; did you mean 'epochs'"):
        with_defaults(GlobalSettings, {"epoch": 7})


@pytest.mark.parametrize(("own", "edited", "told"), [(True, True, True), (True, False, False), (False, True, False)])
def test_an_edited_table_that_a_folder_overrules_is_told(tmp_path, caplog, own, edited, told):
    if own:
        (tmp_path / "dataset.yaml").write_text("categories: []\n")
    table = PUBLISHED_CATEGORIES[1:] if edited else PUBLISHED_CATEGORIES
    settings = GlobalSettings(data_dir=tmp_path).with_table(table)
    assert settings.categories == (None if own else table)
    assert ("the categories of config.py are not used" in caplog.text) == told


def test_patches_of_a_category_are_those_of_the_pickles(dataset):
    data = utils.load_dataset(dataset)
    climate = data.patches["climate"]
    assert climate.shape == (120, 2, 1, 1)
    stored = load_pickle(dataset / "patches" / "bio12.pkl")
    expected = np.stack([stored[name] for name in data.ids])[:, 1, 1]
    np.testing.assert_array_equal(climate[:, 1, 0, 0].numpy(), expected)
    assert sorted(torch.cat(list(data.split.values())).tolist()) == list(range(120))
    assert data.statistics["bio12"][0] == pytest.approx(expected[data.split["train"]].mean(), rel=0.05)


def test_the_published_layout_is_recognised(published_dataset, tmp_path):
    dataset = published_dataset
    published = tmp_path / "DL_inputs" / "anhui"
    (published / "samples").mkdir(parents=True)
    (dataset / "samples.csv").rename(published / "samples" / "df_soc_0to30.csv")
    (dataset / "stats.csv").rename(published / "samples" / "df_var_stats.csv")
    (dataset / "split").rename(published / "samples" / "data_split")
    for path in (dataset / "patches").iterdir():
        path.rename(published / path.name)
    data = utils.load_dataset(published)
    assert {name: patches.shape[1] for name, patches in data.patches.items()} == {
        "band": 7, "topo": 2, "climate": 19, "vege": 3, "bedrock": 1
    }  # fmt: skip


def test_the_network_of_the_table_is_the_published_one():
    network = models.build_network()
    assert sum(parameter.numel() for parameter in network.parameters()) == models.PUBLISHED_PARAMETERS
    assert network.features_merge[0].weight.shape == (128, 160, 1, 1)
    again = models.build_network()
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


@needs_published_weights
def test_the_published_weights_give_the_published_outputs():
    assert models.load_published(PUBLISHED_WEIGHTS).specification.statistics is None


def test_other_weights_are_not_taken_for_the_published_ones(tmp_path):
    path = tmp_path / "other.pth"
    torch.save({name: value for name, value in models.build_network().named_parameters()}, path)
    with pytest.raises(UserError, match="the published weights 22.4"):
        models.load_published(path)
