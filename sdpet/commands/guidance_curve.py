"""`python evaluate.py curve=true`: scores over guidance, of a stored run beside its base, or of a base model alone."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpet.commands.evaluate_runs import Job, finished_jobs
from sdpet.commands.progress_bar import Bar
from sdpet.config.checks import checked_eval
from sdpet.config.read import scorers
from sdpet.config.schema import check_group
from sdpet.runs.stored import tuned

if TYPE_CHECKING:
    from sdpet.sampling.loop import SamplerConfig

LAB_PROMPTS = 500  # captioned renders that stand for a prompt set where the lab is given none


def evaluate_curve(given: Any, overrides: Sequence[str]) -> None:
    """Sample and score at every scale of guidance, with 50 steps of PLMS unless sampler is given; table and plot."""
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


def _of_run(job: Job, scales: Sequence[float], named: bool, bar: Bar) -> None:
    from sdpet.runs.setup import Stage, eval_plan
    from sdpet.scoring.curve import guidance_points

    stage, config, folder = Stage(), job.config, job.folder / "guidance"
    known = stage.scorers(config)  # first, as what is missing should be said before anything is sampled
    base, task, plan, seed = stage.base(config), stage.task(config), eval_plan(config), config["seed"]
    sampler, watch = _sampler(config, named), _watch(bar)
    rows = guidance_points(
        base, task, known, sampler, seed, plan, scales, "untuned base", base.weight_hash, folder, watch
    )
    with tuned(base, [job.folder], config):
        identity = f"{base.weight_hash} {job.record.run_id}"
        rows += guidance_points(base, task, known, sampler, seed, plan, scales, job.name, identity, folder, watch)
    _finish(rows, folder, f"{job.name}, {sampler.name} {sampler.steps} steps", dict(task.ceiling(known, plan)))


def _of_base(given: Any, scales: Sequence[float], named: bool, bar: Bar) -> None:
    from omegaconf import OmegaConf

    unet: Any = check_group("unet", OmegaConf.to_container(given.unet, resolve=True))  # type: ignore[arg-type]
    trainer: Any = check_group("trainer", OmegaConf.to_container(given.trainer, resolve=True))  # type: ignore[arg-type]
    config = {"unet": unet, "trainer": trainer, "eval": checked_eval(given.eval)}
    config["sampler"] = check_group("sampler", OmegaConf.to_container(given.sampler, resolve=True))  # type: ignore[arg-type]
    on_lab = unet["path"] is None and given.reference is None and given.prompts is None
    if not on_lab and (given.reference is None or given.prompts is None):
        raise ValueError("the curve of a base model needs reference=FOLDER of images and prompts=FILE of captions.")

    from sdpet.runs.setup import Stage, eval_plan, load_scorers
    from sdpet.scoring.curve import guidance_points
    from sdpet.scoring.prompt_set import PromptSet, read_prompts, read_set

    out = Path(given.out).expanduser()
    if not on_lab:
        prompts, references = read_prompts(given.prompts), read_set(given.reference, "reference", given.size)[0]
    known = load_scorers(scorers(config["eval"]), config["eval"].get("strict", True), out)
    base = Stage().base(config)
    if on_lab:
        from sdpet.lab.world import caption, render, sample_scenes

        scenes = sample_scenes(LAB_PROMPTS, seed=131)
        prompts, references = [caption(scenes, i) for i in range(LAB_PROMPTS)], base.through_vae(render(scenes))
    task: Any = PromptSet(prompts, references)
    sampler, folder = _sampler(config, named), out / f"guidance-{base.weight_hash[:12]}"
    plan = eval_plan(config)
    rows = guidance_points(
        base, task, known, sampler, 0, plan, scales, base.name, base.weight_hash, folder, _watch(bar)
    )
    _finish(rows, folder, f"{base.name}, {plan.images} prompts, {sampler.name} {sampler.steps} steps", {})


def _finish(rows: list[dict[str, Any]], folder: Path, title: str, real: dict[str, float]) -> None:
    from sdpet.scoring.curve import axes, plot, write_table

    if not rows:
        raise ValueError("no scale of guidance gave finite samples; the design has diverged.")
    write_table(rows, folder / "guidance.csv")
    plot(rows, folder, title, real)
    across, up = axes(rows)
    print(f"  {'model':<24}{'guidance':>10}{across:>10}{up:>10}")
    for row in rows:
        print(f"  {row['model']:<24}{row['guidance']:>10g}{row[across]:>10.3f}{row[up]:>10.3f}")
    print(f"  table     {folder / 'guidance.csv'}\n  plot      {folder / 'guidance.png'}")


def _sampler(config: dict[str, Any], named: bool) -> SamplerConfig:
    from sdpet.runs.setup import make_sampler
    from sdpet.sampling.loop import SamplerConfig

    return make_sampler(config) if named else SamplerConfig("plms", 50)


def _watch(bar: Bar) -> Any:
    return lambda what: lambda done, total: bar(what, done, total)


def _scale(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"guidance must be a list of numbers of at least 0, such as [1.5,3,8], not {value!r}.")
    return float(value)
