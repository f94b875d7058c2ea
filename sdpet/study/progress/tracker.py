"""Follow the fleets of a study: keep its timeline, show it, and write it for other processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Protocol

from sdpet.config import RunConfig
from sdpet.runs.record import Record
from sdpet.study.plan import Job
from sdpet.study.progress.estimate import Event, Timeline
from sdpet.study.progress.files import epoch_shift, progress_file, remove_dead, write_timeline

WRITE_EVERY = 3.0  # least number of seconds between two versions of the file
BACKWARD = 2.0  # a backward pass and its forward pass cost about as much as this many forward passes in sampling
SUITE = 8  # templates of a suite whose number is not known here


class StudyProgress(Protocol):
    """Receives the progress of the runs of a study; `sdpet.commands` implements it for terminals and logs."""

    def moved(self, timeline: Timeline) -> None:
        """Report what the fleets have done so far; times are those of time.monotonic()."""

    def done(self, name: str, record: Record | None) -> None:
        """Report that the named run has ended, with its record or None."""

    def close(self) -> None:
        """End the report."""


def work_of(config: RunConfig) -> dict[str, float]:
    """The work of a run by phase, in images through the UNet: a first guess of what sampling costs beside training."""
    trainer, plan = config.trainer, config.eval.plan
    per_step = trainer.batch_size * trainer.accumulate * (2 if config.task.reg_weight else 1)
    if config.task.name == "finetune":
        images = int(plan.get("images", 0))
    else:
        prompts = plan.get("prompts", ())
        templates = SUITE if isinstance(prompts, str) else len(prompts)
        images = int(plan.get("subject_images", 0)) + int(plan.get("class_images", 0))
        images += templates * int(plan.get("prompt_images", 0))
    passes = 1 if config.sampler.guidance == 1 else 2
    return {"train": BACKWARD * trainer.steps * per_step, "sample": float(config.sampler.steps * images * passes)}


def thinned(report: Callable[[str, int, int], None], every: float) -> Callable[..., None]:
    """A progress callback that reports the first and the last step of each phase, and others every `every` seconds."""
    last_time, last_key = -every, ""

    def callback(phase: str, done: int, total: int, loss: float = 0.0) -> None:
        nonlocal last_time, last_key
        now, key = time.monotonic(), f"{phase} {done >= total}"
        if key != last_key or now - last_time >= every:
            last_time, last_key = now, key
            report(phase, done, total)

    return callback


class Tracker:
    """Keeps the timeline of the jobs of this process.

    Parameters
    ----------
    jobs : sequence of Job
        The runs to do.
    workers : int
        Number of fleets that are done side by side.
    shown : StudyProgress, optional
        Receives every change.
    """

    def __init__(self, jobs: Sequence[Job], workers: int, shown: StudyProgress | None = None) -> None:
        work = {job.folder.name: work_of(job.config) for job in jobs}
        self.timeline = Timeline(time.monotonic(), work, workers)
        self._shown = shown
        self._file = progress_file(jobs[0].folder.parent) if jobs else None
        self._written = 0.0
        if self._file is not None:
            with suppress(OSError):
                remove_dead(self._file.parent.parent)

    def start(self, fleet: Iterable[Job]) -> None:
        """Some runs are begun together."""
        self._add(fleet, "start")

    def step(self, fleet: Iterable[Job], phase: str, done: int, total: int) -> None:
        """A fleet has done `done` of the `total` steps of a phase."""
        self._add(fleet, phase, done, total)

    def leave(self, job: Job) -> None:
        """A run is not done here, since another process is working on it."""
        self._add([job], "leave")

    def done(self, job: Job, record: Record | None) -> None:
        """A run has ended, here or in another process."""
        self._add([job], "end")
        if self._shown is not None:
            self._shown.done(job.name, record)

    def close(self) -> None:
        """End the report. The file is removed: the records tell the rest."""
        if self._file is not None:
            with suppress(OSError):
                self._file.unlink(missing_ok=True)
                self._file.parent.rmdir()  # it fails where other processes have files
        if self._shown is not None:
            self._shown.close()

    def _add(self, jobs: Iterable[Job], phase: str, done: int = 0, total: int = 0) -> None:
        now = time.monotonic()
        runs = tuple(job.folder.name for job in jobs)
        self.timeline = self.timeline.after(Event(now, runs, phase, done, total))
        if self._shown is not None:
            self._shown.moved(self.timeline)
        if self._file is not None and now - self._written >= WRITE_EVERY:
            self._written = now
            with suppress(OSError):  # without it another process knows less, and nothing else is lost
                write_timeline(self._file, self.timeline, epoch_shift())
