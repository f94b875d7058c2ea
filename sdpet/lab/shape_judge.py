"""A classifier of shapes that judges samples of `data=shapes`."""

from __future__ import annotations

from pathlib import Path

from sdpet.lab.new_shapes import NAMES
from sdpet.lab.reading import ReadingJudge
from sdpet.lab.world import SHAPES


class ShapeJudge(ReadingJudge):
    """Reads which shape an image shows, as a word such as "heart"; see `ReadingJudge`.

    It tells the new shapes from each other and from those that the base models draw already, so an untuned model is
    seldom right by chance. `sdpet.lab.pretrain.reading_judge` trained it on scenes that no run is trained or scored on.
    """

    name, words, weights = "shape-judge", (*NAMES, *SHAPES), Path(__file__).parent / "shape_judge"
