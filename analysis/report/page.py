"""The page: what it is made of, and how it becomes one self-contained HTML file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from analysis.figures.style import Drawing
from analysis.report.samples import Grid
from analysis.report.tables import Table


@dataclass(frozen=True)
class Text:
    text: str
    kind: str = "text"


@dataclass(frozen=True)
class Code:
    text: str
    kind: str = "code"


@dataclass(frozen=True)
class FigureBlock:
    """`caption` says what one sees; `alt` says it in a few words to those who do not see it."""

    drawing: Drawing
    caption: str
    alt: str
    kind: str = "figure"


@dataclass(frozen=True)
class TableBlock:
    table: Table
    kind: str = "table"


@dataclass(frozen=True)
class GridBlock:
    grid: Grid
    kind: str = "grid"


Block = Text | Code | FigureBlock | TableBlock | GridBlock


@dataclass(frozen=True)
class Section:
    """`id` is the anchor of the section on the page."""

    id: str
    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)


def render(
    title: str,
    kicker: str,
    conclusion: Sequence[str],
    warnings: Sequence[str],
    facts: Sequence[tuple[str, str]],
    sections: Sequence[Section],
    colophon: str,
) -> str:
    """The report as HTML; all text is escaped, only drawings go in as they are."""
    import jinja2

    folder = Path(__file__).parent.parent / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["labelled"] = lambda svg, alt: svg.replace("<svg ", f'<svg aria-label="{escape(alt)}" ', 1)
    # "p < 0.001" and "F = 3" stay on one line.
    environment.filters["joined"] = lambda text: re.sub(
        r"\b([pF]) ([<=]) ", "\\1\N{NO-BREAK SPACE}\\2\N{NO-BREAK SPACE}", text
    )
    return environment.get_template("report.html.j2").render(
        title=title, kicker=kicker, conclusion=conclusion, warnings=warnings, facts=facts, sections=sections,
        colophon=colophon,
    )  # fmt: skip
