"""The interface of the loggers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from sdpet.runs.record import Record

VALIDATION = "validation"  # names images drawn during training, as folder, tag or key


class NoLog:
    """The interface of all loggers; this one stores nothing. The record has the loss in any case."""

    def step(self, step: int, loss: float) -> None:
        """Log the loss of a step; steps count from 1. A resumed run logs its first steps again."""

    def images(self, step: int, images: Sequence[np.ndarray]) -> None:
        """Log images drawn after a step: uint8 (H, W, 3) each."""

    def summarize(self, record: Record, folder: Path) -> None:
        """Log the result of a run that is trained and scored; its samples and weights are in `folder`."""

    def close(self, error: BaseException | None = None) -> None:
        """Close the log; `error` is the exception that ended the run early, if any."""
