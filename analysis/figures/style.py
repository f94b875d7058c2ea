"""How every figure looks, and how it is saved: SVG and PNG on disk, themed SVG for the report.

Figures are drawn in the named colours below. On disk these are what a white page needs; in the report each named
colour becomes a CSS variable, so one drawing is legible in light and in dark. Marks that carry data use the
Okabe-Ito colours or viridis, which colour-blind readers can tell apart and which stand on both grounds.

A second style, "paper", draws the same figures as wide as a column or as the text of a paper, see `drawn_for`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.safe_csv import csv_text
from analysis.runs.names import outer

INK = "#1f2328"  # text and axes
MUTED = "#656d77"  # what steps back: ticks, floor and ceiling, notes
LINE = "#d5dae0"  # grid lines
HATCH = "#b9c0c8"  # cells that cannot exist
PAPER = "#fdfdfc"  # the ground, for marks that are open
CSS = {INK: "var(--ink)", MUTED: "var(--muted)", LINE: "var(--line)", HATCH: "var(--hatch)", PAPER: "var(--paper)"}

# Okabe and Ito (2008), "Color universal design"; the black and yellow of the set vanish on one of the grounds.
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9"
# Blue on a dark ground has too little contrast as text or thin line, so the report lightens it there.
CSS[BLUE] = "var(--blue)"
CYCLE = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)

RC: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.titleweight": "regular",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "hatch.linewidth": 0.7,
    "text.parse_math": False,  # a dollar sign in the name of a column is one
    "svg.fonttype": "none",  # text stays text: it can be searched, read aloud and recoloured
    "svg.hashsalt": "sdpet",  # the same figure gives the same file
    "savefig.transparent": True,
}


# Widths in inches of a column and of the text in the two-column styles of CVPR, ICML and the ACL.
COLUMN, TEXT = 3.25, 6.75
WIDEST_OF_COLUMN = 6.0  # a drawing that is wider on the page goes over both columns
LEAST_POINTS = 6.0
PAPER_RC: Any = {
    "font.family": "serif",
    "font.serif": ["STIXGeneral"],  # a Times, as the papers are set in; it comes with matplotlib
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.0,
    "legend.fontsize": 7,
    "svg.fonttype": "path",  # the font is not on every reader's machine
    "pdf.fonttype": 42,  # TrueType: venues refuse Type 3
}
STYLES = ("screen", "paper")
_style: ContextVar[str] = ContextVar("style", default="screen")


@contextmanager
def drawn_for(style: str) -> Iterator[None]:
    """Draw for "screen" or "paper": as wide as a column or the text of a paper, in its font, and as PDF as well."""
    if style not in STYLES:
        raise ValueError(f"style is {style!r}; choose {', '.join(STYLES)}.")
    token = _style.set(style)
    try:
        yield
    finally:
        _style.reset(token)


def for_paper() -> bool:
    return _style.get() == "paper"


def pt(size: float) -> float:
    """The size of text in points, as it is in the style that is drawn for."""
    return max(0.8 * size, min(size, LEAST_POINTS)) if for_paper() else size


def mark(size: float) -> float:
    """The size of a mark in points, as it is in the style that is drawn for."""
    return 0.65 * size if for_paper() else size


class Canvas(Figure):
    """A figure that knows what each of its marks stands for: `tips`, by the mark's id in the SVG."""

    def __init__(self, width: float, height: float) -> None:
        super().__init__(figsize=(width, height), layout="constrained")
        self.tips: dict[str, str] = {}

    def tell(self, mark: Artist, text: str) -> None:
        """Say this when a reader points at the mark; lines are parted by a newline."""
        gid = mark.get_gid() or f"mark-{len(self.tips)}"
        mark.set_gid(gid)
        self.tips[gid] = text


@dataclass(frozen=True)
class Drawing:
    """A finished figure: `name` is its file name without ending, `svg` stands in the report."""

    name: str
    svg: str
    files: tuple[Path, ...]
    wide: bool = False
    tips: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def styled() -> Iterator[None]:
    """Draw inside this; it leaves matplotlib's own settings as they were."""
    with matplotlib.rc_context({**RC, **PAPER_RC} if for_paper() else RC):
        yield


def new_figure(width: float, height: float) -> Canvas:
    """A figure of `width` x `height` inches that belongs to no window and no global state.

    For a paper it is as wide as a column or the text, and keeps its proportions as far as text leaves room.
    """
    if for_paper():
        shrink = (COLUMN if width <= WIDEST_OF_COLUMN else TEXT) / width
        width, height = width * shrink, height * max(shrink, 0.72)
    return Canvas(width, height)


def grid_along(ax: Axes, axis: str) -> None:
    """Light grid lines along one axis and no spine or tick marks on the other."""
    ax.grid(axis=axis)  # type: ignore[arg-type]
    side, other = ("left", "y") if axis == "x" else ("bottom", "x")
    ax.spines[side].set_visible(False)
    ax.tick_params(axis=other, length=0)  # type: ignore[arg-type]


def save(figure: Figure, name: str, folder: Path, data: pd.DataFrame, wide: bool = False) -> Drawing:
    """Write `folder/name.svg`, `.png` (200 dpi, white) and `.csv`, and return the drawing for the report.

    data: the numbers that are drawn, with all digits. `wide`: the figure is not shrunk below a legible width on a
    phone but scrolls sideways. In the style of a paper there is a `.pdf` as well.
    """
    folder.mkdir(parents=True, exist_ok=True)
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    buffer = io.StringIO()
    files = tuple(folder / f"{name}{ending}" for ending in (".svg", ".png", ".csv"))
    with styled():
        engine = figure.get_layout_engine()
        if engine is not None:
            engine.execute(figure)  # once, and not for each file
        figure.set_layout_engine("none")
        figure.savefig(buffer, format="svg", metadata=nothing)
        figure.savefig(files[1], dpi=300 if for_paper() else 200, facecolor="white", transparent=False)
        if for_paper():
            files += (folder / f"{name}.pdf",)
            figure.savefig(files[-1], metadata={"CreationDate": None, "Creator": None, "Producer": None})
    tips = figure.tips if isinstance(figure, Canvas) else {}
    text = _titled(buffer.getvalue(), tips)
    files[0].write_text(outer(text), encoding="utf-8")
    files[2].write_text(csv_text(data), encoding="utf-8")
    return Drawing(name, _for_page(text, name), files, wide, tips)


def _titled(svg: str, tips: Mapping[str, str]) -> str:
    """The drawing in which a browser shows what a mark stands for when one points at it."""
    for gid, text in tips.items():
        title = f"<title>{escape(text)}</title>"
        if (group := f'<g id="{gid}">') in svg:
            svg = svg.replace(group, f'<g id="{gid}" class="tip">{title}', 1)
        else:  # a picture has no group of its own
            image = re.search(rf'<image [^>]*id="{re.escape(gid)}"[^>]*/>', svg)
            if image:
                svg = svg.replace(image[0], f'<g class="tip">{title}{image[0]}</g>', 1)
    return svg


def _for_page(svg: str, name: str) -> str:
    """The `<svg>` element alone, with ids that are unique on the page and named colours as CSS variables."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    for colour, variable in CSS.items():
        svg = svg.replace(colour, variable)
    # The drawing takes the width of its column, up to a quarter more than its own size.
    width = re.search(r'<svg[^>]*? width="([\d.]+)pt"', svg)
    points = float(width.group(1)) if width else 480.0
    head, rest = svg.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    head = head.replace("<svg", f'<svg role="img" style="max-width:{points * 4 / 3 * 1.25:.0f}px"', 1)
    return head + ">" + rest
