"""How much of the score each factor explains: omega squared with its interval, with F and p beside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill

from matplotlib.figure import Figure

from analysis.figures.style import BLUE, MUTED, PAPER, grid_along, mark, new_figure, pt, styled

WIDEST_TITLE = 46  # characters


@dataclass(frozen=True)
class Share:
    """A term's share (NaN where it cannot be tested) with its interval, a note beside it, and whether it matters."""

    label: str
    share: float
    low: float
    high: float
    note: str
    matters: bool


def shares(groups: Sequence[tuple[str, Sequence[Share]]]) -> Figure:
    """One panel a kind of test, one row a term; marks are filled where the term is found to matter."""
    titled = [(fill(title, WIDEST_TITLE), rows) for title, rows in groups]
    height = 0.7 + sum(0.55 + 0.2 * title.count("\n") + 0.42 * len(rows) for title, rows in titled)
    with styled():
        figure = new_figure(5.3, height)
        axes = figure.subplots(len(titled), 1, squeeze=False, height_ratios=[max(len(r), 1) for _, r in titled],
                               sharex=True)[:, 0]  # fmt: skip
        for group, (ax, (title, rows)) in enumerate(zip(axes, titled, strict=True)):
            for y, row in enumerate(rows):
                if math.isfinite(row.low) and math.isfinite(row.high):
                    ax.plot([row.low, row.high], [y, y], color=BLUE, linewidth=1.8, solid_capstyle="round")
                (dot,) = ax.plot(row.share, y, marker="o", markersize=mark(6.5), color=BLUE if row.matters else PAPER,
                        markeredgecolor=BLUE, markeredgewidth=1.4, gid=f"share-{group}-{y}")  # fmt: skip
                if math.isfinite(row.share):
                    figure.tell(dot, f"{row.label}, {title}\nomega squared {row.share:.3f} "
                                     f"(90% interval {row.low:.3f} to {row.high:.3f})\n{row.note}")  # fmt: skip
                ax.annotate(row.note, (0.0, y), (4, 9), textcoords="offset points", va="center", fontsize=pt(8.5),
                            color=MUTED)  # fmt: skip
            ax.set_yticks(range(len(rows)), [row.label for row in rows])
            ax.set_ylim(len(rows) - 0.45, -0.75)
            ax.set_title(title)
            grid_along(ax, "x")
        axes[-1].set_xlim(-0.02, 1.02)
        axes[-1].set_xlabel("omega squared: estimated share of the variance\nthat the other terms leave")
    return figure
