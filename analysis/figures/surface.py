"""A response surface as contours over two numeric factors, with the cells that were run."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from analysis.figures.style import INK, PAPER, mark, new_figure, styled

LEVELS = 12
POINTS = 60  # of the grid on which the surface is drawn


def contours(
    fitted: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    cells: Sequence[tuple[float, float, float]],
    logs: Sequence[bool],
    best: tuple[float, float] | None,
    x_label: str,
    y_label: str,
    label: str,
    higher_is_better: bool = True,
) -> Figure:
    """The fitted score, bright where it is good.

    fitted: (len(y), len(x)), over x to the right and y upwards. cells: (x, y, mean score) of what was run, in the same
    colours. best: a stationary point to mark. label: the score with its unit.
    """
    with styled():
        figure = new_figure(5.6, 4.0)
        ax = figure.add_subplot()
        values = [v for *_, v in cells]
        norm = Normalize(min(fitted.min(), *values), max(fitted.max(), *values))
        palette = matplotlib.colormaps["viridis" if higher_is_better else "viridis_r"]
        ax.contourf(x, y, fitted, LEVELS, cmap=palette, norm=norm)
        # The circle's colour is the mean of its runs: where it stands out from the ground, the surface does not fit.
        ax.scatter([a for a, *_ in cells], [b for _, b, _ in cells], c=values, cmap=palette, norm=norm, s=60,
                   edgecolors=PAPER, linewidths=1.2, zorder=3, clip_on=False)  # fmt: skip
        if best is not None:
            ax.plot(*best, marker="+", markersize=mark(13), markeredgewidth=2, color=INK, zorder=4)
            ax.plot(*best, marker="+", markersize=mark(11), markeredgewidth=1, color=PAPER, zorder=5)
        ax.set(xscale="log" if logs[0] else "linear", yscale="log" if logs[1] else "linear")
        for axis, ticks in ((ax.xaxis, {a for a, *_ in cells}), (ax.yaxis, {b for _, b, _ in cells})):
            axis.set_ticks(sorted(ticks), [f"{v:g}" for v in sorted(ticks)])
            axis.set_minor_locator(NullLocator())
        ax.set(xlabel=x_label, ylabel=y_label)
        bar = figure.colorbar(ScalarMappable(norm, palette), ax=ax, fraction=0.05, pad=0.02)
        bar.set_label(label)
        bar.outline.set_visible(False)  # type: ignore[operator]
    return figure
