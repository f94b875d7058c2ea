"""`python evaluate.py run=...`: score stored runs again, and add the scores to their records."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpet.commands.progress_bar import Bar
from sdpet.commands.scored_again import Scored, run_text, study_text
from sdpet.commands.study_progress import StudyProgressBar
from sdpet.config import RunConfig, name_of, sampling_key, scoring_key, validate
from sdpet.files.lock import run_lock
from sdpet.files.trust import require_trusted_targets, targets
from sdpet.runs.copies import same_inputs
from sdpet.runs.execute import sampling_progress
from sdpet.runs.libraries import torch_threads
from sdpet.runs.record import FILE, Record
from sdpet.runs.reference_scores import floor_folder, protocol_of, reference_scores
from sdpet.runs.setup import Resources, make_plan, make_sampler
from sdpet.runs.stored import CONFIG, find_runs, tuned, untrusted_config

if TYPE_CHECKING:
    from sdpet.scoring import Evaluation

CHANGEABLE = ("sampler", "eval")
MOVED = (
    "adapter.file",
    "data.subject",
    "data.subject_dir",
    "data.class_dir",
    "data.heldout_dir",
    "data.mask_dir",
    "data.folder",
    "unet.path",
    "unet.vae",
)
COMMAND_KEYS = ("run", "quiet", "curve", "guidance", "out", "trust")  # keys of the command, not of a run's config
MAX_RUNS = 8  # largest number of runs that are sampled in one batch


@dataclass
class StoredJob:
    """A stored run to score again."""

    folder: Path
    config: RunConfig = field(repr=False)
    record: Record = field(repr=False)

    @property
    def name(self) -> str:
        return name_of(self.config)


def changed(folder: Path, given: Any, overrides: Sequence[str]) -> RunConfig:
    """Read a stored config and change its sampler and eval, and the places of inputs that have moved.

    Parameters
    ----------
    folder : Path
        The run's folder.
    given : DictConfig
        The config of the command.
    overrides : sequence of str
        The overrides on the command line; the keys that they name are taken from `given`.

    Returns
    -------
    RunConfig
        The changed config, checked.

    Raises
    ------
    ValueError
        An override names another group, a value is invalid, an input is not what the run was made with, or the stored
        config names code that is not sdpet's own and that the user has not said to trust.
    """
    from omegaconf import OmegaConf

    merged = OmegaConf.create(dict(untrusted_config(folder).values))
    moved: list[str] = []
    typed: list[str] = []  # names of code on the command line, which are the user's own word
    for override in overrides:
        key = override.lstrip("+").partition("=")[0]
        group = key.partition(".")[0]
        if key in COMMAND_KEYS:
            continue
        if key not in MOVED and group not in CHANGEABLE:
            raise ValueError(f"{key} cannot be changed when scoring again; only {' and '.join(CHANGEABLE)} can.")
        value = OmegaConf.select(given, key)
        if key in MOVED:
            moved.append(key)
            if key == "data.subject" and merged.data.get("subject") == merged.data.get("subject_dir"):
                OmegaConf.update(merged, "data.subject_dir", value)
        if key == "sampler":  # sampler=NAME also sets the steps, but guidance stays that of the run
            value = OmegaConf.merge(value, {"guidance": merged.sampler.guidance})
        plain = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        typed += targets({key.rpartition(".")[2]: plain})
        OmegaConf.update(merged, key, plain, merge=False, force_add=True)
    plain_config = OmegaConf.to_container(merged, resolve=True)
    assert isinstance(plain_config, dict)
    require_trusted_targets(plain_config, folder / CONFIG, _trusts(given), typed)
    try:
        config = validate({str(key): value for key, value in plain_config.items()})
    except ValueError as error:
        gone = next((key for key in MOVED if str(error).startswith(f"{key}:")), None)
        if gone is None or gone in moved:
            raise
        raise ValueError(f"{str(error).partition(';')[0]}; if it has moved, say where to: {gone}=FOLDER.") from None
    if moved and not same_inputs(folder, config):
        raise ValueError(
            f"{' '.join(moved)}: the content differs from what {folder} was made with; give the same files."
        )
    return config


def _trusts(given: Any) -> bool:
    trust = given.get("trust", False)
    if not isinstance(trust, bool):
        raise ValueError(f"trust must be true or false, not {trust!r}.")
    return trust


def finished_jobs(given: Any, overrides: Sequence[str]) -> tuple[list[StoredJob], list[str]]:
    """Find the runs to score again.

    Returns
    -------
    jobs : list of StoredJob
        The finished runs.
    left_out : list of str
        One sentence for each other run.

    Raises
    ------
    ValueError
        No run was found, or none has finished.
    """
    if given.run is None:
        raise ValueError(
            "run must be given: python evaluate.py run=outputs/<study>/<run_id>; or images=FOLDER reference=FOLDER."
        )
    folders = find_runs(given.run)
    jobs, left_out = [], []
    for folder in folders:
        config = changed(folder, given, overrides)
        record = Record.read(folder)
        changed_since = record.changed(folder)
        damaged = [text for text in changed_since if not text.endswith(("index.jsonl was changed", "is missing"))]
        if damaged and record.status == "finished":
            left_out.append(
                f"{damaged[0]} since the run ended; put back the file as it was, or delete the key digests from "
                f"{folder / FILE} to take what is there."
            )
        elif record.status == "finished":
            for text in changed_since:
                print(f"note: {text} since the run ended.", file=sys.stderr)
            jobs.append(StoredJob(folder, config, record))
        else:
            left_out.append(f"{folder} {record.status} ({record.reason}); only finished runs can be scored again.")
    if not jobs:
        raise ValueError(left_out[0])
    return jobs, left_out


def evaluate_again(given: Any, overrides: Sequence[str]) -> None:
    """Score runs again and add the scores to their records, unless a record has scores with the same protocol."""
    jobs, left_out = finished_jobs(given, overrides)
    alone = len(jobs) == 1
    for sentence in left_out:
        print(f"left out: {sentence}", file=sys.stderr)
    resources = Resources()
    for config in {scoring_key(job.config): job.config for job in jobs}.values():
        resources.scorers(config)  # a missing scorer is an error before any sampling
    asked = [text for text in overrides if text.lstrip("+").partition("=")[0] not in COMMAND_KEYS]
    progress = StudyProgressBar(len(jobs), quiet=given.quiet or alone)
    scored: list[Scored] = []
    try:
        for group in _fleets(jobs):
            with ExitStack() as locks:
                locked = [job for job in group if locks.enter_context(run_lock(job.folder))]
                if alone and not locked:
                    raise ValueError(f"another process is working on {group[0].folder}; try again when it is done.")
                for job, entry, is_new in _score(locked, resources, asked, given.quiet or not alone):
                    scored.append(Scored(job.folder, job.record, entry, is_new))
                    progress.done(job.name, scored[-1].shown())
                    if alone:
                        print(run_text(scored[-1], job.name), flush=True)
                for job in group:
                    if job not in locked:
                        print(f"left out: another process is working on {job.folder}", file=sys.stderr)
    finally:
        progress.close()
    if scored and not alone:
        print(study_text(scored), flush=True)


def _fleets(jobs: Sequence[StoredJob]) -> Iterator[list[StoredJob]]:
    """Group runs that can be sampled in one batch: adapters with equal `sampling_key`."""
    groups: dict[tuple[str, str | None], list[StoredJob]] = {}
    for job in jobs:
        alone = None if job.config.adapter.shares_a_model else str(job.folder)
        groups.setdefault((sampling_key(job.config), alone), []).append(job)
    for group in groups.values():
        for start in range(0, len(group), MAX_RUNS):
            yield group[start : start + MAX_RUNS]


def _score(
    jobs: Sequence[StoredJob], resources: Resources, asked: Sequence[str], quiet: bool
) -> Iterator[tuple[StoredJob, dict[str, Any], bool]]:
    """Yield each job with the entry of its scores, and whether the entry is new; new ones are in the record already."""
    todo: list[StoredJob] = []
    images: list[str] = []
    for job in jobs:
        job.record = record = Record.read(job.folder)  # read again, since the run is locked only now
        protocol = protocol_of(job.config, resources)
        first = {"metrics": record.metrics, "anchors": record.anchors, "protocol": record.protocol}
        first |= {"samples": "samples", "missing": record.missing}
        known = next((entry for entry in [first, *record.evaluations] if entry["protocol"] == protocol), None)
        if known is not None:
            yield job, known, False
        else:
            todo.append(job)
            images.append(floor_folder(job.config.seed, protocol))
    if not todo:
        return
    bar = Bar(quiet)
    try:
        references = [reference_scores(job.config, resources, place) for job, place in zip(todo, images, strict=True)]
        found = _evaluated(todo, resources, bar)
    finally:
        bar.close()
    from sdpet.scoring import save_noise_map, save_samples

    for job, reference, place, scores in zip(todo, references, images, found, strict=True):
        if scores is None:
            print(f"left out: {job.folder}: samples are not finite under these options", file=sys.stderr)
            continue
        name = f"evaluations/{len(job.record.evaluations) + 1:03d}"
        save_samples(scores, job.folder / name / "samples")
        save_noise_map(scores, job.folder / name)
        entry = {
            "asked": list(asked),
            "metrics": scores.metrics,
            "anchors": reference,
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


def _evaluated(jobs: Sequence[StoredJob], resources: Resources, bar: Bar) -> list[Evaluation | None]:
    """Evaluate the jobs, sampled in one batch; None for a job whose samples are not finite."""
    from sdpet.scoring import evaluate_together

    config = jobs[0].config
    base, task, scorers = resources.base(config), resources.task(config), resources.scorers(config)
    folders, forms = [job.folder for job in jobs], [job.config.form.kind for job in jobs]
    with torch_threads(config.trainer.threads), tuned(base, folders, forms) as order:
        seeds = [jobs[i].config.seed for i in order]
        sampler, plan = make_sampler(config), make_plan(config)
        found = evaluate_together(base, task, scorers, sampler, seeds, plan, sampling_progress(bar))
    return [found[order.index(i)] for i in range(len(jobs))]
