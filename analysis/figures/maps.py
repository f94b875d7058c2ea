"""Small maps beside each other on one colour scale."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from analysis.figures.style import MUTED, new_figure, styled

COLUMNS = 6


def small_multiples(panels: Sequence[tuple[str, np.ndarray, str]], label: str) -> Figure:
    """panels: (name, map (h, w) of values from zero up, its number as text); `label`: what the colours stand for."""
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    names = ["\n".join(textwrap.wrap(name, 18)) for name, *_ in panels]
    lines = 1 + max(name.count("\n") for name in names)
    norm = Normalize(0.0, max(float(np.nanmax(field)) for _, field, _ in panels) or 1.0)
    palette = matplotlib.colormaps["viridis"]
    with styled():
        figure = new_figure(1.12 * columns + 0.75, (1.25 + 0.13 * lines) * rows)
        axes = figure.subplots(rows, columns, squeeze=False)
        for ax in axes.flat[len(panels) :]:
            ax.set_axis_off()
        for i, (ax, name, (_, field, number)) in enumerate(zip(axes.flat, names, panels, strict=False)):
            ax.imshow(field, cmap=palette, norm=norm, interpolation="nearest", gid=f"map-{i}")
            ax.set_title(name, fontsize=7.5, loc="center", pad=3)
            ax.set_xlabel(number, fontsize=8, color=MUTED, labelpad=2)
            ax.set_xticks([])
            ax.set_yticks([])
            for spine in ax.spines.values():
                spine.set_visible(False)
        bar = figure.colorbar(ScalarMappable(norm, palette), ax=axes, fraction=0.025, pad=0.02, aspect=30)
        bar.set_label(label)
        bar.outline.set_visible(False)  # type: ignore[operator]
    return figure
