"""How every figure looks, and how it is saved: SVG and PNG on disk, themed SVG for the report.

Figures are drawn in the named colours below. On disk these are what a white page needs; in the report each named
colour becomes a CSS variable, so one drawing is legible in light and in dark. Marks that carry data use the
Okabe-Ito colours or viridis, which colour-blind readers can tell apart and which stand on both grounds.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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


@dataclass(frozen=True)
class Drawing:
    """A finished figure: `name` is its file name without ending, `svg` stands in the report."""

    name: str
    svg: str
    files: tuple[Path, ...]
    wide: bool = False


@contextmanager
def styled() -> Iterator[None]:
    """Draw inside this; it leaves matplotlib's own settings as they were."""
    with matplotlib.rc_context(RC):
        yield


def new_figure(width: float, height: float) -> Figure:
    """A figure of `width` x `height` inches that belongs to no window and no global state."""
    return Figure(figsize=(width, height), layout="constrained")


def grid_along(ax: Axes, axis: str) -> None:
    """Light grid lines along one axis and no spine or tick marks on the other."""
    ax.grid(axis=axis)  # type: ignore[arg-type]
    side, other = ("left", "y") if axis == "x" else ("bottom", "x")
    ax.spines[side].set_visible(False)
    ax.tick_params(axis=other, length=0)  # type: ignore[arg-type]


def save(figure: Figure, name: str, folder: Path, wide: bool = False) -> Drawing:
    """Write `folder/name.svg` and `.png` (200 dpi, white) and return the drawing for the report.

    `wide`: the figure is not shrunk below a legible width on a phone but scrolls sideways.
    """
    folder.mkdir(parents=True, exist_ok=True)
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    buffer = io.StringIO()
    with styled():
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # it is settled now, and need not be worked out for each file
        figure.savefig(buffer, format="svg", metadata=nothing)
        figure.savefig(folder / f"{name}.png", dpi=200, facecolor="white", transparent=False)
    text = buffer.getvalue()
    (folder / f"{name}.svg").write_text(text, encoding="utf-8")
    return Drawing(name, _for_page(text, name), (folder / f"{name}.svg", folder / f"{name}.png"), wide)


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
