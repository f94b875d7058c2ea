"""Examine a run: draw what the task's plan asks for, score it, and say how the scores were made."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdpet.base import BaseModel
from sdpet.files import atomically
from sdpet.sample import Progress, SamplerConfig, sample
from sdpet.scoring.metrics import Scorer
from sdpet.scoring.plan import EvalPlan, hash_text, image_seeds

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
    plan = plan or EvalPlan()
    shots = task.shots(plan)
    seeds = image_seeds(shots, seed if plan.eval_seed is None else plan.eval_seed)
    start = time.perf_counter()
    images = sample(base, [shot.prompt for shot in shots], seeds, sampler, progress, plan.chunk)
    drawn = time.perf_counter()
    metrics = task.scores(images, shots, scorer)
    index = [
        {"file": f"{i:05d}.png", "prompt": shot.prompt, "seed": image_seed, "role": shot.role}
        for i, (shot, image_seed) in enumerate(zip(shots, seeds, strict=True))
    ]
    seconds = {"sample": drawn - start, "score": time.perf_counter() - drawn}
    return Evaluation(metrics, protocol(base, task, scorer, sampler, plan), images, index, seconds)


def protocol(
    base: BaseModel, task: Task, scorer: Scorer, sampler: SamplerConfig, plan: EvalPlan | None = None
) -> dict[str, Any]:
    """How scores are made; two scores compare only if their protocols are equal. Needs no sampling."""
    plan = plan or EvalPlan()
    shots = task.shots(plan)
    return {
        "scorer": scorer.name,
        "scorer_hash": scorer.weight_hash,
        "resize": getattr(scorer, "resize", None),  # images of another size than the scorer's
        "sampler": asdict(sampler),
        "images": dict(Counter(shot.role for shot in shots)),
        "prompts_hash": hash_text(json.dumps([[shot.prompt, shot.role, shot.text] for shot in shots])),
        # A number would set seeds apart that differ in nothing but their noise; that is in the run's seed.
        "eval_seed": "run seed" if plan.eval_seed is None else plan.eval_seed,
        "image_size": base.image_size,
        "image_bits": 8,
        "score_dtype": "float64",
        **task.reference_protocol(),
    }


def save_samples(evaluation: Evaluation, folder: str | Path) -> None:
    """Write the images as PNG and, last, index.jsonl."""
    from PIL import Image

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for row, image in zip(evaluation.index, evaluation.images, strict=True):
        Image.fromarray(image).save(folder / row["file"])
    lines = "".join(json.dumps(row) + "\n" for row in evaluation.index)
    atomically(folder / "index.jsonl", lambda file: file.write_text(lines, encoding="utf-8"))
