"""Training loss of every run, the best and the worst designs in colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from analysis.figures.style import CYCLE, MUTED, new_figure, styled

Curve = Sequence[tuple[float, float]]


def loss_curves(curves: Mapping[str, Sequence[Curve]], named: Sequence[str], top: float | None = None) -> Figure:
    """curves: design -> one curve of (step, loss) a run; `named` are drawn in colour with a legend, others grey.

    top: the largest loss to show; a run that diverges leaves the picture there.
    """
    with styled():
        figure = new_figure(5.6, 3.1)
        ax = figure.add_subplot()
        for design, runs in curves.items():
            look: dict[str, Any] = {"color": MUTED, "linewidth": 0.7, "alpha": 0.35, "zorder": 2}
            if design in named:
                look = {"color": CYCLE[named.index(design) % len(CYCLE)], "linewidth": 1.3, "alpha": 0.9, "zorder": 3}
            for i, run in enumerate(runs):
                label = design if design in named and i == 0 else None
                ax.plot([s for s, _ in run], [v for _, v in run], label=label, **look)
        if top is not None:
            ax.set_ylim(0, 1.05 * top)
        ax.set_xlabel("training step")
        ax.set_ylabel("loss (mean squared error of the noise)")
        ax.grid(axis="y")
        order = {name: i for i, name in enumerate(named)}
        handles, labels = ax.get_legend_handles_labels()
        pairs = sorted(zip(handles, labels, strict=True), key=lambda pair: order[pair[1]])
        if pairs:
            ax.legend([h for h, _ in pairs], [text for _, text in pairs], loc="upper right")
    return figure
