"""`python evaluate.py curve=true`: scores over guidance, of a stored run and its base model, or of a base model."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpet.commands.evaluate_runs import StoredJob, finished_jobs
from sdpet.commands.progress_bar import Bar
from sdpet.config import RunConfig, check_groups
from sdpet.runs.libraries import torch_threads
from sdpet.runs.setup import Resources, make_plan, make_sampler, make_scorers
from sdpet.runs.stored import tuned

if TYPE_CHECKING:
    from sdpet.sampling import SamplerConfig

LAB_PROMPTS = 500  # number of captioned renders that serve as prompts and references of the lab


def evaluate_curve(given: Any, overrides: Sequence[str]) -> None:
    """Sample and score at every scale of guidance; write a table and a plot.

    The sampler is PLMS with 50 steps, unless the overrides name one.
    """
    scales = [_scale(scale) for scale in given.guidance]
    if len(set(scales)) < 2:
        raise ValueError(f"a curve needs at least two scales, not guidance={list(given.guidance)}.")
    named = any(text.lstrip("+").partition("=")[0].partition(".")[0] == "sampler" for text in overrides)
    bar = Bar(given.quiet)
    try:
        if given.run is None:
            _of_base(given, scales, named, bar)
        else:
            jobs, left_out = finished_jobs(given, overrides)
            for sentence in left_out:
                print(f"left out: {sentence}", file=sys.stderr)
            for job in jobs:
                _of_run(job, scales, named, bar)
    finally:
        bar.close()


def _of_run(job: StoredJob, scales: Sequence[float], named: bool, bar: Bar) -> None:
    from sdpet.scoring import guidance_points

    resources, config, folder = Resources(), job.config, job.folder / "guidance"
    known = resources.scorers(config)  # first, because a missing scorer must be an error before any sampling
    base, task, plan, seed = resources.base(config), resources.task(config), make_plan(config), config.seed
    sampler, progress = _sampler(config, named), _progress(bar)
    with torch_threads(config.trainer.threads):
        rows = guidance_points(
            base, task, known, sampler, seed, plan, scales, "untuned base", base.weight_hash, folder, progress
        )
        with tuned(base, [job.folder], [config.form.kind]):
            identity = f"{base.weight_hash} {job.record.run_id}"
            rows += guidance_points(
                base, task, known, sampler, seed, plan, scales, job.name, identity, folder, progress
            )
    _finish(rows, folder, f"{job.name}, {sampler.name} {sampler.steps} steps", dict(task.ceiling(known, plan)))


def _of_base(given: Any, scales: Sequence[float], named: bool, bar: Bar) -> None:
    config = check_groups(given, "unet", "trainer", "eval", "sampler")
    on_lab = config.unet.path is None and given.reference is None and given.prompts is None
    if not on_lab and (given.reference is None or given.prompts is None):
        raise ValueError("the curve of a base model needs reference=FOLDER of images and prompts=FILE of captions.")

    from sdpet.scoring import PromptSet, guidance_points, read_prompts, read_set

    out = Path(given.out).expanduser()
    if not on_lab:
        prompts, references = read_prompts(given.prompts), read_set(given.reference, "reference", given.size)[0]
    known = make_scorers(config.eval.scorers, config.eval.strict, out, config.eval.plan.get("autocast"))
    base = Resources().base(config)
    if on_lab:
        from sdpet.lab import caption, render, sample_scenes

        scenes = sample_scenes(LAB_PROMPTS, seed=131)
        prompts, references = [caption(scenes, i) for i in range(LAB_PROMPTS)], base.through_vae(render(scenes))
    task: Any = PromptSet(prompts, references)
    sampler, folder = _sampler(config, named), out / f"guidance-{base.weight_hash[:12]}"
    plan = make_plan(config)
    rows = guidance_points(
        base, task, known, sampler, 0, plan, scales, base.name, base.weight_hash, folder, _progress(bar)
    )
    _finish(rows, folder, f"{base.name}, {plan.images} prompts, {sampler.name} {sampler.steps} steps", {})


def _finish(rows: list[dict[str, Any]], folder: Path, title: str, real: dict[str, float]) -> None:
    from sdpet.scoring import guidance_axes, plot_guidance, write_guidance_table

    if not rows:
        raise ValueError("no scale of guidance gave finite samples; the design has diverged.")
    write_guidance_table(rows, folder / "guidance.csv")
    plot_guidance(rows, folder, title, real)
    across, up = guidance_axes(rows)
    print(f"  {'model':<24}{'guidance':>10}{across:>10}{up:>10}")
    for row in rows:
        print(f"  {row['model']:<24}{row['guidance']:>10g}{row[across]:>10.3f}{row[up]:>10.3f}")
    print(f"  table     {folder / 'guidance.csv'}\n  plot      {folder / 'guidance.png'}")


def _sampler(config: RunConfig, named: bool) -> SamplerConfig:
    from sdpet.sampling import SamplerConfig

    return make_sampler(config) if named else SamplerConfig("plms", 50)


def _progress(bar: Bar) -> Any:
    return lambda phase: lambda done, total: bar(phase, done, total)


def _scale(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"guidance must be a list of numbers of at least 0, such as [1.5,3,8], not {value!r}.")
    return float(value)
