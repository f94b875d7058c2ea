"""What levels of a factor do: marginal means with intervals, lines of two factors, and what the model leaves over."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from analysis.figures.style import BLUE, CYCLE, MUTED, for_paper, grid_along, mark, new_figure, pt, styled

MARKERS = ("o", "s", "^", "D", "v", "P", "X")


@dataclass(frozen=True)
class Level:
    """The mean of a level with its interval (NaN where not estimable); levels of one `part` can be compared.

    tip: what to say when a reader points at its mark.
    """

    label: str
    mean: float
    low: float
    high: float
    part: int = 0
    tip: str = ""


def means_panels(panels: Sequence[tuple[str, Sequence[Level]]], axis: str) -> Figure:
    """One panel a factor, a row a level; parts of the design that cannot be compared differ in colour and mark."""
    with styled():
        figure = new_figure(5.3, 0.6 + sum(0.5 + 0.27 * len(levels) for _, levels in panels))
        axes = figure.subplots(
            len(panels), 1, sharex=True, squeeze=False, height_ratios=[len(levels) + 1 for _, levels in panels]
        )[:, 0]
        for ax, (title, levels) in zip(axes, panels, strict=True):
            for y, level in enumerate(levels):
                colour, marker = CYCLE[level.part % len(CYCLE)], MARKERS[level.part % len(MARKERS)]
                if math.isfinite(level.low) and math.isfinite(level.high):
                    ax.plot([level.low, level.high], [y, y], color=colour, linewidth=1.8, solid_capstyle="round")
                (dot,) = ax.plot(level.mean, y, marker=marker, markersize=mark(6), color=colour, linestyle="")
                if level.tip:
                    figure.tell(dot, level.tip)
                if not math.isfinite(level.mean):
                    ax.annotate("not estimable", (0.02, y), xycoords=("axes fraction", "data"), va="center",
                                fontsize=pt(8.5), color=MUTED)  # fmt: skip
            ax.set_yticks(range(len(levels)), [level.label for level in levels])
            ax.set_ylim(len(levels) - 0.4, -0.6)
            ax.set_title(title)
            grid_along(ax, "x")
            ax.grid(axis="y", linewidth=0.5)
        axes[-1].set_xlabel(axis)
    return figure


def interaction_lines(
    columns: Sequence[str], lines: Sequence[tuple[str, Sequence[float]]], x_label: str, line_label: str, y_label: str
) -> Figure:
    """Cell means of two factors: levels of one to the right, a line for each level of the other (NaN: no such cell)."""
    with styled():
        figure = new_figure(5.6 + 0.22 * max(0, len(columns) - 10), 3.4)
        ax = figure.add_subplot()
        for i, (name, values) in enumerate(lines):
            present = [(x, v) for x, v in enumerate(values) if math.isfinite(v)]
            ax.plot([x for x, _ in present], [v for _, v in present], color=CYCLE[i % len(CYCLE)], linewidth=1.4,
                    marker=MARKERS[i % len(MARKERS)], markersize=mark(6), label=name,
                    linestyle="-" if i < len(CYCLE) else "--")  # fmt: skip
            for x, v in present:  # a mark that a reader can point at, of the line's colour
                (dot,) = ax.plot(x, v, color=CYCLE[i % len(CYCLE)], marker=MARKERS[i % len(MARKERS)],
                                 markersize=mark(6))  # fmt: skip
                figure.tell(dot, f"{x_label}: {columns[x]}\n{line_label}: {name}\n{y_label}: {v:.4g}")
        slanted = max(map(len, columns)) > 6 and len(columns) > 5
        ax.set_xticks(range(len(columns)), columns, rotation=35 if slanted else 0, ha="right" if slanted else "center",
                      rotation_mode="anchor" if slanted else None)  # fmt: skip
        ax.margins(x=0.06, y=0.1)
        ax.set_xlabel(x_label)
        ax.set_ylabel(y_label)
        ax.grid(axis="y")
        columns_of_legend = min(len(lines), 2 if for_paper() else 4)
        ax.legend(title=line_label, loc="lower left", bbox_to_anchor=(0, 1), ncols=columns_of_legend, alignment="left")
    return figure


def diagnostics(left: pd.DataFrame, label: str) -> Figure:
    """Residuals against fitted values, and standardised against the quantiles of a normal distribution.

    left: columns fitted, residual, standardized, quantile, as `analysis.residuals` gives them.
    """
    with styled():
        figure = new_figure(6.6, 2.9)
        first, second = figure.subplots(1, 2)
        first.axhline(0, color=MUTED, linewidth=0.8)
        first.plot(
            left["fitted"], left["residual"], linestyle="", marker="o", markersize=mark(4), color=BLUE, alpha=0.7
        )
        first.set_xlabel(f"fitted {label}")
        first.set_ylabel("residual")
        second.axline((0, 0), slope=1, color=MUTED, linewidth=0.8)
        dots = {"linestyle": "", "marker": "o", "markersize": mark(4), "color": BLUE, "alpha": 0.7}
        second.plot(left["quantile"], left["standardized"], **dots)
        second.set_xlabel("normal quantile")
        second.set_ylabel("standardised residual")
        for ax in (first, second):
            ax.grid()
            ax.locator_params(axis="x", nbins=5)
    return figure
