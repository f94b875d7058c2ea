"""`python evaluate.py run=...`: further scores of stored runs, added to their records."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpet.commands.progress_bar import Bar
from sdpet.config.checks import validate
from sdpet.config.ids import name_of
from sdpet.files.lock import claim
from sdpet.runs.record import FILE, Record
from sdpet.runs.stored import find_runs, stored_config, tuned
from sdpet.study.report import Progress, scores_table

if TYPE_CHECKING:
    from sdpet.runs.setup import Stage

CHANGEABLE = ("sampler", "eval")
OWN = ("run", "quiet", "curve", "guidance", "out")  # keys of the command, not of a run's config
TOGETHER = 8  # runs sampled in one batch


@dataclass
class Job:
    """A stored run to be scored again."""

    folder: Path
    config: dict[str, Any] = field(repr=False)
    record: Record = field(repr=False)

    @property
    def name(self) -> str:
        return name_of(self.config)


def changed(config: dict[str, Any], given: Any, overrides: Sequence[str]) -> dict[str, Any]:
    """The stored config with those parts of sampler and eval that the overrides name taken from `given`."""
    from omegaconf import OmegaConf

    merged = OmegaConf.create(config)
    for override in overrides:
        key = override.lstrip("+").partition("=")[0]
        group = key.partition(".")[0]
        if key in OWN:
            continue
        if group not in CHANGEABLE:
            raise ValueError(f"{key} cannot be changed when scoring again; only {' and '.join(CHANGEABLE)} can.")
        value = OmegaConf.select(given, key)
        if key == "sampler":  # a sampler by name brings its steps; guidance stays that of the run
            value = OmegaConf.merge(value, {"guidance": config["sampler"]["guidance"]})
        plain = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        OmegaConf.update(merged, key, plain, merge=False, force_add=True)
    plain_config = OmegaConf.to_container(merged, resolve=True)
    assert isinstance(plain_config, dict)
    return validate({str(key): value for key, value in plain_config.items()})


def finished_jobs(given: Any, overrides: Sequence[str]) -> tuple[list[Job], list[str]]:
    """The runs that can be scored again, and a sentence for each other one (an error if it is the only one)."""
    if given.run is None:
        raise ValueError(
            "run must be given: python evaluate.py run=outputs/<study>/<run_id>; or images=FOLDER reference=FOLDER."
        )
    folders = find_runs(given.run)
    jobs, left_out = [], []
    for folder in folders:
        config = changed(stored_config(folder), given, overrides)
        record = Record.read(folder)
        if record.status == "finished":
            jobs.append(Job(folder, config, record))
        else:
            left_out.append(f"{folder} {record.status} ({record.reason}); only finished runs can be scored again.")
    if not jobs:
        raise ValueError(left_out[0])
    return jobs, left_out


def evaluate_again(given: Any, overrides: Sequence[str]) -> None:
    """Score runs again and add the scores to their records, unless scores of that very protocol are there."""
    from sdpet.runs.setup import Stage

    jobs, left_out = finished_jobs(given, overrides)
    alone = len(jobs) == 1
    for sentence in left_out:
        print(f"left out: {sentence}", file=sys.stderr)
    stage = Stage()
    for config in {json.dumps([job.config["eval"], job.config["task"]["name"]]): job.config for job in jobs}.values():
        stage.scorers(config)  # what cannot score is said before anything is sampled
    asked = [text for text in overrides if text.lstrip("+").partition("=")[0] not in OWN]
    progress = Progress(len(jobs), quiet=given.quiet or alone)
    try:
        for group in _fleets(jobs):
            with ExitStack() as claims:
                mine = [job for job in group if claims.enter_context(claim(job.folder))]
                if alone and not mine:
                    raise ValueError(f"another process is working on {group[0].folder}; try again when it is done.")
                for job, entry, made in _score(mine, stage, asked, given.quiet or not alone):
                    shown = Record(job.record.run_id, job.record.study, "finished", job.record.factors, job.record.task)
                    shown.metrics, shown.anchors = entry["metrics"], entry["anchors"]
                    progress.done(job.name, shown)
                    if alone:
                        print(job.name + ("" if made else " (scored so before; not done again)"))
                        print(scores_table(shown))
                        for what, reason in (entry.get("missing") or {}).items():
                            print(f"  missing   {what}: {reason}")
                        print(f"  samples   {job.folder / entry['samples']}\n  record    {job.folder / FILE}")
                for job in group:
                    if job not in mine:
                        print(f"left out: another process is working on {job.folder}", file=sys.stderr)
    finally:
        progress.close()


def _fleets(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """Runs that can be sampled in one batch: adapters on one base, with one task, sampler and eval."""
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        config = job.config
        shared = {key: config[key] for key in ("unet", "task", "data", "sampler", "eval", "output_root")}
        place = [config["trainer"]["device"], None if config["adapter"]["method"] == "adapter" else str(job.folder)]
        groups.setdefault(json.dumps([shared, place], sort_keys=True), []).append(job)
    for group in groups.values():
        for start in range(0, len(group), TOGETHER):
            yield group[start : start + TOGETHER]


def _score(
    jobs: Sequence[Job], stage: Stage, asked: Sequence[str], quiet: bool
) -> Iterator[tuple[Job, dict[str, Any], bool]]:
    """The entry of each job's scores and whether it is new; new ones are in the record by then."""
    from sdpet.runs.setup import anchors_of, floor_images, protocol_of

    todo: list[Job] = []
    bases: list[str] = []
    for job in jobs:
        job.record = record = Record.read(job.folder)  # as it is now that the run is ours
        protocol = protocol_of(job.config, stage)
        first = {"metrics": record.metrics, "anchors": record.anchors, "protocol": record.protocol}
        first |= {"samples": "samples", "missing": record.missing}
        there = next((entry for entry in [first, *record.evaluations] if entry["protocol"] == protocol), None)
        if there is not None:
            yield job, there, False
        else:
            todo.append(job)
            bases.append(floor_images(job.config["seed"], protocol))
    if not todo:
        return
    bar = Bar(quiet)
    try:
        frames = [anchors_of(job.config, stage, place) for job, place in zip(todo, bases, strict=True)]
        found = _evaluated(todo, stage, bar)
    finally:
        bar.close()
    from sdpet.scoring import save_noise_map, save_samples

    for job, frame, place, scores in zip(todo, frames, bases, found, strict=True):
        if scores is None:
            print(f"left out: {job.folder}: samples are not finite under these options", file=sys.stderr)
            continue
        name = f"evaluations/{len(job.record.evaluations) + 1:03d}"
        save_samples(scores, job.folder / name / "samples")
        save_noise_map(scores, job.folder / name)
        entry = {
            "asked": list(asked),
            "metrics": scores.metrics,
            "anchors": frame,
            "protocol": scores.protocol,
            "missing": scores.missing,
            "seconds": scores.seconds,
            "samples": f"{name}/samples",
            "base": place,
            "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        job.record.evaluations.append(entry)
        job.record.write(job.folder)
        yield job, entry, True


def _evaluated(jobs: Sequence[Job], stage: Stage, bar: Bar) -> list[Any]:
    """An Evaluation or None of each job, all of them sampled in one batch."""
    from sdpet.runs.setup import eval_plan, make_sampler
    from sdpet.scoring import evaluate_together

    config = jobs[0].config
    base, task, scorers = stage.base(config), stage.task(config), stage.scorers(config)
    report = None if bar is None else lambda done, total: bar("sample", done, total)
    with tuned(base, [job.folder for job in jobs], config) as order:
        seeds = [jobs[i].config["seed"] for i in order]
        found = evaluate_together(base, task, scorers, make_sampler(config), seeds, eval_plan(config), report)
    return [found[order.index(i)] for i in range(len(jobs))]
