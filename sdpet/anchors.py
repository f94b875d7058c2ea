"""What scores can be held against: the untuned base (floor) and real images (ceiling)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpet.base import BaseModel
from sdpet.files import atomically
from sdpet.sample import Progress, SamplerConfig
from sdpet.scoring.evaluate import evaluate_run, protocol
from sdpet.scoring.metrics import Scorer
from sdpet.scoring.plan import EvalPlan, hash_text

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
    plan = plan or EvalPlan()
    made_by = protocol(base, task, scorer, sampler, plan)
    noise = seed if plan.eval_seed is None else plan.eval_seed
    floor = _cached(
        cache,
        {"anchor": "floor", "base": base.weight_hash, "noise": noise, **made_by},
        lambda: evaluate_run(base, task, scorer, sampler, seed, plan, progress).metrics,
    )
    ceiling = _cached(
        cache,
        {"anchor": "ceiling", "base": base.weight_hash, "real": task.ceiling_hash(plan), **made_by},
        lambda: task.ceiling(scorer, plan),
    )
    return {name: {"floor": value, "ceiling": ceiling.get(name)} for name, value in floor.items()}


def _cached(cache: str | Path | None, key: dict[str, Any], compute: Callable[[], dict[str, float]]) -> dict[str, float]:
    """compute(), or what an earlier call with an equal key has left in the cache folder.

    Two processes may both compute; each writes a whole file of equal content, so it does not matter who is last.
    """
    if cache is None:
        return compute()
    folder = Path(cache).expanduser()
    file = folder / f"{hash_text(json.dumps(key, sort_keys=True))}.json"
    try:
        return json.loads(file.read_text(encoding="utf-8"))["scores"]
    except (OSError, ValueError, KeyError):  # not there, or damaged: made anew
        scores = compute()
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"scores": scores, "key": key}, indent=1)
    atomically(file, lambda partial: partial.write_text(text, encoding="utf-8"))
    return scores
