"""A classifier of handwritten digits that judges samples of `data=digits`. Its features never saw the lab."""

from __future__ import annotations

from pathlib import Path

from sdpet.lab.reading import ReadingJudge
from sdpet.tasks.digits import WORDS


class DigitJudge(ReadingJudge):
    """Reads which digit an image shows, as a word from "zero" to "nine"; see `ReadingJudge`.

    It was trained by `sdpet.lab.pretrain.reading_judge` on the training split of scikit-learn's digits.
    """

    name, words, weights = "digit-judge", WORDS, Path(__file__).parent / "digit_judge"
