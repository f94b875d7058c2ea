"""Evaluate a run: draw the images that the plan asks for, score them, and describe how the scores were made."""

from __future__ import annotations

import io
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sdpet.files.atomic import write_atomic
from sdpet.files.hashing import hash_bytes, hash_text
from sdpet.files.plain_json import finite
from sdpet.models.base import BaseModel
from sdpet.models.text import refuse_equal_prompts
from sdpet.sampling.loop import NOT_FINITE, SamplerConfig, StepCallback, sample_together
from sdpet.scoring import noise
from sdpet.scoring.measures import image_scores, protocol_entries
from sdpet.scoring.plan import EvalImage, EvalPlan, image_seeds
from sdpet.scoring.scorers import Scorer, Scorers
from sdpet.scoring.task import EvalTask, SubjectTask

IMAGE_SCORES = "scores.jsonl"  # in the folder of the images: one line an image, with its prompt, seed, role and scores


@dataclass(frozen=True)
class Evaluation:
    """Scores of one run, how they were made, and the images they were made from.

    Parameters
    ----------
    metrics : dict of str to float
        The scores.
    protocol : dict
        How they were made, see `protocol`.
    images : ndarray of uint8, (N, H, W, 3)
        The drawn images.
    index : list of N dict
        For each image its file, prompt, seed and role.
    seconds : dict of str to float
        Time for "sample" and "score".
    missing : dict of str to str
        For each score or scorer that was asked for and is not available, the reason.
    noise_map : ndarray of float32, (h, w), or None
        See `noise_differences`.
    image_scores : list of N dict
        For each image its scores by metric, where a metric is a mean over images.
    """

    metrics: dict[str, float]
    protocol: dict[str, Any]
    images: np.ndarray
    index: list[dict[str, Any]]
    seconds: dict[str, float]
    missing: dict[str, str] = field(default_factory=dict)
    noise_map: np.ndarray | None = None
    image_scores: list[dict[str, float]] = field(default_factory=list)


def evaluate_run(
    base: BaseModel,
    task: EvalTask,
    scorer: Scorer | Scorers,
    sampler: SamplerConfig,
    seed: int,
    plan: EvalPlan | None = None,
    progress: StepCallback | None = None,
) -> Evaluation:
    """Draw images with `base`, as it is at this moment, and score them.

    Parameters
    ----------
    base : BaseModel
        The model, with whatever is attached to it.
    task : EvalTask
        What is drawn and how it is scored.
    scorer : Scorer or Scorers
        One image-text model, or several networks by name.
    sampler : SamplerConfig
        How the images are drawn.
    seed : int
        The run's seed; the evaluation noise derives from it unless plan.eval_seed is given.
    plan : EvalPlan, optional
        Numbers of images.
    progress : callable, optional
        Called as progress(UNet steps done, UNet steps in all).

    Returns
    -------
    Evaluation

    Raises
    ------
    FloatingPointError
        The samples are not finite; the run should be recorded as diverged.
    """
    evaluation = evaluate_together(base, task, scorer, sampler, [seed], plan, progress)[0]
    if evaluation is None:
        raise FloatingPointError(NOT_FINITE)
    return evaluation


def evaluate_together(
    base: BaseModel,
    task: EvalTask,
    scorer: Scorer | Scorers,
    sampler: SamplerConfig,
    seeds: Sequence[int],
    plan: EvalPlan | None = None,
    progress: StepCallback | None = None,
) -> list[Evaluation | None]:
    """Do `evaluate_run` for all members of a fleet at once.

    Parameters
    ----------
    base, task, scorer, sampler, plan, progress
        As for `evaluate_run`.
    seeds : sequence of int, K
        The members' seeds, in the order of their rows.

    Returns
    -------
    list of K Evaluation or None
        None for a member whose samples are not finite. Each member's seconds are the total divided by K.
    """
    plan, scorers = plan or EvalPlan(), Scorers.of(scorer)
    eval_images = task.eval_images(plan)
    if isinstance(task, SubjectTask):  # its prompts are templates; captions of a set may begin alike
        refuse_equal_prompts(base.tokenizer, [item.prompt for item in eval_images])
    noise_of = [seed if plan.eval_seed is None else plan.eval_seed for seed in seeds]
    noise_seeds = [image_seeds(eval_images, seed) for seed in noise_of]
    start = time.perf_counter()
    drawn = sample_together(base, [item.prompt for item in eval_images], noise_seeds, sampler, progress, plan.chunk)
    sampled = time.perf_counter()
    subject_task = task if isinstance(task, SubjectTask) else None
    no_map = noise.why_unavailable(task, plan)
    maps = None if no_map or subject_task is None else noise.noise_differences(base, subject_task, noise_of, plan)
    made_by = protocol(base, task, scorers, sampler, plan)
    missing = dict(scorers.missing) | ({noise.METRIC: no_map} if no_map and subject_task else {})
    try:
        metrics = [None if images is None else task.scores(images, eval_images, scorers, plan) for images in drawn]
        each = [[] if images is None else _of_each(task, images, eval_images, scorers, plan) for images in drawn]
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
            {"file": f"{n:05d}.png", "prompt": item.prompt, "seed": image_seed, "role": item.role}
            for n, (item, image_seed) in enumerate(zip(eval_images, noise_seeds[i], strict=True))
        ]
        evaluations.append(Evaluation(scores, made_by, images, index, dict(seconds), dict(missing), own_map, each[i]))
    return evaluations


def _of_each(
    task: EvalTask, images: np.ndarray, eval_images: list[EvalImage], scorers: Scorers, plan: EvalPlan
) -> list[dict[str, float]]:
    """Scores of single images; empty for a task that has no references to compare them with."""
    references = getattr(task, "references", None)
    if references is None:
        return []
    return image_scores(task.measures(scorers, plan), images, eval_images, references, scorers)


def protocol(
    base: BaseModel, task: EvalTask, scorer: Scorer | Scorers, sampler: SamplerConfig, plan: EvalPlan | None = None
) -> dict[str, Any]:
    """Describe how scores are made, without sampling.

    Two scores are comparable only if the shared part of the protocol and their own entry in "scores" are equal.

    Parameters
    ----------
    base, task, scorer, sampler, plan
        As for `evaluate_run`.

    Returns
    -------
    dict
        Values that JSON can hold; "scores" has one entry for each metric.
    """
    plan, scorers = plan or EvalPlan(), Scorers.of(scorer)
    eval_images = task.eval_images(plan)
    scores = protocol_entries(task.measures(scorers, plan), eval_images, scorers)
    if isinstance(task, SubjectTask) and noise.why_unavailable(task, plan) is None:
        scores[noise.METRIC] = noise.protocol_entry(base, task, plan)
    return {
        "sampler": sampler.describe(),
        "images": dict(Counter(item.role for item in eval_images)),
        "prompts_hash": hash_text(json.dumps([[item.prompt, item.role, item.text] for item in eval_images])),
        # Not the number: scores of different run seeds are comparable, and the seed is a factor of its own.
        "eval_seed": "run seed" if plan.eval_seed is None else plan.eval_seed,
        "image_size": base.image_size,
        "image_bits": 8,
        "score_dtype": "float64",
        **task.reference_protocol(),
        "scores": scores,
    }


def save_samples(evaluation: Evaluation, folder: str | Path) -> None:
    """Write the images as PNG files, scores.jsonl with the scores of each, and last index.jsonl with their digests.

    Parameters
    ----------
    evaluation : Evaluation
        Its images and index are written.
    folder : path
        Created where missing.
    """
    from PIL import Image

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = ""
    for row, image in zip(evaluation.index, evaluation.images, strict=True):
        content = io.BytesIO()
        Image.fromarray(image).save(content, "png")
        (folder / row["file"]).write_bytes(content.getbuffer())
        lines += json.dumps({**row, "digest": hash_bytes(content.getbuffer())}) + "\n"
    if evaluation.image_scores:
        scored = zip(evaluation.index, evaluation.image_scores, strict=True)
        table = "".join(json.dumps({**row, "scores": finite(scores)}) + "\n" for row, scores in scored)
        write_atomic(folder / IMAGE_SCORES, lambda file: file.write_text(table, encoding="utf-8"))
    write_atomic(folder / "index.jsonl", lambda file: file.write_text(lines, encoding="utf-8"))


def save_noise_map(evaluation: Evaluation, folder: Path) -> None:
    """Write noise_difference.npz (key "map"), if the evaluation has such a map.

    Parameters
    ----------
    evaluation : Evaluation
        Its noise_map, float32 (h, w), is written.
    folder : Path
        Existing folder.
    """
    if evaluation.noise_map is not None:
        with_map = evaluation.noise_map

        def write(file: Path) -> None:
            with file.open("wb") as stream:  # given a name, numpy would append .npz
                np.savez(stream, map=with_map)

        write_atomic(folder / "noise_difference.npz", write)
