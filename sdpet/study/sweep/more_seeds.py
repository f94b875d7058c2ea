"""Seeds that are added to a study after its own runs: for precision, or fresh ones that confirm the best."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sdpet.runs.record import Record
from sdpet.study.manifest import write_manifest
from sdpet.study.plan import Job, Plan
from sdpet.study.sweep.ongoing import Ongoing


def add_seeds(sweep: Ongoing) -> Plan:
    """Replicate all designs until the intervals of their means are narrow enough, or they have `most` seeds.

    Returns
    -------
    Plan
        With the added runs.
    """
    from analysis.planning.dry_run import seeds_to_add

    options = sweep.options
    assert options.until is not None
    while True:
        jobs = sweep.designs()
        design_of = {job.folder.name: design for design, group in jobs.items() for job in group}
        more, sentences = seeds_to_add(sweep.folder, design_of, options.metric, options.until, options.most_seeds)
        sweep.say(sentences)
        wanted = []
        for design, count in more.items():
            first = 1 + max(job.config.seed for job in jobs[design])
            wanted += [(jobs[design][0], seed) for seed in range(first, first + count)]
        if not wanted:
            return sweep.plan
        added = sweep.with_seeds(wanted)
        sweep.plan = replace(sweep.plan, jobs=[*sweep.plan.jobs, *added])
        sweep.note()
        sweep.launch([job for job in added if not job.complete])


def confirm(sweep: Ongoing, before: dict[Path, Record]) -> list[Job]:
    """Train the designs that may be the best on fresh seeds; they are noted in the plan as no part of the study.

    Parameters
    ----------
    before : dict of Path to Record
        Gets the records of those that are complete already.
    """
    from analysis.planning.dry_run import designs_to_confirm

    assert sweep.options.confirm is not None
    if not all(job.complete for job in sweep.plan.jobs):
        sweep.say(["  runs are missing, so the best is not confirmed yet"])
        return []
    jobs = sweep.designs()
    design_of = {job.folder.name: design for design, group in jobs.items() for job in group}
    best, sentences = designs_to_confirm(sweep.folder, design_of, sweep.options.metric)
    sweep.say(sentences)
    first = 1 + max(job.config.seed for job in sweep.plan.jobs)
    seeds = range(first, first + sweep.options.confirm)
    return run_fresh(sweep, [(jobs[design][0], seed) for design in best for seed in seeds], before)


def run_fresh(sweep: Ongoing, wanted: list[tuple[Job, int]], before: dict[Path, Record]) -> list[Job]:
    """Do runs on fresh seeds, which the plan notes as no part of the study; `before` gets what was complete already."""
    fresh = sweep.with_seeds(wanted)
    write_manifest(sweep.folder, sweep.plan.jobs, sweep.command, fresh, sweep.plan.asked)
    records = {job.folder: job.record() for job in fresh}
    before |= {path: record for path, record in records.items() if record and record.status != "failed"}
    sweep.launch([job for job in fresh if job.folder not in before])
    return fresh
