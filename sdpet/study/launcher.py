"""Share the runs of a study out to worker processes, and see to it that every one of them ends up with a record."""

from __future__ import annotations

import selectors
import time
from collections.abc import Sequence
from typing import Any

from sdpet.files.lock import claim
from sdpet.runs.loggers.choose import tell_failure
from sdpet.study.plan import Job
from sdpet.study.report import Progress
from sdpet.study.run_queue import POLL, Queue
from sdpet.study.worker_pool import Worker, usable_cores

__all__ = ["POLL", "launch", "share", "usable_cores"]


def launch(
    jobs: Sequence[Job], workers: int, quiet: bool = False, size: int | str = 1, gpus: Sequence[str] = ()
) -> None:
    """Do all the jobs; returns when each has a record (its status tells), done here or by another process.

    workers: processes; 1 does the runs in this process. size: runs that are trained
    together at most, as a fleet, or "auto" to have it measured. gpus: names of those that the workers are spread over.
    Interrupted, it leaves no half record and no process.
    """
    queue = Queue(jobs, size, workers)
    progress = Progress(len(jobs), quiet)
    try:
        if min(workers, len(jobs)) <= 1:
            _in_this_process(queue, progress)
        else:
            names = [gpus[i % len(gpus)] if gpus else None for i in range(min(workers, len(jobs)))]
            _in_workers(queue, progress, names)
    finally:
        progress.close()


def _in_this_process(queue: Queue, progress: Progress) -> None:
    from sdpet.runs.setup import Stage
    from sdpet.runs.start import run_together
    from sdpet.study.fleet_size import size_for

    stage = Stage()
    while True:
        if unsized := queue.to_measure():
            queue.measured(unsized[0], size_for([job.config for job in unsized[1]], stage))
        for job in queue.look():
            progress.done(job.name, job.record())
        fleet = queue.next()
        if not fleet:
            if not queue.waiting:
                return
            time.sleep(POLL / 4)
            continue
        records = run_together([job.config for job in fleet], stage, _share_of(fleet, progress))
        for job, record in zip(fleet, records, strict=True):
            if record is None:
                queue.claimed_elsewhere(job)
            else:
                progress.done(job.name, record)


def _share_of(fleet: Sequence[Job], progress: Progress) -> Any:
    last = [0.0]

    def watch(phase: str, done: int, total: int, loss: float = 0.0) -> None:
        if time.monotonic() - last[0] > 0.2:
            last[0] = time.monotonic()
            for job in fleet:
                progress.share(job.name, share(phase, done, total))

    return watch


def share(phase: str, done: int, total: int) -> float:
    """How much of a run is done: training counts 0.8, sampling the rest (about what they take in the lab)."""
    if phase == "train":
        return 0.8 * done / total
    return 0.8 + 0.2 * done / total if phase == "sample" else 0.0


def _in_workers(queue: Queue, progress: Progress, gpus: Sequence[str | None]) -> None:
    """gpus: that of each worker, or None."""
    pool = [Worker(gpu) for gpu in gpus]
    selector = selectors.DefaultSelector()
    for worker in pool:
        selector.register(worker.reports, selectors.EVENT_READ, worker)
    measured: Job | None = None
    try:
        while True:
            for job in queue.look():
                progress.done(job.name, job.record())
            for worker in pool:
                if worker.busy:
                    continue
                if unsized := queue.to_measure():
                    measured = unsized[1][0]
                    worker.have_measured(*unsized, sharers=list(gpus).count(worker.gpu))
                elif fleet := queue.next():
                    worker.give(fleet)
                elif measured:
                    worker.prepare(measured)
            if not queue.waiting and not any(worker.busy for worker in pool):
                return
            for key, _ in selector.select(timeout=POLL):
                worker = key.data
                reports = worker.read()
                if reports is not None:
                    for report in reports:
                        _heed(worker, report, queue, progress)
                    continue
                selector.unregister(worker.reports)  # it died
                pool.remove(worker)
                _bury(worker, queue, progress)
                pool.append(Worker(worker.gpu))
                selector.register(pool[-1].reports, selectors.EVENT_READ, pool[-1])
    finally:
        for worker in pool:
            worker.ask_to_end()
        for worker in pool:
            worker.wait()


def _heed(worker: Worker, report: dict[str, Any], queue: Queue, progress: Progress) -> None:
    event = report["event"]
    if event == "share":
        for job in worker.fleet:
            progress.share(job.name, report["share"])
    elif event == "trying":
        worker.trying = report["size"]
    elif event == "size":
        assert worker.measuring is not None
        queue.measured(worker.measuring, report["size"])
        worker.measuring = None
    elif event == "stop":
        worker.fleet = []
        raise OSError(*report["error"])
    else:
        fleet, worker.fleet = worker.fleet, []
        for i, job in enumerate(fleet):
            if i in report["claimed"]:
                queue.claimed_elsewhere(job)
            else:
                progress.done(job.name, job.record())


def _bury(worker: Worker, queue: Queue, progress: Progress) -> None:
    """See to what a worker was doing when it died: a fleet is tried again in halves, a single run has failed, and where
    a size was measured, half of what it died of is taken."""
    from sdpet.runs.start import failure

    code = worker.process.wait()
    fleet, worker.fleet = worker.fleet, []
    worker.wait()
    if worker.measuring is not None:
        queue.measured(worker.measuring, max(1, worker.trying // 2))
    if len(fleet) > 1:
        for job in fleet:
            if job.complete:
                progress.done(job.name, job.record())
        queue.halves([job for job in fleet if not job.complete])
        return
    hint = "; was memory short?" if code == -9 else ""
    for job in fleet:
        with claim(job.folder) as mine:
            if mine and job.record() is None:
                reason = f"the process died with {'signal ' + str(-code) if code < 0 else 'status ' + str(code)}{hint}"
                job.folder.mkdir(parents=True, exist_ok=True)
                record = failure(job.config, reason)
                record.write(job.folder)
                tell_failure(job.config, job.folder, record)
        progress.done(job.name, job.record())
