"""Fill a page of `templates/` with what it is to show, and let it show nothing else.

In: a template's name and escaped texts. Out: one HTML page that needs no network: style and script stand in it, pictures are
data, and its Content-Security-Policy admits just those.
"""

import base64
import hashlib
import html
import re
from collections.abc import Mapping
from pathlib import Path

_TEMPLATES = Path(__file__).parent / "templates"
_SHARED = ("head.html", "base.css")
"""Parts that all pages have."""


def fill(name: str, values: Mapping[str, str]) -> str:
    """Return a page.

    Parameters
    ----------
    name
        Of the template: `{{head.html}}` and `{{base.css}}` stand for what all pages share, `{{word}}` for a value.
    values
        Word -> text, escaped by the caller. What is filled in is not looked through again.
    """
    page = (_TEMPLATES / name).read_text(encoding="utf-8")
    for part in _SHARED:
        page = page.replace(f"{{{{{part}}}}}", (_TEMPLATES / part).read_text(encoding="utf-8"))
    filled = {**values, "policy": _policy(page)}
    return re.sub(r"\{\{(\w+)\}\}", lambda word: filled[word[1]], page)


def _policy(page: str) -> str:
    """Return the Content-Security-Policy: just the page's own style and script, pictures from within, no network."""
    rules = ["default-src 'none'"]
    for kind in ("script", "style"):
        for content in re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL):
            rules.append(f"{kind}-src 'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'")
    return "; ".join([*rules, "img-src data:", "base-uri 'none'", "form-action 'none'"])


def paragraph(text: str, kind: str = "") -> str:
    """Return text as a paragraph, of a class if one is given."""
    return f"<p{f' class={chr(34)}{kind}{chr(34)}' if kind else ''}>{html.escape(text)}</p>"


def folded(title: str, body: str) -> str:
    """Return HTML that is shown once its title is clicked."""
    return f"<details><summary>{html.escape(title)}</summary>\n{body}\n</details>"
