"""The interface of the loggers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from sdpet.runs.record import Record

VALIDATION = "validation"  # names images drawn during training, as folder, tag or key


class NoLog:
    """The interface of all loggers; this one stores nothing. The record has the loss in any case.

    Attributes
    ----------
    is_kept : bool
        Whether it stores metrics. If not, nobody computes norms of gradients.
    """

    is_kept = False

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log numbers of a step: ``loss``, ``lr``, ``grad_norm``, and what callbacks of Lightning log.

        Steps count from 1. A resumed run logs its first steps again.
        """

    def images(self, step: int, images: Sequence[np.ndarray]) -> None:
        """Log images drawn after a step: uint8 (H, W, 3) each."""

    def summarize(self, record: Record, folder: Path) -> None:
        """Log the result of a run that is trained and scored; its samples and weights are in `folder`."""

    def close(self, error: BaseException | None = None) -> None:
        """Close the log; `error` is the exception that ended the run early, if any."""


def read_validation(folder: Path, step: int) -> list[np.ndarray]:
    """The validation images of a step in a run's folder, uint8 (H, W, 3) each; none where there are none."""
    files = sorted((folder / VALIDATION / f"{step:06d}").glob("*.png"))
    if not files:
        return []
    import numpy as np
    from PIL import Image

    return [np.asarray(Image.open(file).convert("RGB")) for file in files]
