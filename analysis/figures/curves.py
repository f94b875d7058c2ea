"""Training loss: a small panel a design, its runs in colour before the range of all designs."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from analysis.figures.style import BLUE, HATCH, MUTED, VERMILION, new_figure, pt, styled

Curve = Sequence[tuple[float, float]]
COLUMNS = 5
POINTS = 80  # of a curve that is drawn; more cannot be seen in a panel
WINDOW = 0.1  # of a curve's points, over which it is smoothed
BAND = (10, 90)  # percentiles


def smoothed(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """Steps and losses (n,), each loss the mean over a window of a tenth of the curve, which is cut at its ends."""
    steps, values = np.asarray([s for s, _ in curve], float), np.asarray([v for _, v in curve], float)
    half = max(1, round(WINDOW * len(values) / 2))
    total = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    thin = np.unique(np.linspace(0, len(values) - 1, min(len(values), POINTS)).round().astype(int))
    return steps[thin], ((total[high] - total[low]) / (high - low))[thin]


def loss_panels(
    curves: Mapping[str, Sequence[Curve]], y_label: str, ended_badly: frozenset[str] = frozenset(), about: bool = False
) -> Figure:
    """curves: design -> one curve of (step, loss) a run, in the order of the panels.

    ended_badly: names of panels that hold runs without a score; these are red, in no range, and leave the picture
    where they grow beyond the others. about: losses lie about 0, as what is common to all was taken out.
    """
    even = {name: [smoothed(run) for run in runs] for name, runs in curves.items()}
    good = [run for name, runs in even.items() if name not in ended_badly for run in runs]
    columns = min(COLUMNS, len(even))
    rows = math.ceil(len(even) / columns)
    with styled():
        figure = new_figure(max(1.55 * columns + 0.6, 3.6), 1.2 * rows + 0.7 if len(even) > 1 else 3.0)
        axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for ax in axes.flat[len(even) :]:
            ax.set_axis_off()
        band = _band(good) if len(even) > 1 else None
        for i, (ax, (name, runs)) in enumerate(zip(axes.flat, even.items(), strict=False)):
            if band is not None:
                ax.fill_between(*band, color=HATCH, alpha=0.45, linewidth=0, zorder=1)
            if about:
                ax.axhline(0, color=MUTED, linewidth=0.7, zorder=1.5)
            colour = VERMILION if name in ended_badly else BLUE
            for steps, values in runs:
                (line,) = ax.plot(steps, values, color=colour, linewidth=0.9, alpha=0.85, zorder=2)
                figure.tell(line, f"{name}\nat the end {values[-1]:.3g}, smoothed")
            ax.set_title("\n".join(textwrap.wrap(name, 24)), fontsize=pt(7.5), pad=2)
            ax.tick_params(labelsize=pt(7.5))
            ax.locator_params(axis="both", nbins=3)
            ax.grid(axis="y")
            if i + columns >= len(even):
                ax.tick_params(labelbottom=True)
        if good:
            axes.flat[0].set_ylim(*_limits(good))
        figure.supxlabel("training step", fontsize=pt(9))
        figure.supylabel(y_label, fontsize=pt(9))
    return figure


def _limits(runs: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
    """Of runs that ended well, without the first tenth, which may be far off the rest; with 0 unless that is below."""
    low = min(float(values[len(values) // 10 :].min()) for _, values in runs)
    top = max(float(values[len(values) // 10 :].max()) for _, values in runs)
    room = 0.08 * (top - min(low, 0.0)) or 1.0
    return (low - room if low < 0 else 0.0), top + room


def _band(runs: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Steps and the percentiles of BAND over runs, where all have the same steps to within their own points."""
    if len(runs) < 3:
        return None
    steps = max((s for s, _ in runs), key=len)
    each = np.stack([np.interp(steps, s, v, left=np.nan, right=np.nan) for s, v in runs])  # (runs, steps)
    there = np.isfinite(each).sum(axis=0) >= 3
    low, high = np.nanpercentile(each[:, there], BAND, axis=0)
    return steps[there], low, high
