"""Examine a run: draw what the task's plan asks for, score it, and say how the scores were made."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sdpet.files.atomic import atomically
from sdpet.files.hashing import hash_text
from sdpet.models.base import BaseModel
from sdpet.sampling.loop import NOT_FINITE, Progress, SamplerConfig, sample_together
from sdpet.scoring import noise
from sdpet.scoring.measures import described
from sdpet.scoring.plan import EvalPlan, image_seeds
from sdpet.scoring.scorers import Scorer, Scorers

if TYPE_CHECKING:
    from sdpet.tasks import Task


@dataclass(frozen=True)
class Evaluation:
    """Scores of one run, how they were made, and the images uint8 (N, H, W, 3) they were made from.

    index: one row an image, keys file, prompt, seed, role; seconds: keys sample and score; missing: why a score or
    scorer that was asked for is not there; noise_map: float32 (h, w), see `noise_differences`, or None.
    """

    metrics: dict[str, float]
    protocol: dict[str, Any]
    images: np.ndarray
    index: list[dict[str, Any]]
    seconds: dict[str, float]
    missing: dict[str, str] = field(default_factory=dict)
    noise_map: np.ndarray | None = None


def evaluate_run(
    base: BaseModel,
    task: Task,
    scorer: Scorer | Scorers,
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
    scorer: Scorer | Scorers,
    sampler: SamplerConfig,
    seeds: Sequence[int],
    plan: EvalPlan | None = None,
    progress: Progress | None = None,
) -> list[Evaluation | None]:
    """`evaluate_run` for all members of a fleet at once; None where samples are not finite.

    seeds: the members', in order of their rows. Seconds are a member's share.
    """
    plan, scorers = plan or EvalPlan(), Scorers.of(scorer)
    shots = task.shots(plan)
    noise_of = [seed if plan.eval_seed is None else plan.eval_seed for seed in seeds]
    noise_seeds = [image_seeds(shots, seed) for seed in noise_of]
    start = time.perf_counter()
    drawn = sample_together(base, [shot.prompt for shot in shots], noise_seeds, sampler, progress, plan.chunk)
    sampled = time.perf_counter()
    no_map = noise.lacking(task, plan)
    maps = None if no_map else noise.noise_differences(base, task, noise_of, plan)
    made_by = protocol(base, task, scorers, sampler, plan)
    missing = dict(scorers.missing) | ({noise.METRIC: no_map} if no_map and task.name == "dreambooth" else {})
    try:
        metrics = [None if images is None else task.scores(images, shots, scorers, plan) for images in drawn]
    finally:
        scorers.forget()
    seconds = {"sample": (sampled - start) / len(seeds), "score": (time.perf_counter() - sampled) / len(seeds)}
    evaluations: list[Evaluation | None] = []
    for i, (images, scores) in enumerate(zip(drawn, metrics, strict=True)):
        own_map = None if maps is None or not np.isfinite(maps[i]).all() else maps[i]
        if images is None or scores is None:
            evaluations.append(None)
            continue
        if own_map is not None:
            scores[noise.METRIC] = float(own_map.mean(dtype=np.float64))
        index = [
            {"file": f"{n:05d}.png", "prompt": shot.prompt, "seed": image_seed, "role": shot.role}
            for n, (shot, image_seed) in enumerate(zip(shots, noise_seeds[i], strict=True))
        ]
        evaluations.append(Evaluation(scores, made_by, images, index, dict(seconds), dict(missing), own_map))
    return evaluations


def protocol(
    base: BaseModel, task: Task, scorer: Scorer | Scorers, sampler: SamplerConfig, plan: EvalPlan | None = None
) -> dict[str, Any]:
    """How scores are made; two scores compare only if this agrees, as to what is of all and to the entry in "scores".

    Needs no sampling.
    """
    plan, scorers = plan or EvalPlan(), Scorers.of(scorer)
    shots = task.shots(plan)
    scores = described(task.measures(scorers, plan), shots, scorers)
    if noise.lacking(task, plan) is None:
        scores[noise.METRIC] = noise.described(task, plan)
    return {
        "sampler": asdict(sampler),
        "images": dict(Counter(shot.role for shot in shots)),
        "prompts_hash": hash_text(json.dumps([[shot.prompt, shot.role, shot.text] for shot in shots])),
        # A number would set seeds apart that differ in nothing but their noise; that is in the run's seed.
        "eval_seed": "run seed" if plan.eval_seed is None else plan.eval_seed,
        "image_size": base.image_size,
        "image_bits": 8,
        "score_dtype": "float64",
        **task.reference_protocol(),
        "scores": scores,
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


def save_noise_map(evaluation: Evaluation, folder: Path) -> None:
    """Write noise_difference.npz (key "map") into the folder, if there is a map."""
    if evaluation.noise_map is not None:
        with_map = evaluation.noise_map

        def write(file: Path) -> None:
            with file.open("wb") as stream:  # by name, numpy would add an ending
                np.savez(stream, map=with_map)

        atomically(folder / "noise_difference.npz", write)
