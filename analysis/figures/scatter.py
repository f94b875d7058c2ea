"""One number against another, a mark a design: two studies beside each other, or quality against cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from analysis.figures.style import BLUE, CYCLE, MUTED, VERMILION, mark, new_figure, pt, styled

MARKERS = ("o", "s", "^", "D", "v", "P")
# Places of a name about its mark, in points and the side of the text that is there; the nearest comes first.
_NEAR = ((7, 0, "left"), (-7, 0, "right"), (0, 7, "center"), (0, -12, "center"), (6, 8, "left"), (-6, 8, "right"),
         (6, -11, "left"), (-6, -11, "right"))  # fmt: skip
_FAR = tuple((dx * far, dy, side) for far in (1, 2) for dy in (20, -22, 34, -36, 48, -50)
             for dx, side in ((14, "left"), (-14, "right"), (34, "left"), (-34, "right")))  # fmt: skip


def agreement(points: Sequence[tuple[str, float, float, str]], x_label: str, y_label: str) -> Figure:
    """points: (design, x, y, kind); kinds get a colour and a marker each, designs their name where there is room."""
    kinds = list(dict.fromkeys(kind for *_, kind in points))
    with styled():
        figure = new_figure(5.8, 5.0)
        ax = figure.add_subplot()
        for i, kind in enumerate(kinds):
            look: dict[str, Any] = {
                "marker": MARKERS[i % len(MARKERS)],
                "markersize": mark(7),
                "color": CYCLE[i % len(CYCLE)],
            }
            ax.plot([], [], linestyle="", label=kind, **look)
            for name, x, y, _ in (point for point in points if point[3] == kind):
                (dot,) = ax.plot(x, y, **look)
                figure.tell(dot, f"{name} ({kind})\n{x_label}: {x:.4g}\n{y_label}: {y:.4g}")
        ax.set_xlabel(x_label)
        ax.set_ylabel(y_label)
        ax.margins(0.12)
        ax.grid()
        if len(kinds) > 1:
            ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(kinds))
        figure.draw_without_rendering()  # settles the layout, which the places of names depend on
        name_points(ax, [(name, x, y) for name, x, y, _ in points])
    return figure


def name_points(ax: Axes, points: Sequence[tuple[str, float, float]], marks: Sequence[tuple[float, float]] = ()) -> int:
    """Write each name where it covers no other name or mark, and return how many are left out for want of room.

    A name that has no room beside its mark goes farther away, with a thin line to it. marks: others to keep free.
    The layout of the figure must be settled.
    """
    figure = ax.get_figure(root=True)
    assert figure is not None
    renderer = FigureCanvasAgg(figure).get_renderer()
    frame = ax.get_window_extent(renderer)
    dots = [ax.transData.transform((x, y)) for x, y in [*((x, y) for _, x, y in points), *marks]]
    reach = mark(7) * figure.dpi / 72 * 0.55  # half a mark, in pixels
    taken = [Bbox.from_bounds(px - reach, py - reach, 2 * reach, 2 * reach) for px, py in dots]
    left_out = 0
    for i, (name, x, y) in enumerate(points):
        others = taken[:i] + taken[i + 1 :]
        for far, (dx, dy, side) in ((dx_dy in _FAR, dx_dy) for dx_dy in (*_NEAR, *_FAR)):
            arrow = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 4} if far else None
            note = ax.annotate(name, (x, y), (dx, dy), textcoords="offset points", fontsize=pt(7.5), color=MUTED,
                               ha=side, va="center" if dy == 0 else "baseline", arrowprops=arrow)  # fmt: skip
            box = _text_box(note, renderer).padded(1.5)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if inside and not box.count_overlaps(others) and not box.overlaps(taken[i]):
                taken.append(box)
                break
            note.remove()
        else:
            left_out += 1
    return left_out


def _text_box(note: Annotation, renderer: Any) -> Bbox:
    """The box of a note's text without its line."""
    note.update_positions(renderer)
    return Bbox(Text.get_window_extent(note, renderer).get_points())


CostPanel = tuple[str, Sequence[tuple[str, float, float]], set[str]]


def cost_panels(panels: Sequence[CostPanel], y_label: str, higher_is_better: bool = True) -> Figure:
    """Quality against cost, one panel a cost (less is better).

    A panel is (cost with unit, [(design, cost, score)], designs on the Pareto front); the front is red, joined and
    named where there is room.
    """
    with styled():
        figure = new_figure(0.9 + 2.9 * len(panels), 3.4)
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for ax, (x_label, designs, front) in zip(axes, panels, strict=True):
            for name, cost, score in designs:
                chosen = name in front
                (dot,) = ax.plot(cost, score, marker="o", markersize=mark(6), color=VERMILION if chosen else BLUE,
                                 zorder=2 + chosen, alpha=1 if chosen else 0.55)  # fmt: skip
                figure.tell(dot, f"{name}\n{x_label}: {cost:.4g}\n{y_label}: {score:.4g}")
            steps = sorted((cost, score, name) for name, cost, score in designs if name in front)
            ax.plot([c for c, *_ in steps], [s for _, s, _ in steps], color=VERMILION, linewidth=1, alpha=0.7)
            ax.set_xlabel(x_label)
            ax.margins(0.14)
            ax.locator_params(axis="x", nbins=4)
            ax.grid()
        axes[0].set_ylabel(y_label)
        figure.draw_without_rendering()
        for ax, (_, designs, front) in zip(axes, panels, strict=True):
            best_first = sorted((d for d in designs if d[0] in front), key=lambda d: d[2], reverse=higher_is_better)
            name_points(ax, best_first, [(c, s) for name, c, s in designs if name not in front])
    return figure
