"""Mean score of every cell of a grid of two factors; for placements the triangular grid of the paper."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis.figures.style import HATCH, INK, MUTED, new_figure, styled


def heatmap(
    cells: Mapping[tuple[str, str], float],
    columns: Sequence[tuple[str, str]],
    rows: Sequence[tuple[str, str]],
    admissible: set[tuple[str, str]],
    label: str,
    column_title: str,
    row_title: str,
    higher_is_better: bool = True,
    digits: int = 3,
    mark: tuple[str, str] | None = None,
) -> Figure:
    """Draw `cells[column, row]`, bright where the score is good.

    columns, rows: (name, text) pairs in the order of drawing. A cell outside `admissible` is hatched; an admissible
    cell without a finite value says "no run". `label`: the score with its unit. `mark`: a cell to frame (the best).
    """
    finite = [v for v in cells.values() if math.isfinite(v)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    norm = Normalize(low, high if high > low else low + 1.0)
    palette = matplotlib.colormaps["viridis" if higher_is_better else "viridis_r"]
    with styled():
        figure = new_figure(1.3 + 0.66 * len(columns) + 0.7, 1.25 + 0.5 * len(rows))
        ax = figure.add_subplot()
        for x, (column, _) in enumerate(columns):
            for y, (row, _) in enumerate(rows):
                _cell(ax, x, y, cells.get((column, row)), (column, row) in admissible, palette, norm, digits)
        if mark is not None:
            x = [name for name, _ in columns].index(mark[0])
            y = [name for name, _ in rows].index(mark[1])
            frame = Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, fill=False, edgecolor=INK, linewidth=2.2, gid="best")
            ax.add_patch(frame)
        ax.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5), xlabel=column_title, ylabel=row_title)
        slanted = max(len(text) for _, text in columns) > 6
        ax.set_xticks(range(len(columns)), [text for _, text in columns], rotation=35 if slanted else 0,
                      ha="right" if slanted else "center", rotation_mode="anchor" if slanted else None)  # fmt: skip
        ax.set_yticks(range(len(rows)), [text for _, text in rows])
        ax.tick_params(length=0)
        for spine in ax.spines.values():
            spine.set_visible(False)
        if len(set(finite)) > 1:
            bar = figure.colorbar(ScalarMappable(norm, palette), ax=ax, fraction=0.035, pad=0.02)
            bar.set_label(label)
            if not higher_is_better:
                bar.ax.invert_yaxis()
            bar.outline.set_visible(False)  # type: ignore[operator]
    return figure


def _cell(ax, x: int, y: int, value: float | None, admissible: bool, palette, norm, digits: int) -> None:
    """One cell: a colour with its number, a hatched square, or an empty one that says that nothing was run."""
    corner = (x - 0.47, y - 0.47)
    if not admissible:
        ax.add_patch(Rectangle(corner, 0.94, 0.94, fill=False, hatch="////", edgecolor=HATCH, linewidth=0,
                               gid=f"inadmissible-{x}-{y}"))  # fmt: skip
    elif value is None or not math.isfinite(value):
        ax.add_patch(Rectangle(corner, 0.94, 0.94, fill=False, edgecolor=MUTED, linestyle=(0, (2, 2)), linewidth=0.9,
                               gid=f"empty-{x}-{y}"))  # fmt: skip
        ax.text(x, y, "no run", ha="center", va="center", fontsize=7.5, color=MUTED)
    else:
        colour = palette(norm(value))
        ax.add_patch(Rectangle(corner, 0.94, 0.94, facecolor=colour, edgecolor="none", gid=f"cell-{x}-{y}"))
        luminance = 0.2126 * colour[0] ** 2.2 + 0.7152 * colour[1] ** 2.2 + 0.0722 * colour[2] ** 2.2
        text = f"{value:.{digits}f}"
        ax.text(x, y, text, ha="center", va="center", fontsize=9 if len(text) < 6 else 8,
                color="black" if luminance > 0.18 else "white")  # fmt: skip
