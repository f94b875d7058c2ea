"""Examine a run: draw what the task's plan asks for, score it, and say how the scores were made."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdpet.base import BaseModel
from sdpet.files import atomically
from sdpet.sample import NOT_FINITE, Progress, SamplerConfig, sample_together
from sdpet.scoring.metrics import Scorer
from sdpet.scoring.plan import EvalPlan, hash_text, image_seeds
from sdpet.scoring.remembering import Remembering

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
    evaluation = evaluate_together(base, task, scorer, sampler, [seed], plan, progress)[0]
    if evaluation is None:
        raise FloatingPointError(NOT_FINITE)
    return evaluation


def evaluate_together(
    base: BaseModel,
    task: Task,
    scorer: Scorer,
    sampler: SamplerConfig,
    seeds: Sequence[int],
    plan: EvalPlan | None = None,
    progress: Progress | None = None,
) -> list[Evaluation | None]:
    """`evaluate_run` for all members of a fleet at once; None where samples are not finite.

    seeds: the members', in order of their rows. Seconds are a member's share.
    """
    plan = plan or EvalPlan()
    shots = task.shots(plan)
    noise = [image_seeds(shots, seed if plan.eval_seed is None else plan.eval_seed) for seed in seeds]
    start = time.perf_counter()
    drawn = sample_together(base, [shot.prompt for shot in shots], noise, sampler, progress, plan.chunk)
    sampled = time.perf_counter()
    remembering = Remembering(scorer)
    if finite := [images for images in drawn if images is not None]:
        remembering.look_at(np.concatenate(finite))
    metrics = [None if images is None else task.scores(images, shots, remembering) for images in drawn]
    seconds = {"sample": (sampled - start) / len(seeds), "score": (time.perf_counter() - sampled) / len(seeds)}
    made_by = protocol(base, task, scorer, sampler, plan)
    evaluations: list[Evaluation | None] = []
    for images, scores, image_noise in zip(drawn, metrics, noise, strict=True):
        index = [
            {"file": f"{i:05d}.png", "prompt": shot.prompt, "seed": image_seed, "role": shot.role}
            for i, (shot, image_seed) in enumerate(zip(shots, image_noise, strict=True))
        ]
        ended = images is None or scores is None
        evaluations.append(None if ended else Evaluation(scores, made_by, images, index, dict(seconds)))  # type: ignore[arg-type]
    return evaluations


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
