"""What scores can be held against: the untuned base (floor) and real images (ceiling)."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpet.files.atomic import atomically
from sdpet.files.hashing import hash_text
from sdpet.models.base import BaseModel
from sdpet.sampling.loop import Progress, SamplerConfig
from sdpet.scoring.evaluate import Evaluation, evaluate_run, protocol, save_noise_map, save_samples
from sdpet.scoring.plan import EvalPlan
from sdpet.scoring.scorers import Scorer, Scorers

if TYPE_CHECKING:
    from sdpet.tasks import Task


def anchors(
    base: BaseModel,
    task: Task,
    scorer: Scorer | Scorers,
    sampler: SamplerConfig,
    seed: int,
    plan: EvalPlan | None = None,
    cache: str | Path | None = None,
    progress: Progress | None = None,
    samples: Path | None = None,
) -> dict[str, dict[str, float | None]]:
    """For each metric {"floor": ..., "ceiling": ... or None}. Call it before a design is built on `base`.

    floor: the same evaluation, prompts and noise, of the untuned base; ceiling: real images the task has set aside.
    cache: a folder in which results are kept by hash of everything that matters; safe for several processes.
    samples: a folder that gets the floor's images (samples/, as of a run) and noise_difference.npz, unless it is there.
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
                _appear(target, lambda partial: _save(evaluation, partial))
        return evaluation.metrics

    floor = _cached(folder, key, draw)
    if samples is not None and not samples.exists():
        if drawn is not None and not drawn.exists():
            floor = draw()  # kept by a version without images, or removed
        source = drawn
        if source is not None:
            _appear(samples, lambda partial: shutil.copytree(source, partial, copy_function=_link))
    ceiling = _cached(
        folder,
        {"anchor": "ceiling", "base": base.weight_hash, "real": task.ceiling_hash(plan), **made_by},
        lambda: task.ceiling(scorers, plan),
    )
    return {name: {"floor": value, "ceiling": ceiling.get(name)} for name, value in floor.items()}


def _cached(folder: Path | None, key: dict[str, Any], compute: Callable[[], dict[str, float]]) -> dict[str, float]:
    """compute(), or what an earlier call with an equal key has left in the cache folder.

    Two processes may both compute; each writes a whole file of equal content, so it does not matter who is last.
    """
    if folder is None:
        return compute()
    file = folder / f"{hash_text(json.dumps(key, sort_keys=True))}.json"
    try:
        return json.loads(file.read_text(encoding="utf-8"))["scores"]
    except (OSError, ValueError, KeyError):  # not there, or damaged: made anew
        scores = compute()
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"scores": scores, "key": key}, indent=1)
    atomically(file, lambda partial: partial.write_text(text, encoding="utf-8"))
    return scores


def _save(evaluation: Evaluation, folder: Path) -> None:
    folder.mkdir()
    save_samples(evaluation, folder / "samples")
    save_noise_map(evaluation, folder)


def _appear(folder: Path, fill: Callable[[Path], Any]) -> None:
    """Let `fill` make a folder beside `folder` and rename it: all of it is there or nothing; the first one stays."""
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        fill(partial)
        partial.rename(folder)
    except OSError:
        if not folder.exists():  # else another process was first, with equal images
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _link(source: str, target: str) -> None:
    """The same file under another name where the file system can, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
