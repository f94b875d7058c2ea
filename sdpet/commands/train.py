"""`python train.py`: do one run, show its progress, and print its scores."""

from __future__ import annotations

import time
from typing import Any

from sdpet.commands.progress_bar import Bar
from sdpet.config import RunConfig, name_of, run_folder, validate
from sdpet.runs.distributed import external_rank
from sdpet.runs.record import Record
from sdpet.study.report import outcome, run_report
from sdpet.study.worker_pool import require_device


def train_one(config: Any) -> bool:
    """Do the run of a config and print the result; returns whether it finished. Only rank 0 prints."""
    config = validate(config)
    folder = run_folder(config)
    rank = external_rank(config)
    if rank is not None and rank.rank > 0:
        from sdpet.runs import run_together

        [record] = run_together([config])
        return record is not None and record.status == "finished"
    before = Record.find(folder)
    already = before is not None and before.status != "failed"
    if not already:
        require_device(config)
        if not config.quiet:
            print(f"{name_of(config)}: {config.task.name} on {config.data.name}, {config.trainer.steps} steps",
                  flush=True)  # fmt: skip
    folder.parent.mkdir(parents=True, exist_ok=True)
    record = before if already and rank is None else None  # rank 0 must still signal the other ranks
    record = record or _run_with_progress(config)
    print(run_report(name_of(config), record, folder, already))
    return record.status == "finished"


def _run_with_progress(config: RunConfig) -> Record:
    from sdpet.runs import Resources, run_together

    resources, bar = Resources(), Bar(config.quiet)
    bar.prepare("preparing model, data and scores of the untuned model")
    resources.scorers(config)  # a missing scorer is an error before any training
    try:
        while True:
            [record] = run_together([config], resources, progress=bar)
            if record is not None:
                return record
            time.sleep(1)  # another process is working on this run
    finally:
        bar.close()


def fleet_job(file: str) -> dict[str, str]:
    """Do the runs of one fleet as a job of a cluster; print a line for each to the job's log."""
    from sdpet.study.other_launchers import run_fleet_job

    def report(name: str, record: Record | None) -> None:
        print(f"{name}: {outcome(record) if record else 'another process is working on it'}", flush=True)

    return run_fleet_job(file, report)
