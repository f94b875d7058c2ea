"""The interface of the loggers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from sdpet.runs.record import Record

VALIDATION = "validation"  # the name of the images drawn during training: a folder, a tag, a key


class NoLog:
    """Keeps nothing; the loss is in the record anyway."""

    def step(self, step: int, loss: float) -> None:
        """The loss of a step; steps count from 1. A run that goes on where it stopped tells its first steps again."""

    def images(self, step: int, images: Sequence[np.ndarray]) -> None:
        """Images drawn after a step: uint8, (H, W, 3) each."""

    def summarize(self, record: Record, folder: Path) -> None:
        """The run is trained and scored, and its samples and weights lie in `folder`."""

    def close(self, error: BaseException | None = None) -> None:
        """Nothing more comes; `error` is what ended the run before its time."""
