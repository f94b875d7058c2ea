"""Small maps beside each other on one colour scale."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from analysis.figures.style import MUTED, new_figure, pt, styled

COLUMNS = 6
WIDE = 8.0  # times: values that span more than this are drawn on a logarithmic scale


def small_multiples(panels: Sequence[tuple[str, np.ndarray, str]], label: str) -> tuple[Figure, bool]:
    """One scale for all maps; it is logarithmic, which is returned, where one map's values would leave the rest dark.

    panels: (name, map (h, w) of values from zero up, its number as text); `label`: what the colours stand for.
    """
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    names = ["\n".join(textwrap.wrap(name, 18)) for name, *_ in panels]
    lines = 1 + max(name.count("\n") for name in names)
    norm = scale(np.concatenate([field.ravel() for _, field, _ in panels]))
    palette = matplotlib.colormaps["viridis"]
    with styled():
        figure = new_figure(1.12 * columns + 0.75, (1.25 + 0.13 * lines) * rows)
        axes = figure.subplots(rows, columns, squeeze=False)
        for ax in axes.flat[len(panels) :]:
            ax.set_axis_off()
        for i, (ax, name, (plain, field, number)) in enumerate(zip(axes.flat, names, panels, strict=False)):
            picture = ax.imshow(field, cmap=palette, norm=norm, interpolation="nearest", gid=f"map-{i}")
            figure.tell(picture, f"{plain}\nmean {number}\nfrom {np.nanmin(field):.3g} to {np.nanmax(field):.3g}")
            ax.set_title(name, fontsize=pt(7.5), loc="center", pad=3)
            ax.set_xlabel(number, fontsize=pt(8), color=MUTED, labelpad=2)
            ax.set_xticks([])
            ax.set_yticks([])
            for spine in ax.spines.values():
                spine.set_visible(False)
        bar = figure.colorbar(ScalarMappable(norm, palette), ax=axes, fraction=0.025, pad=0.02, aspect=30)
        bar.set_label(label)
        bar.outline.set_visible(False)  # type: ignore[operator]
        if isinstance(norm, LogNorm):
            bar.ax.yaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
            bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
            bar.ax.yaxis.set_minor_formatter(NullFormatter())
    return figure, isinstance(norm, LogNorm)


def scale(values: np.ndarray) -> Normalize:
    """From zero to the largest value, or, where these span a wide range, over the logarithm from the smallest on."""
    above = values[np.isfinite(values) & (values > 0)]
    top = float(above.max()) if len(above) else 1.0
    low = float(np.percentile(above, 1)) if len(above) else 1.0  # a single value near 0 is not to stretch the scale
    return LogNorm(low, top, clip=True) if top > WIDE * low else Normalize(0.0, top)
