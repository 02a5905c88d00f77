"""Command lines: argparse made from a settings class, YAML files, and errors that name the setting at fault."""

import argparse
import importlib
import logging
import re
import shlex
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

from soilcarbon.io.files import UserError, nearest, read_yaml
from soilcarbon.settings import PAIRS, PRESETS, Settings, build, find_config, with_present_names

S = TypeVar("S", bound=Settings)
EXAMPLE_WORLD = Path("data/sim")
"""Where `soilcarbon simulate` makes the example world, and the presets of the three scripts read it."""
COMMANDS = tuple(sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py") if path.stem != "arguments"))
"""Names of the sub-commands, each the module of that name in `soilcarbon.commands`."""


class Keywords(list[str]):
    """Settings as keywords of Python, in the place of a command line: the line that they stand for, and their values."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = dict(values)
        super().__init__(word for name, value in self.values.items() for word in _words(name, value))


def _words(name: str, value: Any) -> list[str]:
    """Return a setting as it is typed."""
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    many = value if isinstance(value, (list, tuple)) else [value]
    return [f"--{name}", *("none" if each is None else str(each) for each in many)]


def run(command: str, **settings: Any) -> None:
    r"""Run a command of `soilcarbon` with settings as keywords: what it does, writes and prints is the same.

    Parameters
    ----------
    command
        Such as "prepare"; `soilcarbon --help` lists them.
    settings
        By their names, as `soilcarbon COMMAND --help` lists them, and `config`, a YAML file of settings. Paths may be text, and a
        list of one may be that one.

    Raises
    ------
    UserError
        If there is no such command or setting, or the command finds a mistake in its input.

    Examples
    --------
    >>> import tempfile
    >>> table = Path(tempfile.mkdtemp()) / "horizons.csv"
    >>> _ = table.write_text("profile_id,lon,lat,top,bottom,soc_gkg\nA,11.0,45.0,0,30,12\nB,11.5,45.2,0,30,20\n")
    >>> run("densities", horizons=table, depths=[0, 30], out=table.with_name("densities.csv"))
    /...: 2 profiles; ...: 0 lines
    >>> run("densities", horizon=table)
    Traceback (most recent call last):
    soilcarbon.io.files.UserError: settings: unknown setting 'horizon'; did you mean 'horizons'?
    """
    if command not in COMMANDS:
        raise UserError(f"no command {command!r}{nearest(command, COMMANDS)}; there are {', '.join(COMMANDS)}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    importlib.import_module(f"soilcarbon.commands.{command}").main(Keywords(settings))


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._negative_number_matcher = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")  # argparse's own knows no exponents

    def error(self, message: str) -> typing.NoReturn:
        raise UserError(f"{message} (see {self.prog} --help)")


def _flag(annotation: Any) -> dict[str, Any]:
    """Return argparse's keywords for a field's type; pydantic checks the values."""
    options = [a for a in typing.get_args(annotation) if a is not type(None)]
    if isinstance(annotation, types.UnionType):
        return _flag(options[0])  # further ones are for YAML
    if annotation is bool:
        return {"action": argparse.BooleanOptionalAction}
    if typing.get_origin(annotation) is list:
        return {"nargs": "+", "metavar": _flag(typing.get_args(annotation)[0])["metavar"]}
    if typing.get_origin(annotation) is tuple:
        return {"nargs": len(options), "metavar": "NUMBER"}
    if typing.get_origin(annotation) is Literal:
        return {"metavar": "|".join(options)}
    return {"metavar": annotation.__name__.upper()}


def _as_typed(value: Any) -> str:
    """Return a default value as it would be typed."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return " ".join(f"{each:g}" if isinstance(each, float) else str(each) for each in value)
    return str(value)


def _parser(cls: type[Settings], program: str, purpose: str) -> _Parser:
    parser = _Parser(prog=program, description=purpose, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, field in cls.model_fields.items():
        if name in cls.yaml_only:
            continue
        shown = "" if field.is_required() or field.default in (None, [], "") else f" [{_as_typed(field.default)}]"
        words = (field.description or "").replace("%", "%%") + (" (required)" if field.is_required() else shown)
        flag = _flag(field.annotation) | ({"action": "extend"} if PAIRS in field.metadata else {})
        parser.add_argument(f"--{name}", dest=name, default=argparse.SUPPRESS, help=words, **flag)
    return parser


def known_settings() -> list[str]:
    """Return the names of the settings of all commands: a YAML file may hold those of several."""
    for name in COMMANDS:
        importlib.import_module(f"soilcarbon.commands.{name}")
    classes = [Settings]
    for cls in classes:  # grows while it is read
        classes += cls.__subclasses__()
    return sorted({name for cls in classes for name in (*cls.model_fields, *cls.renamed)} - {"config"})


def from_yaml(cls: type[Settings], path: Path) -> dict[str, Any]:
    """Return the settings of one command in a YAML file; UserError for a name that is no setting of any command."""
    path = find_config(path)
    values = with_present_names(cls, read_yaml(path))
    if set(values) - set(cls.model_fields):
        known = known_settings()
        for name in values:
            if name not in known:
                raise UserError(f"{path}: unknown setting {name!r}{nearest(str(name), known)}")
    return {name: value for name, value in values.items() if name in cls.model_fields}


def read_settings(cls: type[S], purpose: str | None, arguments: Sequence[str] | None = None, program: str = "") -> S:
    """Resolve a command's settings from defaults, YAML file and command line; UserError for an unknown or ill-typed one.

    `purpose` and `program` are shown by `--help`: the module's docstring, and how the command is called. `arguments` are the
    command line without the program's name, or `Keywords`; default `sys.argv[1:]`.
    """
    flags_given = _listed(cls, arguments.values) if isinstance(arguments, Keywords) else _typed(cls, purpose, arguments, program)
    path = flags_given.get("config")
    if path is None and cls.preset and not any(name in flags_given for name in cls.preset_unless):
        path = PRESETS / cls.preset
    in_file = from_yaml(cls, Path(path)) if path is not None else {}
    return build(cls, in_file | flags_given, "settings" if isinstance(arguments, Keywords) else "command line")


def _typed(cls: type[Settings], purpose: str | None, arguments: Sequence[str] | None, program: str) -> dict[str, Any]:
    """Return the settings of a command line."""
    parser = _parser(cls, program or Path(sys.argv[0]).name, purpose or "")
    parsed, unknown = parser.parse_known_args(list(_with_present_flags(cls, sys.argv[1:] if arguments is None else arguments)))
    if unknown:
        names = [name for name in cls.model_fields if name not in cls.yaml_only]
        near = nearest(unknown[0].split("=")[0].strip("-"), names).replace("mean '", "mean '--")
        raise UserError(f"unknown argument {unknown[0]!r}{near} (see --help)")
    found: dict[str, Any] = vars(parsed)
    for name, value in found.items():
        if value == "none" and type(None) in typing.get_args(cls.model_fields[name].annotation):
            found[name] = None
    return found


def _with_present_flags(cls: type[Settings], words: Sequence[str]) -> Iterator[str]:
    """Yield the words of a command line with flags of an earlier version (`renamed`) as they are called now."""
    prefix = ""
    for word in words:
        flag, equals, value = word.partition("=")
        if flag.removeprefix("--") in cls.renamed and flag.startswith("--"):
            present, _, key = cls.renamed[flag.removeprefix("--")].partition("=")
            prefix = f"{key}=" if key else ""
            yield f"--{present}"
            if not equals:
                continue
            word = value
        yield prefix + word
        prefix = ""


def _listed(cls: type[Settings], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of Python; those that are lists may be given as their only item."""
    lists = {name for name, field in cls.model_fields.items() if typing.get_origin(field.annotation) is list}
    return {
        name: [value] if name in lists and isinstance(value, (str, Path, int, float)) else value
        for name, value in with_present_names(cls, values).items()
    }


def used_columns(used: Mapping[str, str], not_used: Sequence[str]) -> str:
    """Return which column of a table was taken for what (our name -> column), and which relevant ones were not, as text."""
    shown = ", ".join(ours if column == ours else f"{ours} = {column}" for ours, column in used.items())
    return f"columns: {shown}" + (f"; not used: {', '.join(not_used)}" if not_used else "")


@contextmanager
def gdal() -> Iterator[None]:
    """Read rasters with a small cache and without GDAL's own messages: what it reports is raised as an error too."""
    import rasterio  # slow to import, and --help does not need it

    from soilcarbon.mapping.cog import GDAL_SETTINGS

    logging.getLogger("rasterio").setLevel(logging.CRITICAL)
    with rasterio.Env(**GDAL_SETTINGS):
        yield


def command_line(program: str, arguments: Sequence[str] | None) -> str:
    """Return the command that repeats a run, as it is typed: without `--resume`, which continues a run, and repeats none."""
    given = sys.argv[1:] if arguments is None else arguments
    return " ".join([program, *(shlex.quote(each) for each in given if each not in ("--resume", "--no-resume"))])


def ensure_example_world(data_dir: Path) -> None:
    """Make the example world if a dataset is to be read from it and it is not there."""
    if data_dir.parent == EXAMPLE_WORLD and not any(EXAMPLE_WORLD.glob("*/dataset.yaml")):
        importlib.import_module("soilcarbon.commands.simulate").main(["--out", str(EXAMPLE_WORLD)])
