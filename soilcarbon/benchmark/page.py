"""Put a comparison of methods into one page that answers: which is better, how wrong may it be, where may it be used.

In: a `Comparison`, tables in memory. Out: report.html, which needs neither network nor scripts, report.md, and the
figures of both as PNG. What a table does not hold is left out with its section. Names may be a stranger's: all that is
put into the template or the Markdown is escaped, here or in the rooms below. Each of these knows only those before it:
`comparison` (what was found, and numbers in words), `comparefigures`, `comparetables` (with the answer's sentences),
`comparesections`, and this page.
"""

import html
from pathlib import Path

from soilcarbon.benchmark.comparison import MEAN, Comparison, count
from soilcarbon.benchmark.sections import FIGURES, Page, sections
from soilcarbon.benchmark.tables import answer, change_table, markdown, region_changes, skill_table
from soilcarbon.html import fill
from soilcarbon.io.files import write_text

__all__ = ["MEAN", "Comparison", "as_markdown", "write_report"]


def write_report(folder: Path, comparison: Comparison) -> None:
    """Write report.html, report.md and the figures; figures of an earlier report that this one lacks are removed.

    Parameters
    ----------
    folder
        Made if need be.
    comparison
        What to tell. Sections of empty tables are left out.
    """
    c, page = comparison, Page(folder)
    bodies = sections(c, page)
    (lead, rest), *others = answer(c)
    told = f'<p class="lead"><strong>{html.escape(lead)}</strong> {html.escape(rest)}</p>'
    told += "".join(f"<p><strong>{html.escape(lead)}</strong> {html.escape(rest)}</p>" for lead, rest in others)
    values = {
        "title": html.escape(str(c.facts["title"])),
        "target": html.escape(_subject(c)),
        "answer": told,
        "contents": "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title, _ in bodies),
        "sections": "\n".join(f'<section id="{name}">\n<h2>{title}</h2>\n{body}\n</section>' for name, title, body in bodies),
    }
    write_text(folder / "report.html", fill("compare.html", values))
    write_text(folder / "report.md", as_markdown(c))
    for name in FIGURES:
        if f"{name}.png" not in page.drawn:
            (folder / f"{name}.png").unlink(missing_ok=True)


def _subject(c: Comparison) -> str:
    n = sum(int(facts.get("profiles", 0)) for facts in c.facts["regions"].values())
    counts = f"{count(len(c.order), 'method')}, {count(len(c.facts['regions']), 'region')}, {count(n, 'profile')}"
    return f"{c.facts['target']} ({c.unit}): {counts}, every method scored on the same held-out profiles"


def as_markdown(c: Comparison) -> str:
    """Return the answer and the main tables in Markdown."""
    lines = [f"# {markdown(c.facts['title'])}", markdown(_subject(c))]
    lines.append("\n".join(f"- **{markdown(lead)}** {markdown(rest)}" for lead, rest in answer(c)))
    lines += [table.to_markdown().rstrip() for table in (skill_table(c), change_table(c), region_changes(c)) if table.rows]
    lines += ["\n".join(f"- {markdown(note)}" for note in c.facts["notes"])] if c.facts["notes"] else []
    indented = "\n".join(f"    {line}" for line in str(c.facts["how"]).splitlines())
    return "\n\n".join([*lines, "To repeat it:", indented]) + "\n"
