"""The page: what it is made of, and how it becomes one self-contained HTML file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.figures.style import Drawing, for_paper
from analysis.report.first_screen import Fact
from analysis.report.samples import Grid
from analysis.report.tables import Table

if TYPE_CHECKING:
    from markupsafe import Markup


TEMPLATES = Path(__file__).parent.parent / "templates"
STYLE = ("report.css",)
# Each file is a function that is called at once and needs none of the others but the first.
SCRIPT = ("page.js", "hover.js", "tables.js", "samples.js")


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


@dataclass(frozen=True)
class Choice:
    """Figures of which one is shown at a time, the first at the beginning: (text of the button, figure) each."""

    name: str
    legend: str
    options: Sequence[tuple[str, FigureBlock | Choice]]
    kind: str = "choice"


Block = Text | Code | FigureBlock | TableBlock | GridBlock | Choice


@dataclass(frozen=True)
class Section:
    """`id` is the anchor of the section on the page; `beside` stands to the right of its first figure."""

    id: str
    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)
    beside: GridBlock | None = None

    @property
    def first(self) -> int:
        """How many blocks there are up to the first figure, this one and a folded table below it included."""
        at = next((i for i, block in enumerate(self.blocks) if isinstance(block, FigureBlock | Choice)), 0)
        after = self.blocks[at + 1] if len(self.blocks) > at + 1 else None
        return at + 2 if isinstance(after, TableBlock) and after.table.folded else at + 1


@dataclass(frozen=True)
class Opening:
    """What stands above the sections.

    kicker: what study this is. headline: one sentence. facts: its figures. notes: what was left out or is in doubt.
    conclusion: all of it, with its tests. choices: what was analysed, asked for or guessed. about: name and value of
    what was run.
    """

    kicker: str
    headline: str
    facts: Sequence[Fact]
    notes: Sequence[str]
    conclusion: Sequence[str]
    choices: str = ""
    about: Sequence[tuple[str, str]] = ()


def render(title: str, opening: Opening, sections: Sequence[Section], colophon: str) -> str:
    """The report as HTML; all text is escaped, only drawings, the style and the script go in as they are."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["labelled"] = lambda svg, alt: svg.replace("<svg ", f'<svg aria-label="{escape(alt)}" ', 1)
    environment.filters["joined"] = _joined
    style, script = (
        Markup("\n".join((TEMPLATES / name).read_text(encoding="utf-8") for name in names)) for names in (STYLE, SCRIPT)
    )
    return environment.get_template("report.html.j2").render(
        title=title,
        opening=opening,
        sections=sections,
        colophon=colophon,
        style=style,
        script=script,
        paper=for_paper(),
    )


def _joined(text: str) -> Markup:
    """Text as HTML in which "p < 0.001", "F(3, 7) = 3" and "CLIP-I" stay on one line each."""
    from markupsafe import Markup

    text = re.sub(r"(\bp|\bF|\)) ([<=]) (?=[\d.])", "\\1\N{NO-BREAK SPACE}\\2\N{NO-BREAK SPACE}", text)
    text = re.sub(r"(?<=\w) → (?=\w)", "\N{NO-BREAK SPACE}→\N{NO-BREAK SPACE}", text)
    text = re.sub(r"\bF\((\d+), (\d+)\)", "F(\\1,\N{NO-BREAK SPACE}\\2)", text)
    return Markup(re.sub(r"\b\w+-[IT]\b", r'<span class="one">\g<0></span>', escape(text)))
