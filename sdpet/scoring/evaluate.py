"""Examine a run: draw what the task's plan asks for, score it, and say how the scores were made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdpet.base import BaseModel
from sdpet.sample import Progress, SamplerConfig
from sdpet.scoring.metrics import Scorer
from sdpet.scoring.plan import EvalPlan

if TYPE_CHECKING:
    from sdpet.tasks import Task


@dataclass(frozen=True)
class Evaluation:
    """Scores of one run, how they were made, and the images uint8 (N, H, W, 3) they were made from.

    index: one row an image, keys file, prompt, seed, role; seconds: keys sample and score.
    """

    metrics: dict[str, float]
    protocol: dict[str, Any]
    images: np.ndarray
    index: list[dict[str, Any]]
    seconds: dict[str, float]


def evaluate_run(
    base: BaseModel,
    task: Task,
    scorer: Scorer,
    sampler: SamplerConfig,
    seed: int,
    plan: EvalPlan | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Sample and score `base` as it now is (with whatever is attached to it).

    seed: the run's seed; evaluation noise derives from it unless plan.eval_seed is given.
    Raises FloatingPointError when samples are not finite (record the run as diverged).
    """
    ...


def protocol(base: BaseModel, task: Task, scorer: Scorer, sampler: SamplerConfig, plan: EvalPlan | None = None) -> dict[str, Any]:
    """How scores are made; two scores compare only if their protocols are equal. Needs no sampling."""
    ...


def save_samples(evaluation: Evaluation, folder: str | Path) -> None:
    """Write the images as PNG and, last, index.jsonl."""
    ...
