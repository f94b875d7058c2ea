"""The page: what it is made of, and how it becomes one self-contained HTML file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.figures.style import Drawing
from analysis.report.samples import Grid
from analysis.report.tables import Table

if TYPE_CHECKING:
    from markupsafe import Markup


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
    choices: str = "",
) -> str:
    """The report as HTML; all text is escaped, only drawings go in as they are."""
    import jinja2

    folder = Path(__file__).parent.parent / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["labelled"] = lambda svg, alt: svg.replace("<svg ", f'<svg aria-label="{escape(alt)}" ', 1)
    environment.filters["joined"] = _joined
    return environment.get_template("report.html.j2").render(
        title=title, kicker=kicker, conclusion=conclusion, warnings=warnings, facts=facts, sections=sections,
        colophon=colophon, choices=choices,
    )  # fmt: skip


def _joined(text: str) -> Markup:
    """Text as HTML in which "p < 0.001", "F(3, 7) = 3" and "CLIP-I" stay on one line each."""
    from markupsafe import Markup

    text = re.sub(r"(\bp|\bF|\)) ([<=]) (?=[\d.])", "\\1\N{NO-BREAK SPACE}\\2\N{NO-BREAK SPACE}", text)
    text = re.sub(r"\bF\((\d+), (\d+)\)", "F(\\1,\N{NO-BREAK SPACE}\\2)", text)
    return Markup(re.sub(r"\b\w+-[IT]\b", r'<span class="one">\g<0></span>', escape(text)))
