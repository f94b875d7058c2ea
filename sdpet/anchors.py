"""What scores can be held against: the untuned base (floor) and real images (ceiling)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sdpet.base import BaseModel
from sdpet.sample import Progress, SamplerConfig
from sdpet.scoring.metrics import Scorer
from sdpet.scoring.plan import EvalPlan

if TYPE_CHECKING:
    from sdpet.tasks import Task


def anchors(
    base: BaseModel,
    task: Task,
    scorer: Scorer,
    sampler: SamplerConfig,
    seed: int,
    plan: EvalPlan | None = None,
    cache: str | Path | None = None,
    progress: Progress | None = None,
) -> dict[str, dict[str, float | None]]:
    """For each metric {"floor": ..., "ceiling": ... or None}. Call it before a design is built on `base`.

    floor: the same evaluation, prompts and noise, of the untuned base; ceiling: real images the task has set aside.
    cache: a folder in which results are kept as JSON by hash of everything that matters; safe for several processes.
    """
    ...
