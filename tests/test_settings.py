"""Settings: defaults <- YAML <- flags; errors for invalid values."""

from pathlib import Path

import pytest

from soilcarbon.categories import PUBLISHED_CATEGORIES, Category, column_slices
from soilcarbon.commands.arguments import Keywords, known_settings, read_settings
from soilcarbon.commands.compare import CompareSettings
from soilcarbon.commands.map import MapSettings
from soilcarbon.commands.prepare import PrepareSettings
from soilcarbon.commands.zones import ZonedSettings
from soilcarbon.io.files import UserError
from soilcarbon.settings import GlobalSettings, PredictSettings, RegionalSettings, RunSettings, Settings
from soilcarbon.soil.settings import StockSettings

PRESETS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


def test_published_table_has_32_variables_in_published_order():
    variables = [name for category in PUBLISHED_CATEGORIES for name in category.variables]
    assert [len(category.variables) for category in PUBLISHED_CATEGORIES] == [7, 2, 19, 3, 1]
    assert (variables[0], variables[7], variables[9], variables[28], variables[31]) == (
        "band1",
        "elevation",
        "bio01",
        "evi_mean",
        "bedrock",
    )


def test_published_values_are_the_defaults():
    settings = read_settings(GlobalSettings, "", ["--data_dir", "d"])
    assert (settings.lr, settings.batch_size, settings.seed, settings.epochs) == (1e-3, 32, 314, 1000)
    assert (settings.select_on, RegionalSettings(data_dir="d").select_on) == ("r2", "ccc")


def test_packed_columns_follow_table_and_windows():
    table = [Category(name="a", variables=("x", "y"), radius=1), Category(name="b", variables=("z",))]
    assert column_slices(table) == {"a": slice(0, 18), "b": slice(18, 19)}


def test_flags_win_over_yaml_which_wins_over_defaults(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("lr: 1e-2\nbatch_size: 8\n")
    settings = read_settings(GlobalSettings, "", ["--config", str(path), "--data_dir", "d", "--batch_size", "16"])
    assert (settings.lr, settings.batch_size, settings.epochs) == (0.01, 16, 1000)


@pytest.mark.parametrize("name", ["configs/taught.yaml", "taught.yaml"])
def test_preset_is_found_away_from_the_checkout_unless_a_file_of_that_name_is_there(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_settings(RegionalSettings, "", ["--config", name, "--data_dir", "d"]).teacher == "ensemble"
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text("epochs: 7\n")
    assert read_settings(RegionalSettings, "", ["--config", name, "--data_dir", "d"]).epochs == 7
    for missing in ("configs/tought.yaml", "elsewhere/taught.yaml"):
        with pytest.raises(UserError, match="no such YAML file; .*, taught"):
            read_settings(RegionalSettings, "", ["--config", missing, "--data_dir", "d"])


def test_help_shows_defaults_as_they_are_typed(capsys):
    for cls in (CompareSettings, PrepareSettings, ZonedSettings):
        with pytest.raises(SystemExit):
            read_settings(cls, "", ["--help"])
    words = " ".join(capsys.readouterr().out.split())
    for shown in ("[random blocks]", "cm [0 30]", "[humid semi-", "of the same settings has finished [no]"):
        assert shown in words


def test_number_in_scientific_notation_without_point_is_a_number(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("lr: 1e-3\n")  # PyYAML reads this as text
    assert read_settings(GlobalSettings, "", ["--config", str(path), "--data_dir", "d"]).lr == 0.001


def test_names_of_earlier_versions_are_taken_as_what_they_are_called_now(tmp_path):
    older = tmp_path / "older.yaml"
    older.write_text("horizons: a.csv\nsoc_unit: '%'\nerrors: 500\nunits: {depth: m}\n")
    expected = StockSettings(horizons="a.csv", units=["depth=m", "soc=%"], draws=500)
    assert read_settings(StockSettings, "", ["--config", str(older)]).model_dump(exclude={"config"}) == expected.model_dump(
        exclude={"config"}
    )
    typed = ["--horizons", "a.csv", "--units", "depth=m", "--soc_unit=%", "--errors", "500"]
    assert read_settings(StockSettings, "", typed) == expected
    given = {"horizons": "a.csv", "units": ["depth=m"], "soc_unit": "%", "errors": 500}
    assert read_settings(StockSettings, "", Keywords(given)) == expected
    twice = ["--points", "a.csv", "--rasters", "b.tif", "--out", "c", "--unit", "%"]
    with pytest.raises(UserError, match="target_unit is an older name of unit; give one of them"):
        read_settings(PrepareSettings, "", Keywords({"points": "a.csv", "unit": "%", "target_unit": "%"}))
    assert read_settings(PrepareSettings, "", [*twice[:-2], "--target_unit", "%"]).unit == "%"


def test_older_names_are_no_settings_and_name_some():
    known_settings()  # imports all commands
    classes = [Settings]
    for cls in classes:
        classes += cls.__subclasses__()
        for older, present in cls.renamed.items():
            assert older not in cls.model_fields and present.partition("=")[0] in cls.model_fields, (cls, older)


def test_a_yaml_may_hold_settings_of_other_scripts(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("epochs: 5\non: all\n")
    assert read_settings(PredictSettings, "", ["--config", str(path), "--data_dir", "d"]).on == "all"


def test_no_arguments_mean_the_example_world():
    assert read_settings(RegionalSettings, "", []).run == "anhui"
    assert read_settings(GlobalSettings, "", []).target_transform == "log1p"
    assert read_settings(GlobalSettings, "", ["--data_dir", "x"]).target_transform == "auto"


@pytest.mark.parametrize("cls", [RegionalSettings, PredictSettings])
def test_a_run_alone_is_not_taken_for_another_regions_data(cls):
    with pytest.raises(UserError, match="--data_dir is required"):
        read_settings(cls, "", ["--run", "denmark"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--lrr", "3"], "did you mean '--lr'"),
        (["--lr", "fast"], "setting lr = 'fast'"),
        (["--lr", "-1"], "greater than 0"),
        (["--epochs", "2.5"], "setting epochs = '2.5'"),
        (["--run", "../x"], "setting run"),
        (["--data_dir", "d", "--eval_interval", "10", "--patience", "5"], "before its first evaluation"),
        (["--config", "absent.yaml"], "absent.yaml"),
        (["--data_dir", "d", "--patience", "5", "--select_on", "none"], "set patience 0"),
        (["--data_dir", "d", "--center", "mode"], "'median'"),
        (["--data_dir", "d", "--teacher", "ensemble"], "unknown argument '--teacher'"),
    ],
)
def test_wrong_flags_give_a_one_line_error(arguments, words):
    with pytest.raises(UserError) as error:
        read_settings(GlobalSettings, "", arguments)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--select_on", "none"], "set patience 0"),  # a region's default is 50
        (["--validate_on", "folds", "--members", "1"], "needs members 2 or more"),
        (["--freeze", "some"], "'features'"),
        (["--freeze", "features"], "needs init_from"),
        (["--lr_schedule", "linear"], "'cosine'"),
        (["--teacher", "forest"], "'ensemble'"),
    ],
)
def test_wrong_flags_of_a_region_give_a_one_line_error(arguments, words):
    with pytest.raises(UserError) as error:
        read_settings(RegionalSettings, "", ["--data_dir", "d", "--run", "r", *arguments])
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_what_goes_together_is_taken():
    right = ["--select_on", "none", "--patience", "0", "--validate_on", "folds", "--members", "2"]
    settings = read_settings(RegionalSettings, "", ["--data_dir", "d", *right, "--teacher", "ensemble", "--global_data", "w"])
    assert (settings.select_on, settings.members, settings.teacher, settings.global_data) == ("none", 2, "ensemble", Path("w"))
    assert read_settings(RegionalSettings, "", ["--data_dir", "d", "--teacher", "ensemble"]).global_data is None


@pytest.mark.parametrize("cls", [PredictSettings, MapSettings])
@pytest.mark.parametrize("level", ["0", "1", "90"])
def test_a_level_is_a_share(cls, level):
    needed = ["--data_dir", "d"] if cls is PredictSettings else ["--checkpoint", "m.pth", "--rasters", "r"]
    assert read_settings(cls, "", needed).level == 0.9
    with pytest.raises(UserError, match="setting level"):
        read_settings(cls, "", [*needed, "--level", level])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("batch_sise: 1\n", "did you mean 'batch_size'"),
        ("epochs: many\n", "epochs"),
        ("- 1\n- 2\n", "name: value"),
        ("a: [1\n", "not readable as YAML"),
        ("categories: [{name: a, variables: [x], radios: 1}]\n", "radios"),
        ("categories: [{name: a, variables: [x]}, {name: a, variables: [y]}]\n", "'a' is named twice"),
        ("categories: [{name: a, variables: [x, x]}]\n", "'x' is named twice"),
        ("categories: []\n", "at least one category"),
    ],
)
def test_wrong_yaml_gives_a_one_line_error(tmp_path, text, words):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_settings(GlobalSettings, "", ["--config", str(path)])
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_every_preset_is_read(path):
    if path.stem.endswith("compare"):  # its global_data is that of a comparison, which needs no teacher
        assert read_settings(CompareSettings, "", ["--config", str(path)]).regions
        return
    for cls in (GlobalSettings, RegionalSettings, PredictSettings):
        assert isinstance(read_settings(cls, "", ["--config", str(path), "--data_dir", "d"]), RunSettings)


def test_help_names_every_setting_with_its_meaning(capsys):
    for cls in (GlobalSettings, RegionalSettings, PredictSettings, PrepareSettings, ZonedSettings):
        with pytest.raises(SystemExit) as end:
            read_settings(cls, "What it does.", ["--help"])
        words = capsys.readouterr().out
        assert end.value.code == 0
        assert all(f"--{name}" in words for name in cls.model_fields if name not in Settings.yaml_only)
        assert all(field.description for field in cls.model_fields.values())


@pytest.mark.parametrize(("cls", "more"), [(GlobalSettings, []), (RegionalSettings, ["--init_from", "none"])])
def test_resolved_settings_are_read_back_unchanged(tmp_path, cls, more):
    settings = read_settings(cls, "", ["--data_dir", "d", "--lr", "3e-4", "--no-tensorboard", *more])
    settings.write(tmp_path / "settings.yaml")
    again = read_settings(cls, "", ["--config", str(tmp_path / "settings.yaml")])
    assert again.as_plain() == settings.as_plain()
    assert cls is GlobalSettings or again.given("init_from")
