"""The folders of the package form layers: each imports only from those below it, and no module imports a root file."""

import ast
import tomllib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LAYERS = (
    "categories", "io", "quantities", "settings", "progress", "parallel", "html", "stats", "figures", "geo", "soil", "network",
    "training", "regression", "estimator", "zonal", "mapping", "benchmark", "drivers", "simulation", "commands", "__main__",
)  # fmt: skip
"""Lower first."""
MODULES = sorted((ROOT / "soilcarbon").rglob("*.py"))


@cache
def imported(path: Path) -> set[str]:
    """Return the full names of what a file imports anywhere in it, type-checking blocks apart."""
    names = set()
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    typing_only = {
        id(each) for node in nodes if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for each in ast.walk(node)
    }  # fmt: skip
    for node in nodes:
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def layer_of(name: str) -> int | None:
    """Return the layer of a module `soilcarbon.<folder or module>...`; None for the package itself and for others."""
    parts = name.split(".")
    return LAYERS.index(parts[1]) if parts[0] == "soilcarbon" and len(parts) > 1 and parts[1] in LAYERS else None


def test_every_module_has_a_layer():
    found = {path.relative_to(ROOT / "soilcarbon").parts[0].removesuffix(".py") for path in MODULES} - {"__init__"}
    assert found == set(LAYERS)


def test_imports_lead_downwards():
    root_files = {each.stem for each in ROOT.glob("*.py")}
    wrong = []
    for path in MODULES:
        where = path.relative_to(ROOT / "soilcarbon")
        if where.as_posix() == "__init__.py":
            continue  # the public API, imported on first use
        own = LAYERS.index(where.parts[0].removesuffix(".py"))
        wrong += [
            f"{where}: {name}"
            for name in imported(path)
            if name.split(".")[0] in root_files or ((layer := layer_of(name)) is not None and layer > own)
        ]
    assert not wrong


def test_no_circular_import_between_modules():
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in MODULES if path.stem != "__init__"}
    edges = {
        name: {each if each in names else each.rpartition(".")[0] for each in imported(path)} & set(names)
        for name, path in names.items()
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for each in sorted(edges[name]):
                visit(each, (*trail, name))
            done.add(name)

    for name in names:
        visit(name, ())


def test_every_folder_of_the_package_is_installed():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "soilcarbon").rglob("__init__.py")}
    assert set(listed) == found | {"soilcarbon.configs"}
