"""How much of the score each factor explains: F as bars, with p and effect size beside."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill

from matplotlib.figure import Figure

from analysis.figures.style import BLUE, LINE, MUTED, grid_along, new_figure, styled

WIDEST_TITLE = 55  # characters


def f_bars(groups: Sequence[tuple[str, Sequence[tuple[str, float, str, bool]]]]) -> Figure:
    """One panel a kind of test, one bar a factor.

    groups: (title, bars); a bar is (factor, F, note beside it such as "p = 0.003, η² = 0.92", significant). Bars that
    are not significant are pale; a factor whose F cannot be computed (NaN) keeps its place and its note.
    """
    groups = [(fill(title, WIDEST_TITLE), bars) for title, bars in groups]
    height = 0.7 + sum(0.55 + 0.2 * title.count("\n") + 0.36 * len(bars) for title, bars in groups)
    longest = max((f for _, bars in groups for _, f, _, _ in bars if f == f), default=1.0)
    with styled():
        figure = new_figure(5.3, height)
        axes = figure.subplots(len(groups), 1, squeeze=False, height_ratios=[max(len(b), 1) for _, b in groups],
                               sharex=True)[:, 0]  # fmt: skip
        for group, (ax, (title, bars)) in enumerate(zip(axes, groups, strict=True)):
            for y, (_, f, note, significant) in enumerate(bars):
                length = f if f == f else 0.0
                ax.barh(y, length, height=0.62, color=BLUE if significant else LINE,
                        edgecolor="none" if significant else MUTED, linewidth=0.8, gid=f"bar-{group}-{y}")  # fmt: skip
                ax.annotate(f"{f:.2f}, {note}" if f == f else note, (length, y), (5, 0), textcoords="offset points",
                            va="center", fontsize=9)  # fmt: skip
            ax.set_yticks(range(len(bars)), [name for name, *_ in bars])
            ax.set_ylim(len(bars) - 0.45, -0.55)
            ax.set_title(title)
            grid_along(ax, "x")
        # Room on the right for the notes.
        axes[-1].set_xlim(0, longest * 2.1)
        axes[-1].set_xticks([t for t in axes[-1].get_xticks() if t <= longest * 1.15])
        axes[-1].set_xlabel("F, variance between levels over variance within")
    return figure
