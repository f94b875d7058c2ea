"""Mean score of every cell of a grid of two factors; for placements the triangular grid of the paper."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import matplotlib
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis.figures.style import HATCH, INK, MUTED, Canvas, new_figure, pt, styled


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
    tips: Mapping[tuple[str, str], str] | None = None,
) -> Figure:
    """Draw `cells[column, row]`, bright where the score is good.

    columns, rows: (name, text) pairs in the order of drawing. A cell outside `admissible` is hatched; an admissible
    cell without a finite value says "no run". `label`: the score with its unit. `mark`: a cell to frame (the best).
    `tips`: what to say when a reader points at a cell.
    """
    with styled():
        figure = new_figure(1.3 + 0.66 * len(columns) + 0.7, 1.25 + 0.5 * len(rows))
        ax = figure.add_subplot()
        panel = Panel(cells, label, higher_is_better, digits, mark, tips=tips or {})
        _draw(figure, ax, panel, columns, rows, admissible)
        ax.set(xlabel=column_title, ylabel=row_title)
    return figure


@dataclass(frozen=True)
class Panel:
    """A grid of scores: `label` with its unit, decimals, the cell to frame, what stands above, and words of cells."""

    cells: Mapping[tuple[str, str], float]
    label: str
    higher_is_better: bool = True
    digits: int = 3
    mark: tuple[str, str] | None = None
    title: str = ""
    tips: Mapping[tuple[str, str], str] = field(default_factory=dict)


def heatmaps(
    panels: Sequence[Panel],
    columns: Sequence[tuple[str, str]],
    rows: Sequence[tuple[str, str]],
    admissible: set[tuple[str, str]],
    column_title: str,
    row_title: str,
) -> Figure:
    """Several studies on the same grid, one above the other, each on its own scale."""
    with styled():
        figure = new_figure(1.3 + 0.66 * len(columns) + 0.7, 0.9 + (0.5 + 0.45 * len(rows)) * len(panels))
        axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
        for i, (ax, panel) in enumerate(zip(axes, panels, strict=True)):
            _draw(figure, ax, panel, columns, rows, admissible, f"{i}-")
            ax.set_title(panel.title)
            ax.set_ylabel(row_title)
        for ax in axes[:-1]:
            ax.set_xticks([])
        axes[-1].set_xlabel(column_title)
    return figure


def _draw(figure: Canvas, ax, panel: Panel, columns, rows, admissible: set[tuple[str, str]], prefix: str = "") -> None:
    """The cells of one grid with its colour bar; `prefix`: of the ids of its parts."""
    finite = [v for v in panel.cells.values() if math.isfinite(v)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    norm = Normalize(low, high if high > low else low + 1.0)
    palette = matplotlib.colormaps["viridis" if panel.higher_is_better else "viridis_r"]
    for x, (column, _) in enumerate(columns):
        for y, (row, _) in enumerate(rows):
            cell = (column, row)
            drawn = _cell(ax, x, y, panel.cells.get(cell), cell in admissible, palette, norm, panel.digits, prefix)
            if drawn is not None and cell in panel.tips:
                figure.tell(drawn, panel.tips[cell])
    if panel.mark is not None:
        x = [name for name, _ in columns].index(panel.mark[0])
        y = [name for name, _ in rows].index(panel.mark[1])
        frame = Rectangle(
            (x - 0.46, y - 0.46), 0.92, 0.92, fill=False, edgecolor=INK, linewidth=2.2, gid=f"{prefix}best"
        )
        ax.add_patch(frame)
    ax.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    slanted = max(len(text) for _, text in columns) > 6
    ax.set_xticks(range(len(columns)), [text for _, text in columns], rotation=35 if slanted else 0,
                  ha="right" if slanted else "center", rotation_mode="anchor" if slanted else None)  # fmt: skip
    ax.set_yticks(range(len(rows)), [text for _, text in rows])
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    if len(set(finite)) > 1:
        bar = figure.colorbar(ScalarMappable(norm, palette), ax=ax, fraction=0.035, pad=0.02)
        bar.set_label(panel.label)
        if not panel.higher_is_better:
            bar.ax.invert_yaxis()
        bar.outline.set_visible(False)  # type: ignore[operator]


def _cell(ax, x: int, y: int, value: float | None, admissible: bool, palette, norm, digits: int, prefix: str):
    """One cell: a colour with its number, which is returned, a hatched square, or an empty one: nothing was run."""
    corner = (x - 0.47, y - 0.47)
    if not admissible:
        ax.add_patch(Rectangle(corner, 0.94, 0.94, fill=False, hatch="////", edgecolor=HATCH, linewidth=0,
                               gid=f"{prefix}inadmissible-{x}-{y}"))  # fmt: skip
    elif value is None or not math.isfinite(value):
        ax.add_patch(Rectangle(corner, 0.94, 0.94, fill=False, edgecolor=MUTED, linestyle=(0, (2, 2)), linewidth=0.9,
                               gid=f"{prefix}empty-{x}-{y}"))  # fmt: skip
        ax.text(x, y, "no run", ha="center", va="center", fontsize=pt(7.5), color=MUTED)
    else:
        colour = palette(norm(value))
        square = Rectangle(corner, 0.94, 0.94, facecolor=colour, edgecolor="none", gid=f"{prefix}cell-{x}-{y}")
        ax.add_patch(square)
        luminance = 0.2126 * colour[0] ** 2.2 + 0.7152 * colour[1] ** 2.2 + 0.0722 * colour[2] ** 2.2
        text = f"{value:.{digits}f}"
        ax.text(x, y, text, ha="center", va="center", fontsize=pt(9 if len(text) < 6 else 8),
                color="black" if luminance > 0.18 else "white")  # fmt: skip
        return square
    return None
