"""Reference scores of the untuned base model (floor, the baseline) and of real images (ceiling, the upper bound)."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sdpet.files.atomic import write_atomic
from sdpet.files.digests import read_signed, signed
from sdpet.files.hashing import hash_text
from sdpet.files.plain_json import finite, to_json
from sdpet.files.record_file import is_scores
from sdpet.models.base import BaseModel
from sdpet.sampling.loop import SamplerConfig, StepCallback
from sdpet.scoring.evaluate import Evaluation, evaluate_run, protocol, save_noise_map, save_samples
from sdpet.scoring.plan import EvalPlan
from sdpet.scoring.scorers import Scorer, Scorers
from sdpet.scoring.task import EvalTask


def reference_scores(
    base: BaseModel,
    task: EvalTask,
    scorer: Scorer | Scorers,
    sampler: SamplerConfig,
    seed: int,
    plan: EvalPlan | None = None,
    cache: str | Path | None = None,
    progress: StepCallback | None = None,
    samples: Path | None = None,
) -> dict[str, dict[str, float | None]]:
    """Score the untuned base model and real images, as lower and upper reference for the scores of runs.

    Call it before a design is attached to `base`. Several processes may use one cache at the same time.

    Parameters
    ----------
    base : BaseModel
        The untuned model.
    task, scorer, sampler, seed, plan, progress
        As for `evaluate_run`.
    cache : path, optional
        Folder in which results are stored by a hash of everything that affects them; None stores nothing.
    samples : Path, optional
        Folder that gets the images of the floor (samples/, as in a run's folder) and noise_difference.npz, unless it
        exists.

    Returns
    -------
    dict of str to dict
        For each metric {"floor": float, "ceiling": float or None}. The floor is scored on the same prompts and noise as
        the runs, the ceiling on real images that the task has set aside; None where it has none.

    Raises
    ------
    FloatingPointError
        The base model's samples are not finite.
    """
    plan, scorers = plan or EvalPlan(), Scorers.of(scorer)
    made_by = protocol(base, task, scorers, sampler, plan)
    noise = seed if plan.eval_seed is None else plan.eval_seed
    folder = None if cache is None else Path(cache).expanduser()
    key = {"anchor": "floor", "base": base.weight_hash, "noise": noise, **made_by}
    drawn = None if folder is None else folder / hash_text(json.dumps(key, sort_keys=True))

    def draw() -> dict[str, float]:
        evaluation = evaluate_run(base, task, scorers, sampler, seed, plan, progress)
        for target in (drawn, samples if drawn is None else None):
            if target is not None:
                _create_folder(target, lambda partial: _save(evaluation, partial))
        return evaluation.metrics

    floor = _cached(folder, key, draw)
    if samples is not None and not samples.exists():
        if drawn is not None and not drawn.exists():
            floor = draw()  # the score was stored without images by an earlier version, or they were removed
        source = drawn
        if source is not None:
            _create_folder(samples, lambda partial: shutil.copytree(source, partial, copy_function=_link))
    ceiling = _cached(
        folder,
        {"anchor": "ceiling", "base": base.weight_hash, "real": task.ceiling_hash(plan), **made_by},
        lambda: task.ceiling(scorers, plan),
    )
    return {name: {"floor": value, "ceiling": ceiling.get(name)} for name, value in floor.items()}


def _cached(folder: Path | None, key: dict[str, Any], compute: Callable[[], dict[str, float]]) -> dict[str, float]:
    """compute(), or the result that an earlier call with an equal key stored in the cache folder.

    Two processes may both compute it. Each writes a complete file with equal content, so the order does not matter.
    """
    if folder is None:
        return compute()
    file = folder / f"{hash_text(json.dumps(key, sort_keys=True))}.json"
    kept = read_signed(file, key)
    if kept is not None and is_scores(kept.get("scores")):
        return kept["scores"]
    scores = finite(compute())
    folder.mkdir(parents=True, exist_ok=True)
    text = to_json(signed({"scores": scores, "key": key}), indent=1)
    write_atomic(file, lambda partial: partial.write_text(text, encoding="utf-8"))
    return scores


def _save(evaluation: Evaluation, folder: Path) -> None:
    folder.mkdir()
    save_samples(evaluation, folder / "samples")
    save_noise_map(evaluation, folder)


def _create_folder(folder: Path, fill: Callable[[Path], Any]) -> None:
    """Create the folder atomically: `fill` makes it under another name, then it is renamed. An existing one is kept."""
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        fill(partial)
        partial.rename(folder)
    except OSError:
        if not folder.exists():  # otherwise another process was first, with equal images
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _link(source: str, target: str) -> None:
    """A hard link where the file system supports it, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
