"""Reports as HTML: everything is escaped, everything is embedded, and the policy admits nothing else."""

import base64
import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from jinja2 import UndefinedError

from soilcarbon.html import (
    Block,
    Code,
    Details,
    FigureFolder,
    Items,
    Note,
    Section,
    Strong,
    Table,
    escape_markdown,
    format_value,
    render,
    write_report,
)
from soilcarbon.io.files import UserError

EVIL = "<script>alert(1)</script>\"'&(policy)"


def _report(folder: Path) -> str:
    figures = FigureFolder(folder)
    figure = figures.draw("one", EVIL, EVIL, lambda path, content: path.write_bytes(content), b"png")
    table = Table(EVIL, [EVIL, "n"], [[EVIL, 3], [Strong("best"), np.nan]], note=EVIL)
    blocks: list[Block] = [EVIL, Note(EVIL), table, figure, Code(EVIL), Items([EVIL, (EVIL, EVIL)]), Details(EVIL, [EVIL, table])]
    sections = [Section("a", EVIL, blocks), Section("b", "left out", [])]
    write_report(folder / "report.html", EVIL, EVIL, ["first", EVIL], sections)
    return (folder / "report.html").read_text()


def test_all_text_is_escaped_and_nothing_comes_from_elsewhere(tmp_path: Path) -> None:
    page = _report(tmp_path)
    assert "<script" not in page and 'alt="&lt;script' in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;&#34;&#39;&amp;(policy)") >= 18
    assert not re.search(r"(?:src|href)=\"(?!data:image/png;base64,|#)", page)
    assert f"data:image/png;base64,{base64.b64encode(b'png').decode()}" in page


def test_the_policy_admits_the_pages_own_style_alone(tmp_path: Path) -> None:
    page = _report(tmp_path)
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    expected = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert policy[1] == (f"default-src 'none'; style-src 'sha256-{expected}'; img-src data:; base-uri 'none'; form-action 'none'")


def test_sections_without_blocks_and_tables_without_rows_are_left_out(tmp_path: Path) -> None:
    page = _report(tmp_path)
    assert "left out" not in page and 'href="#a"' in page
    write_report(tmp_path / "empty.html", "t", "s", [], [Section("a", "A", [Table("none", ["x"], [])])])
    assert "<table" not in (tmp_path / "empty.html").read_text()


def test_a_missing_value_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="subject"):
        render("report.html", title="t", verdict=[], sections=[])


def test_tables_of_groups_in_both_formats(tmp_path: Path) -> None:
    table = Table.grouped("c", [("", ["model", "kind"]), ("A", ["MAE"])], [["m", "net|work", Strong("1.5")]], texts=2)
    assert table.to_markdown() == "c\n\n| model | kind | A: MAE |\n| --- | --- | ---: |\n| m | net\\|work | **1.5** |"
    write_report(tmp_path / "r.html", "t", "s", [], [Section("a", "A", [table])])
    page = (tmp_path / "r.html").read_text()
    assert '<td colspan="2"></td><th scope="colgroup" colspan="1">A</th>' in page
    assert '<th scope="row">m</th><td>net|work</td><td class="number"><strong>1.5</strong></td>' in page


def test_a_figure_of_the_user_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine.png").touch()
    with pytest.raises(UserError, match=r"mine\.png: would be replaced"):
        FigureFolder(tmp_path).draw("mine", "", "", Path.write_bytes, b"")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1234.6, "1,235"), (-1234, "−1,234"), (1e-7, "1e−07"), (np.float32(0.5), "0.5"), (float("inf"), "–"), (np.True_, "yes")],
)
def test_values_are_short(value: object, expected: str) -> None:
    assert format_value(value) == expected


def test_markdown_makes_no_markup_of_text() -> None:
    assert escape_markdown("a\n*b* <i> [x](y) #`_\\") == "a \\*b\\* &lt;i&gt; \\[x\\](y) \\#\\`\\_\\\\"
