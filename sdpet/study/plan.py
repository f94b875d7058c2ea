"""Turn the composed configs of a sweep into jobs: validate and name them; drop duplicates and impossible cells."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from sdpet.config import InadmissibleCell, RunConfig, name_of, run_folder, say_unused, training_id, validate
from sdpet.files.collection import collection_paused
from sdpet.files.hashing import once, unchanging
from sdpet.runs.copies import asked_ways, different_way
from sdpet.runs.known_runs import KnownRuns
from sdpet.runs.record import Record
from sdpet.runs.record_index import RecordIndex
from sdpet.study.sweep.composer import Composer


@dataclass(frozen=True)
class Job:
    """One run of a study.

    Attributes
    ----------
    overrides : tuple of str
        Its overrides on the command line.
    config : RunConfig
        Its checked config.
    folder : Path
        Its folder.
    name : str
        Its readable name.
    """

    overrides: tuple[str, ...]
    config: RunConfig = field(repr=False)
    folder: Path
    name: str

    def record(self) -> Record | None:
        """The record of the run; None if it is not complete."""
        return Record.find(self.folder)

    @property
    def complete(self) -> bool:
        """Whether the run has finished or diverged; failed runs are done again."""
        record = self.record()
        return record is not None and record.status != "failed"


@dataclass(frozen=True)
class Plan:
    """The jobs of a sweep.

    Attributes
    ----------
    jobs : list of Job
        One for each distinct run.
    dropped : list of str
        Names of cells that cannot exist.
    doubled : int
        Number of jobs that were left out because another job is the same run.
    asked : list of str
        Ways of computing that the sweep compares, see `sdpet.runs.copies.asked_ways`.
    copies : dict of Path to str
        Runs that the study has already, computed in another way, and what differs in it.
    records : dict of Path to RecordIndex
        The records of each study's folder.
    """

    jobs: list[Job]
    dropped: list[str]
    doubled: int
    asked: list[str] = field(default_factory=list)
    copies: dict[Path, str] = field(default_factory=dict)
    records: dict[Path, RecordIndex] = field(default_factory=dict, repr=False)

    @collection_paused()
    def with_known_runs(self) -> Plan:
        """The plan with the runs that the study has already, computed in another way, in the place of their jobs."""
        known: dict[Path, KnownRuns] = {}
        records: dict[Path, RecordIndex] = {}
        jobs: dict[Path, Job] = {}
        copies: dict[Path, str] = {}
        with unchanging():
            for job in self.jobs:
                study = job.folder.parent
                if study not in known:
                    records[study] = RecordIndex(study)
                    known[study] = KnownRuns(study, self.asked, records[study])
                folder = known[study].folder(job.config, job.folder)
                if folder != job.folder:
                    copies[folder] = different_way(job.config, folder)
                    job = replace(job, folder=folder)
                jobs.setdefault(folder, job)
        return replace(self, jobs=list(jobs.values()), copies=copies, records=records)

    def record(self, job: Job) -> Record | None:
        """The record of a run that was complete when the study was asked for, without its loss; None otherwise."""
        records = self.records.get(job.folder.parent)
        return job.record() if records is None else records.find(job.folder)

    def save_index(self) -> None:
        """Bring the indexes of the studies' records up to date, after the runs have ended."""
        for job in self.jobs:
            if (records := self.records.get(job.folder.parent)) is not None:
                with suppress(OSError, ValueError):  # no record, or a damaged one
                    records.entry(job.folder.name)
        for records in self.records.values():
            records.save()


@collection_paused()
def make_plan(composer: Composer, sweep: Iterable[Sequence[str]]) -> Plan:
    """Compose and validate all jobs of a sweep.

    Parameters
    ----------
    composer : Composer
        Composes the configs.
    sweep : iterable of sequence of str
        The overrides of each job.

    Returns
    -------
    Plan
        Distinct jobs, without impossible cells.

    Raises
    ------
    ValueError
        A config is invalid; the message is one sentence about the first such job.
    HydraException
        A config does not compose.
    """
    jobs: dict[Path, Job] = {}
    dropped: dict[str, None] = {}
    doubled = 0
    sweep = [list(overrides) for overrides in sweep]
    common = set(sweep[0]).intersection(*sweep) if sweep else set()
    with unchanging():
        for number, given in enumerate(sweep):
            overrides = composer.numbered(given, number)
            try:
                checked = validate(composer(overrides))
            except InadmissibleCell as error:
                dropped[error.cell] = None
                continue
            once(("unused", checked.cell), partial(say_unused, checked, overrides))
            folder = run_folder(checked)
            if folder in jobs:
                doubled += 1
            else:
                named = name_of(checked, [override for override in overrides if override not in common])
                jobs[folder] = Job(tuple(overrides), checked, folder, named)
    found = list(jobs.values())
    return Plan(found, list(dropped), doubled, asked_ways([job.config for job in found]))


def in_random_order(jobs: Sequence[Job], order: int) -> list[Job]:
    """Sort jobs by seed, and those of one seed in a reproducible random order.

    The key of a run depends only on `order` and on its own identity. So a study keeps its order when it is resumed, or
    when designs or seeds are added.

    Parameters
    ----------
    jobs : sequence of Job
        The runs.
    order : int
        Seed of the random order.
    """

    def place(job: Job) -> tuple[int, bytes]:
        return job.config.seed, hashlib.blake2b(f"{order} {job.folder.name}".encode(), digest_size=8).digest()

    return sorted(jobs, key=place)


def training_first(jobs: Sequence[Job]) -> tuple[list[Job], list[Job]]:
    """Split jobs into those that train, and those that only score weights that one of the first trains.

    The latter differ from a training job only in sampler or eval (see sdpet.runs.reuse).
    """
    first: dict[tuple[Path, str], Job] = {}
    with unchanging():
        for job in jobs:
            first.setdefault((job.folder.parent, training_id(job.config)), job)
    training = {job.folder for job in first.values()}
    return list(first.values()), [job for job in jobs if job.folder not in training]
