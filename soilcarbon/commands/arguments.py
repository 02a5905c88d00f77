"""Settings from YAML files and command lines, with a plain word for what does not fit.

In: a class of settings, a file, arguments. Out: resolved settings.
"""

import argparse
import sys
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

import soilcarbon.study_settings  # noqa: F401 - whose classes are found as subclasses
from soilcarbon.io.files import UserError, nearest, read_yaml
from soilcarbon.settings import PRESETS, Settings

S = TypeVar("S", bound=Settings)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        raise UserError(f"{message} (see python {self.prog} --help)")


def _flag(annotation: Any) -> dict[str, Any]:
    """Return argparse's keywords for a field's type; pydantic checks the values."""
    options = [a for a in typing.get_args(annotation) if a is not type(None)]
    if isinstance(annotation, types.UnionType) and len(options) == 1:
        return _flag(options[0])
    if annotation is bool:
        return {"action": argparse.BooleanOptionalAction}
    if typing.get_origin(annotation) is list:
        return {"nargs": "+", "metavar": _flag(typing.get_args(annotation)[0])["metavar"]}
    if typing.get_origin(annotation) is tuple:
        return {"nargs": len(options), "metavar": "NUMBER"}
    if typing.get_origin(annotation) is Literal:
        return {"metavar": "|".join(options)}
    return {"metavar": annotation.__name__.upper()}


def _parser(cls: type[Settings], script: str, purpose: str) -> _Parser:
    parser = _Parser(prog=script, description=purpose, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, field in cls.model_fields.items():
        if name in cls.yaml_only:
            continue
        shown = "" if field.is_required() or field.default in (None, []) else f" [{field.default}]"
        words = (field.description or "").replace("%", "%%") + (" (required)" if field.is_required() else shown)
        parser.add_argument(f"--{name}", dest=name, default=argparse.SUPPRESS, help=words, **_flag(field.annotation))
    return parser


def _kinds(cls: type[Settings]) -> list[type[Settings]]:
    """Return a class of settings and all made from it: a YAML file may hold settings of several scripts."""
    return [cls, *(kind for each in cls.__subclasses__() for kind in _kinds(each))]


def from_yaml(cls: type[Settings], path: Path) -> dict[str, Any]:
    """Return what a YAML file says of a script's settings; UserError for a name that no script knows."""
    values = read_yaml(path)
    known = sorted({name for kind in _kinds(Settings) for name in kind.model_fields} - {"config"})
    for name in values:
        if name not in known:
            raise UserError(f"{path}: unknown setting {name!r}{nearest(str(name), known)}")
    return {name: value for name, value in values.items() if name in cls.model_fields}


def build(cls: type[S], values: dict[str, Any], source: str = "settings") -> S:
    """Make settings from values, with a plain error for what does not fit.

    Raises
    ------
    UserError
        Naming the first setting at fault, its value and the rule.
    """
    try:
        return cls(**values)
    except ValidationError as error:
        first = min(error.errors(), key=lambda each: each["type"] == "missing")  # what is wrong before what is lacking
        name = ".".join(str(part) for part in first["loc"])
        rule = first["msg"].removeprefix("Value error, ")
        if first["type"] == "missing":
            raise UserError(f"--{name} is required: {cls.model_fields[str(first['loc'][0])].description}") from error
        if first["type"] == "extra_forbidden":
            raise UserError(f"{source}: unknown setting {name!r}{nearest(name, list(cls.model_fields))}") from error
        shown = "" if isinstance(first["input"], dict) else f" = {first['input']!r}"
        raise UserError(f"setting {name}{shown}: {rule}" if name else f"{source}: {rule}") from error


def read_settings(cls: type[S], purpose: str | None, arguments: Sequence[str] | None = None) -> S:
    """Resolve a script's settings from defaults, YAML file and command line.

    Parameters
    ----------
    cls
        The script's settings.
    purpose
        Shown by `--help`: the script's docstring.
    arguments
        The command line without the script's name; default `sys.argv[1:]`.

    Raises
    ------
    UserError
        For an unknown or ill-typed setting, or a YAML file that cannot be read.
    """
    parser = _parser(cls, Path(sys.argv[0]).name, purpose or "")
    parsed, unknown = parser.parse_known_args(arguments)
    if unknown:
        flags = [f"--{name}" for name in cls.model_fields if name not in cls.yaml_only]
        raise UserError(f"unknown argument {unknown[0]!r}{nearest(unknown[0].split('=')[0], flags)} (see --help)")
    flags_given: dict[str, Any] = vars(parsed)
    path = flags_given.get("config")
    if path is None and cls.preset and not any(name in flags_given for name in cls.preset_unless):
        path = PRESETS / cls.preset
    in_file = from_yaml(cls, Path(path)) if path is not None else {}
    for name, value in flags_given.items():
        if value == "none" and type(None) in typing.get_args(cls.model_fields[name].annotation):
            flags_given[name] = None
    return build(cls, in_file | flags_given, "command line")
