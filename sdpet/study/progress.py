"""The interface for the progress of a study."""

from __future__ import annotations

from typing import Protocol

from sdpet.runs.record import Record


class StudyProgress(Protocol):
    """Receives the progress of the runs of a study; `sdpet.commands` implements it for terminals and logs."""

    def share(self, name: str, share: float) -> None:
        """Report the share (0 to 1) of the named run that is done."""

    def done(self, name: str, record: Record | None) -> None:
        """Report that the named run has ended, with its record or None."""

    def close(self) -> None:
        """End the report."""


def share_done(phase: str, done: int, total: int) -> float:
    """The share (0 to 1) of a run that is done: training counts 0.8 and sampling 0.2, roughly as on the lab."""
    if phase == "train":
        return 0.8 * done / total
    return 0.8 + 0.2 * done / total if phase == "sample" else 0.0
