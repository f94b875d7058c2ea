"""One number against another, a mark a design: two studies beside each other, or quality against cost."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from analysis.figures.style import BLUE, CYCLE, MUTED, VERMILION, new_figure, styled

MARKERS = ("o", "s", "^", "D", "v", "P")


def agreement(
    points: Sequence[tuple[str, float, float, str]], x_label: str, y_label: str, named: Sequence[str] = ()
) -> Figure:
    """points: (design, x, y, kind); kinds get a colour and a marker each, designs in `named` their name."""
    kinds = list(dict.fromkeys(kind for *_, kind in points))
    with styled():
        figure = new_figure(6.0, 4.6)
        ax = figure.add_subplot()
        for i, kind in enumerate(kinds):
            mine = [(x, y) for _, x, y, k in points if k == kind]
            ax.plot(*zip(*mine, strict=True), linestyle="", marker=MARKERS[i % len(MARKERS)], markersize=7,
                    color=CYCLE[i % len(CYCLE)], label=kind)  # fmt: skip
        for name, x, y, _ in points:
            if not named or name in named:
                ax.annotate(name, (x, y), (6, 4), textcoords="offset points", fontsize=7.5, color=MUTED)
        ax.set_xlabel(x_label)
        ax.set_ylabel(y_label)
        ax.margins(0.1)
        ax.grid()
        if len(kinds) > 1:
            ax.legend(loc="best")
    return figure


def cost_panels(
    panels: Sequence[tuple[str, Sequence[tuple[str, float, float]], set[str]]], y_label: str, higher_is_better: bool = True
) -> Figure:
    """Quality against cost, one panel a cost (less is better).

    panels: (cost with unit, [(design, cost, score)], designs on the Pareto front); the front is red and joined.
    """
    with styled():
        figure = new_figure(1.0 + 2.7 * len(panels), 3.4)
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for ax, (x_label, designs, front) in zip(axes, panels, strict=True):
            for name, cost, score in designs:
                chosen = name in front
                ax.plot(cost, score, marker="o", markersize=6, color=VERMILION if chosen else BLUE, zorder=2 + chosen,
                        alpha=1 if chosen else 0.55)  # fmt: skip
            steps = sorted((cost, score, name) for name, cost, score in designs if name in front)
            ax.plot([c for c, *_ in steps], [s for _, s, _ in steps], color=VERMILION, linewidth=1, alpha=0.7)
            if steps:
                cost, score, name = (max if higher_is_better else min)(steps, key=lambda step: step[1])
                ax.annotate(name, (cost, score), (0, 7), textcoords="offset points", fontsize=8, ha="center")
            ax.set_xlabel(x_label)
            ax.margins(0.14)
            ax.locator_params(axis="x", nbins=4)
            ax.grid()
        axes[0].set_ylabel(y_label)
    return figure
