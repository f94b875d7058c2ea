"""Figures can be read: names cover nothing, dark maps are drawn on a scale that shows them, losses are smoothed."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.text import Annotation, Text

from analysis.figures.curves import smoothed
from analysis.figures.maps import scale
from analysis.figures.scatter import agreement
from analysis.report.samples import Grid, Strip


@pytest.mark.parametrize("spread", [1.0, 0.05])
def test_names_of_points_cover_neither_names_nor_marks(spread: float) -> None:
    """20 designs, scattered and in a heap, as the middle of a study is."""
    at = np.random.default_rng(3).normal(0, spread, (20, 2))
    at[:2] = [[-2, -2], [2, 2]]
    figure = agreement([(f"Trans_out → FFN_{i}", x, y, "residual stream") for i, (x, y) in enumerate(at)], "x", "y")
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    ax = figure.axes[0]
    notes = [child for child in ax.get_children() if isinstance(child, Annotation)]
    boxes = [Text.get_window_extent(note, renderer) for note in notes]
    assert len(notes) >= (20 if spread == 1.0 else 12)
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    marks = ax.transData.transform(at)
    assert not any(box.contains(x, y) for box in boxes for x, y in marks)
    frame = ax.get_window_extent(renderer)
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 for box in boxes)


def test_maps_of_which_one_is_far_brighter_are_drawn_over_the_logarithm() -> None:
    """At half the linear scale all other designs of a study would be one dark colour."""
    faint = np.linspace(0.01, 0.02, 200)
    assert type(scale(faint)) is not LogNorm
    norm = scale(np.concatenate([faint, [0.25, 0.2]]))
    assert isinstance(norm, LogNorm) and norm(0.02) - norm(0.01) > 0.2
    assert 0 <= float(norm(0.0)) <= 1, "nothing is no number"


def test_losses_are_means_over_a_tenth_of_the_steps() -> None:
    noise = np.random.default_rng(0).normal(1.0, 0.3, 400)
    steps, values = smoothed([(float(i), float(v)) for i, v in enumerate(noise)])
    middle = len(steps) // 2
    at = int(steps[middle])
    assert values[middle] == pytest.approx(noise[at - 20 : at + 21].mean())
    assert len(steps) == 80 and steps[0] == 0 and steps[-1] == 399


@pytest.mark.parametrize(
    ("images", "shown"),
    [
        ((None, None, "x", "y"), [("r", "s"), ("x", "y")]),  # run on another seed: what it has
        (("a", None, None, None), [("r", "s"), ("a", None)]),  # an image is missing
        (("a", "b", "c", "d"), [("r", "s"), ("a", "b")]),
    ],
)
def test_the_best_designs_show_images_of_their_own_seeds(images, shown):
    wall = Grid("samples", "", (), (Strip("subject", "", ("r", "s", "t", None), "reference"), Strip("d", "", images)))
    assert [strip.images for strip in wall.only("best", 3, 2, "").strips] == shown
    assert wall.is_ragged(3, 2) == (images[0] is None)
