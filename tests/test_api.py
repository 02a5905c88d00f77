"""The page of the public API is up to date, and every name has a runnable example."""

import importlib.util
from pathlib import Path

import pytest

import soilcarbon

PATH = Path(__file__).resolve().parents[1] / "docs" / "make_api.py"
SPEC = importlib.util.spec_from_file_location("make_api", PATH)
make_api = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(make_api)


def test_the_page_is_up_to_date():
    assert make_api.PAGE.read_text(encoding="utf-8") == make_api.render(), "run python docs/make_api.py"


@pytest.mark.parametrize("name", soilcarbon.__all__)
def test_every_public_name_says_what_it_is_and_has_an_example(name):
    parts = make_api.sections(getattr(soilcarbon, name).__doc__)
    assert parts[""].splitlines()[0].endswith(".")
    assert ">>> " in parts["Examples"]


def test_a_docstring_is_read_by_its_headings():
    parts = make_api.sections(
        "Sum.\n\n    Parameters\n    ----------\n    a, b\n        Two\n        numbers.\n    c\n        One.\n"
    )
    assert parts[""] == "Sum."
    assert list(make_api.entries(parts["Parameters"])) == [("a, b", "Two numbers."), ("c", "One.")]
