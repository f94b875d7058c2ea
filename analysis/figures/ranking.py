"""Designs from best to worst with intervals, between the floor (base model) and the ceiling (the subject itself)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from matplotlib.figure import Figure

from analysis.figures.style import BLUE, CYCLE, INK, MUTED, PAPER, grid_along, mark, new_figure, pt, styled


@dataclass(frozen=True)
class Row:
    """A design's mean score, its interval (NaN where there is none), its single runs, and whether it may be best.

    tip: what to say when a reader points at its mark.
    """

    label: str
    mean: float
    low: float = math.nan
    high: float = math.nan
    points: Sequence[float] = field(default_factory=tuple)
    among_best: bool = False
    tip: str = ""


def ranking(
    rows: Sequence[Row],
    label: str,
    floor: float = math.nan,
    ceiling: float = math.nan,
    floor_text: str = "base model",
    ceiling_text: str = "ceiling",
) -> Figure:
    """Best at the top. Filled marks: cannot be told from the best; the line through a mark is its interval."""
    with styled():
        figure = new_figure(_width([row.label for row in rows]), 1.1 + 0.25 * max(len(rows), 2))
        ax = figure.add_subplot()
        for y, row in enumerate(rows):
            ax.plot(
                row.points, [y] * len(row.points), linestyle="", marker="|", markersize=mark(6), color=MUTED, zorder=2
            )
            if math.isfinite(row.low) and math.isfinite(row.high):
                ax.plot([row.low, row.high], [y, y], color=BLUE, linewidth=1.8, zorder=3, solid_capstyle="round")
            # Open marks are clearly worse than the best.
            (dot,) = ax.plot(row.mean, y, marker="o", markersize=mark(6.5), color=BLUE if row.among_best else PAPER,
                    markeredgecolor=BLUE, markeredgewidth=1.4, zorder=4, gid=f"design-{y}")  # fmt: skip
            if row.tip:
                figure.tell(dot, row.tip)
        for at, text in ((floor, floor_text), (ceiling, ceiling_text)):
            if math.isfinite(at):
                ax.axvline(at, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
                ax.annotate(text, (at, 1), (0, 4), xycoords=("data", "axes fraction"), textcoords="offset points",
                            ha="center", fontsize=pt(8.5), color=MUTED)  # fmt: skip
        ax.set_yticks(range(len(rows)), [row.label for row in rows])
        ax.set_ylim(len(rows) - 0.4, -0.6)
        grid_along(ax, "x")
        ax.grid(axis="y", linewidth=0.5)
        ax.margins(x=0.04)
        ax.set_xlabel(label)
    return figure


def _width(labels: Sequence[str], usual: float = 5.3) -> float:
    """Inches of a figure with rows of these labels: the panels keep their width where names are long."""
    return usual + 0.07 * max(0, max(map(len, labels), default=0) - 30)


@dataclass(frozen=True)
class Panel:
    """Another score of each design: its axis, means, single runs, floor and ceiling (NaN: there is none), tips."""

    axis: str
    means: Sequence[float]
    points: Sequence[Sequence[float]]
    floor: float = math.nan
    ceiling: float = math.nan
    tips: Sequence[str] = ()


def beside(labels: Sequence[str], panels: Sequence[Panel]) -> Figure:
    """Other scores of the same designs, in the same order: one narrow panel a score."""
    with styled():
        figure = new_figure(_width(labels, 1.5 + 2.5 * len(panels)), 1.2 + 0.26 * max(len(labels), 2))
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for ax, colour, panel in zip(axes, CYCLE * 3, panels, strict=False):
            for y, (mean, singles) in enumerate(zip(panel.means, panel.points, strict=True)):
                ax.plot(singles, [y] * len(singles), linestyle="", marker="|", markersize=mark(5), color=MUTED)
                (dot,) = ax.plot(mean, y, marker="o", markersize=mark(5.5), color=colour)
                if panel.tips:
                    figure.tell(dot, panel.tips[y])
            for at, text in ((panel.floor, "base"), (panel.ceiling, "ceiling")):
                if math.isfinite(at):
                    ax.axvline(at, color=INK, linewidth=1, linestyle=(0, (4, 3)))
                    ax.annotate(text, (at, 1), (0, 4), xycoords=("data", "axes fraction"), textcoords="offset points",
                                ha="center", fontsize=pt(8.5), color=MUTED)  # fmt: skip
            ax.set_yticks(range(len(labels)), labels)
            ax.set_ylim(len(labels) - 0.4, -0.6)
            grid_along(ax, "x")
            ax.grid(axis="y", linewidth=0.5)
            ax.locator_params(axis="x", nbins=4)
            ax.set_xlabel(panel.axis)
    return figure
