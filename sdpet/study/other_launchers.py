"""Studies with third-party launchers of Hydra (Slurm, Ray, joblib, ...): each of their jobs trains one fleet.

A job gets `+fleet=FILE`, a file in the study's folder with the configs of its runs. The job state that a launcher
reports is not used. When all jobs have ended, runs without a record are launched again, in smaller fleets if no run was
completed. A run whose job dies even as a fleet of one is recorded as failed. So a killed worker or a lost node costs
time, but no runs: jobs resume from checkpoints, and locks prevent that a run is done twice.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher

from sdpet.config import name_of, run_folder, validate
from sdpet.files.atomic import no_space, write_atomic
from sdpet.files.lock import run_lock
from sdpet.files.received import read_text
from sdpet.runs.record import FILE, Record
from sdpet.study.plan import Job
from sdpet.study.progress import StudyProgress, Tracker, thinned
from sdpet.study.run_queue import POLL, pack
from sdpet.study.slurm import watch_jobs

LOG = logging.getLogger("sdpet")
ROUNDS_WITHOUT_CAUSE = 2  # rounds in which no run was completed and no job reported an error, before giving up


def launch_in_fleets(launcher: Launcher, jobs: Sequence[Job], size: int, progress: StudyProgress) -> list[Any]:
    """Do all jobs in fleets, and return when each has a record.

    Parameters
    ----------
    launcher : Launcher
        Hydra's launcher, already set up.
    jobs : sequence of Job
        The runs.
    size : int
        Largest number of runs in a fleet.
    progress : StudyProgress
        Receives each run whose record appears.

    Returns
    -------
    list
        The values that the launcher returned.

    Raises
    ------
    ValueError
        The launcher could not start any job.
    OSError
        The disk is full.
    """
    left, number, idle = list(jobs), 0, 0
    returned: list[Any] = []
    if type(launcher).__name__ == "SlurmLauncher":
        watch_jobs()
    with _report_records(jobs, progress):
        while left:
            files = [_write_request(fleet) for fleet in pack(left, size)]
            reason: BaseException | None = None
            try:
                found = launcher.launch([[f"+fleet='{file}'"] for file in files], initial_job_idx=number)
                returned += found
                reason = _first_failure(found)
            except Exception as error:  # one job died; launchers then do not report the other jobs
                reason = error
            for file in files:  # after an interrupt they are kept, since queued jobs still need them
                file.unlink(missing_ok=True)
            number += len(files)
            _wait_for_others(left)
            missing = [job for job in left if job.record() is None]
            _raise_if_hopeless(reason, left, missing)
            if len(missing) == len(left):  # no run was completed
                idle += 1
                if reason is None and idle == ROUNDS_WITHOUT_CAUSE:
                    raise ValueError(
                        f"jobs ended without writing a record in {left[0].folder.parent.absolute()}; "
                        f"output_root must be a folder that all machines share."
                    )
                if reason is not None and size == 1:
                    for job in missing:
                        _record_failure(job, reason)
                    missing = []
                size = max(1, size // 2) if reason is not None else size
            if missing:
                why = f" ({_shorten(reason)})" if reason else ""
                LOG.warning("%d runs did not finish%s; they are launched again", len(missing), why)
            left = missing
    with suppress(OSError):  # the folder is not empty
        _requests_folder(jobs[0]).rmdir()
    return returned


def run_fleet_job(file: str, done: Callable[[str, Record | None], None] | None = None) -> dict[str, str]:
    """Do the runs of one fleet, as a job of a cluster.

    Parameters
    ----------
    file : str
        The file with the configs of the runs.
    done : callable, optional
        Called as ``done(name, record)`` for each run; record is None if another process is working on it.

    Returns
    -------
    dict of str to str
        Status by run_id.

    Raises
    ------
    ValueError
        The file does not exist any more, or was changed.
    """
    from sdpet.runs import run_together

    try:
        text = read_text(Path(file))
    except FileNotFoundError:
        raise ValueError(f"{file} is missing: its runs were launched again or completed meanwhile.") from None
    if Path(file).stem != _digest(text):
        raise ValueError(f"{file} is not as it was written; launch its runs again.")
    request = json.loads(text)
    with suppress(OSError):  # relative paths in the configs start from the command's folder
        os.chdir(request["cwd"])
    configs = [validate(values) for values in request["configs"]]

    def report(i: int, record: Record | None) -> None:
        if done is not None:
            done(name_of(configs[i]), record)

    jobs = [Job((), config, run_folder(config), name_of(config)) for config in configs]
    tracker = Tracker(jobs, 1)
    tracker.start(jobs)
    try:
        steps = thinned(lambda phase, done, total: tracker.step(jobs, phase, done, total), 1.0)
        records = run_together(configs, progress=steps, done=report)
    finally:
        tracker.close()
    return {record.run_id: record.status for record in records if record is not None}


def _requests_folder(job: Job) -> Path:
    return job.folder.parent.absolute() / ".fleets"


def _write_request(fleet: Sequence[Job]) -> Path:
    text = json.dumps({"cwd": str(Path.cwd()), "configs": [dict(job.config.values) for job in fleet]})
    folder = _requests_folder(fleet[0])
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{_digest(text)}.json"
    write_atomic(file, lambda partial: partial.write_text(text, encoding="utf-8"))
    return file


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def _first_failure(found: Sequence[JobReturn]) -> BaseException | None:
    return next((job._return_value for job in found if job.status == JobStatus.FAILED), None)


def _raise_if_hopeless(reason: BaseException | None, left: Sequence[Job], missing: Sequence[Job]) -> None:
    """Raise an error if launching again would not help."""
    if reason is None or not missing:
        return
    full = no_space(reason)
    if full is not None:
        raise OSError(full, os.strerror(full), getattr(reason, "filename", None)) from reason
    begun = len(missing) < len(left) or any(job.folder.exists() for job in left)
    if not begun and not isinstance(reason, ConnectionError):
        raise ValueError(f"the launcher could not do any run: {_shorten(reason)}") from reason


def _shorten(error: BaseException) -> str:
    """An error of a launcher in one short line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines if len(lines) < 4 else [lines[0], "...", lines[-1]])
    return f"{type(error).__name__}: {text[:300]}"


def _wait_for_others(jobs: Sequence[Job]) -> None:
    """Wait until no other process is working on these runs, such as jobs that are still running after a launch."""
    waiting = list(jobs)
    while waiting:
        busy = []
        for job in waiting:
            if job.record() is None:
                with run_lock(job.folder) as free:
                    if not free:
                        busy.append(job)
        waiting = busy
        if waiting:
            time.sleep(POLL)


def _record_failure(job: Job, reason: BaseException) -> None:
    from sdpet.runs.start import failure

    with run_lock(job.folder) as lock:
        if lock and job.record() is None:
            job.folder.mkdir(parents=True, exist_ok=True)
            failure(job.config, f"its job died: {_shorten(reason)}").write(job.folder)


@contextmanager
def _report_records(jobs: Sequence[Job], progress: StudyProgress) -> Iterator[None]:
    """Report each run when its record appears, because launchers report nothing until all jobs have ended."""
    over = threading.Event()
    before = {job.folder: _stamp(job) for job in jobs}

    def report_new() -> None:
        for job in [job for job in jobs if job.folder in before]:
            if _stamp(job) != before[job.folder] and (record := job.record()) is not None:
                del before[job.folder]
                progress.done(job.name, record)

    def poll() -> None:
        while not over.wait(max(POLL, len(before) / 1000)):
            report_new()

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        if sys.exc_info()[0] is None:
            report_new()
        progress.close()


def _stamp(job: Job) -> int | None:
    try:
        return (job.folder / FILE).stat().st_mtime_ns
    except FileNotFoundError:
        return None
