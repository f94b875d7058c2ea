"""One number against another, a mark a design: two studies beside each other, or quality against cost."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from analysis.figures.style import BLUE, CYCLE, MUTED, VERMILION, new_figure, styled

MARKERS = ("o", "s", "^", "D", "v", "P")


def agreement(points: Sequence[tuple[str, float, float, str]], x_label: str, y_label: str) -> Figure:
    """points: (design, x, y, kind); kinds get a colour and a marker each, designs their name where there is room."""
    kinds = list(dict.fromkeys(kind for *_, kind in points))
    with styled():
        figure = new_figure(5.6, 4.6)
        ax = figure.add_subplot()
        for i, kind in enumerate(kinds):
            mine = [(x, y) for _, x, y, k in points if k == kind]
            ax.plot(*zip(*mine, strict=True), linestyle="", marker=MARKERS[i % len(MARKERS)], markersize=7,
                    color=CYCLE[i % len(CYCLE)], label=kind)  # fmt: skip
        ax.set_xlabel(x_label)
        ax.set_ylabel(y_label)
        ax.margins(0.1)
        ax.grid()
        if len(kinds) > 1:
            ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(kinds))
        figure.draw_without_rendering()  # settles the layout, which the places of names depend on
        _name_points(ax, [(name, x, y) for name, x, y, _ in points])
    return figure


def _name_points(ax: Axes, points: Sequence[tuple[str, float, float]]) -> None:
    """Write each name beside its mark where it covers no other name or mark; leave it out where there is no room."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    renderer = FigureCanvasAgg(figure).get_renderer()
    frame = ax.get_window_extent(renderer)
    dots = [ax.transData.transform((x, y)) for _, x, y in points]
    taken = [Bbox.from_bounds(px - 5, py - 5, 10, 10) for px, py in dots]
    for i, (name, x, y) in enumerate(points):
        others = taken[:i] + taken[i + 1 :]
        for dx, dy, side in ((7, 0, "left"), (-7, 0, "right"), (0, 7, "center"), (0, -12, "center"), (6, 8, "left"),
                             (-6, 8, "right"), (6, -10, "left"), (-6, -10, "right")):  # fmt: skip
            note = ax.annotate(name, (x, y), (dx, dy), textcoords="offset points", fontsize=7.5, color=MUTED, ha=side,
                               va="center" if dy == 0 else "baseline")  # fmt: skip
            box = note.get_window_extent(renderer).padded(3)
            if frame.x0 <= box.x0 and box.x1 <= frame.x1 and not box.count_overlaps(others):
                taken.append(box)
                break
            note.remove()


CostPanel = tuple[str, Sequence[tuple[str, float, float]], set[str]]


def cost_panels(panels: Sequence[CostPanel], y_label: str, higher_is_better: bool = True) -> Figure:
    """Quality against cost, one panel a cost (less is better).

    A panel is (cost with unit, [(design, cost, score)], designs on the Pareto front); the front is red and joined.
    """
    with styled():
        figure = new_figure(0.9 + 2.25 * len(panels), 3.2)
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
                costs = [c for _, c, _ in designs]
                left = cost <= (min(costs) + max(costs)) / 2
                ax.annotate(name, (cost, score), (7 if left else -7, 0), textcoords="offset points", fontsize=8,
                            va="center", ha="left" if left else "right")  # fmt: skip
            ax.set_xlabel(x_label)
            ax.margins(0.14)
            ax.locator_params(axis="x", nbins=4)
            ax.grid()
        axes[0].set_ylabel(y_label)
    return figure
