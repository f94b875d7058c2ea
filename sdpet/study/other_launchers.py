"""Studies through Hydra's launchers of others (Slurm, Ray, joblib, ...): each of their jobs trains one fleet.

A job is given by `+fleet=FILE`, a file in the study's folder with the configs of its runs. What a job says of itself is
not relied on: runs without a record when all jobs have ended are launched again, in smaller fleets when nothing got
done, and a run whose job dies even alone is recorded as failed. So a killed worker, a lost node or a job that was
thrown out costs time, not runs; checkpoints carry over, and claims see to it that no run is done twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher

from sdpet.config.ids import name_of
from sdpet.files.atomic import atomically, no_space
from sdpet.files.lock import claim
from sdpet.runs.record import FILE
from sdpet.study.plan import Job
from sdpet.study.report import Progress, outcome
from sdpet.study.run_queue import POLL, pack
from sdpet.study.slurm import watch_jobs

ROUNDS_WITHOUT_CAUSE = 2  # in which nothing got done though no job complained


def launch_in_fleets(launcher: Launcher, jobs: Sequence[Job], size: int, quiet: bool = False) -> list[Any]:
    """Do all the jobs, in fleets of at most `size`; returns when each has a record, and gives what the launcher gave.

    Raises ValueError when the launcher cannot start any job, OSError when the disk is full.
    """
    left, number, idle = list(jobs), 0, 0
    returned: list[Any] = []
    if type(launcher).__name__ == "SlurmLauncher":
        watch_jobs()
    with _progress(jobs, quiet):
        while left:
            files = [_write_order(fleet) for fleet in pack(left, size)]
            reason: BaseException | None = None
            try:
                found = launcher.launch([[f"+fleet='{file}'"] for file in files], initial_job_idx=number)
                returned += found
                reason = _first_failure(found)
            except Exception as error:  # one of its jobs died; the launchers then do not tell of the others
                reason = error
            for file in files:  # kept when we are interrupted: jobs in a queue still want them
                file.unlink(missing_ok=True)
            number += len(files)
            _wait_for_others(left)
            missing = [job for job in left if job.record() is None]
            _judge(reason, left, missing)
            if len(missing) == len(left):  # nothing got done
                idle += 1
                if reason is None and idle == ROUNDS_WITHOUT_CAUSE:
                    raise ValueError(
                        f"jobs have ended without leaving records in {left[0].folder.parent.absolute()}; "
                        f"output_root must be a folder that all machines share."
                    )
                if reason is not None and size == 1:
                    for job in missing:
                        _record_failure(job, reason)
                    missing = []
                size = max(1, size // 2) if reason is not None else size
            if missing and not quiet:
                why = f" ({_words(reason)})" if reason else ""
                print(f"{len(missing)} runs were left undone{why}; they are launched again", flush=True)
            left = missing
    with suppress(OSError):  # when it is empty
        _orders_folder(jobs[0]).rmdir()
    return returned


def do_fleet(file: str) -> dict[str, str]:
    """What a job of the cluster does: the runs of one fleet, each into its own folder. Gives their statuses by run_id.

    Runs that another process is doing are left out.
    """
    from sdpet.runs.start import run_together

    try:
        order = json.loads(Path(file).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{file} is gone: its runs were launched anew or done meanwhile.") from None
    with suppress(OSError):  # relative paths in the configs mean those of the command
        os.chdir(order["cwd"])
    configs = order["configs"]

    def tell(i: int, record: Any) -> None:
        print(f"{name_of(configs[i])}: {outcome(record) if record else 'another process is doing it'}", flush=True)

    records = run_together(configs, done=tell)
    return {record.run_id: record.status for record in records if record is not None}


def _orders_folder(job: Job) -> Path:
    return job.folder.parent.absolute() / ".fleets"


def _write_order(fleet: Sequence[Job]) -> Path:
    text = json.dumps({"cwd": str(Path.cwd()), "configs": [job.config for job in fleet]})
    folder = _orders_folder(fleet[0])
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{hashlib.blake2b(text.encode(), digest_size=6).hexdigest()}.json"
    atomically(file, lambda partial: partial.write_text(text, encoding="utf-8"))
    return file


def _first_failure(found: Sequence[JobReturn]) -> BaseException | None:
    return next((job._return_value for job in found if job.status == JobStatus.FAILED), None)


def _judge(reason: BaseException | None, left: Sequence[Job], missing: Sequence[Job]) -> None:
    """Raise for what no further launch would mend."""
    if reason is None or not missing:
        return
    full = no_space(reason)
    if full is not None:
        raise OSError(full, os.strerror(full), getattr(reason, "filename", None)) from reason
    begun = len(missing) < len(left) or any(job.folder.exists() for job in left)
    if not begun and not isinstance(reason, ConnectionError):
        raise ValueError(f"the launcher could not do any run: {_words(reason)}") from reason


def _words(error: BaseException) -> str:
    """An error of another's machinery, in a line that is not too long."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines if len(lines) < 4 else [lines[0], "...", lines[-1]])
    return f"{type(error).__name__}: {text[:300]}"


def _wait_for_others(jobs: Sequence[Job]) -> None:
    """Until no process is doing any of these runs: jobs that outlive the end of a launch, or another study's."""
    waiting = list(jobs)
    while waiting:
        busy = []
        for job in waiting:
            if job.record() is None:
                with claim(job.folder) as free:
                    if not free:
                        busy.append(job)
        waiting = busy
        if waiting:
            time.sleep(POLL)


def _record_failure(job: Job, reason: BaseException) -> None:
    from sdpet.runs.start import failure

    with claim(job.folder) as mine:
        if mine and job.record() is None:
            job.folder.mkdir(parents=True, exist_ok=True)
            failure(job.config, f"its job died: {_words(reason)}").write(job.folder)


@contextmanager
def _progress(jobs: Sequence[Job], quiet: bool) -> Iterator[None]:
    """Tell of each run when its record appears, as the launcher is silent until all jobs have ended."""
    if quiet:
        yield
        return
    progress, over = Progress(len(jobs)), threading.Event()
    before = {job.folder: _stamp(job) for job in jobs}

    def look() -> None:
        for job in [job for job in jobs if job.folder in before]:
            if _stamp(job) != before[job.folder] and (record := job.record()) is not None:
                del before[job.folder]
                progress.done(job.name, record)

    def watch() -> None:
        while not over.wait(max(POLL, len(before) / 1000)):
            look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        if sys.exc_info()[0] is None:
            look()
        progress.close()


def _stamp(job: Job) -> int | None:
    try:
        return (job.folder / FILE).stat().st_mtime_ns
    except FileNotFoundError:
        return None
