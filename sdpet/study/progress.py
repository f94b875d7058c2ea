"""How the progress of a study is reported: the interface, and how much of a run is done."""

from __future__ import annotations

from typing import Protocol

from sdpet.runs.record import Record


class StudyProgress(Protocol):
    """Is told how far the runs of a study are; `sdpet.commands` has one for terminals and logs."""

    def share(self, name: str, share: float) -> None:
        """The named run is done to this share (0 to 1)."""

    def done(self, name: str, record: Record | None) -> None:
        """The named run has its record; None where it has none."""

    def close(self) -> None:
        """Nothing more comes."""


def share_done(phase: str, done: int, total: int) -> float:
    """The share (0 to 1) of a run that is done: training counts 0.8, sampling the rest, as in the lab."""
    if phase == "train":
        return 0.8 * done / total
    return 0.8 + 0.2 * done / total if phase == "sample" else 0.0
