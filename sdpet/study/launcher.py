"""Distribute the runs of a study to worker processes, and make sure that every run gets a record."""

from __future__ import annotations

import logging
import selectors
import time
from collections.abc import Sequence
from typing import Any

from sdpet.files.lock import run_lock
from sdpet.runs.loggers.choose import tell_failure
from sdpet.runs.record import FILE
from sdpet.runs.setup import ProgressCallback
from sdpet.study.plan import Job
from sdpet.study.progress import StudyProgress, share_done
from sdpet.study.run_queue import POLL, RunQueue
from sdpet.study.worker_pool import Worker

LOG = logging.getLogger("sdpet")
_SAID: set[str] = set()  # notes of workers that this process has passed on


def launch(
    jobs: Sequence[Job], workers: int, progress: StudyProgress, size: int | str = 1, gpus: Sequence[str] = ()
) -> None:
    """Do all jobs, and return when each has a record, whether from here or from another process.

    If it is interrupted, it stops its workers and leaves no incomplete record.

    Parameters
    ----------
    jobs : sequence of Job
        The runs.
    workers : int
        Number of processes; with 1 the runs are done in this process.
    progress : StudyProgress
        Receives the progress of every run, and is closed at the end.
    size : int or str
        Largest number of runs in a fleet; "auto" measures the best number.
    gpus : sequence of str
        Names of the GPUs to distribute the workers over.
    """
    queue = RunQueue(jobs, size, workers)
    try:
        if min(workers, len(jobs)) <= 1:
            _in_this_process(queue, progress)
        else:
            names = [gpus[i % len(gpus)] if gpus else None for i in range(min(workers, len(jobs)))]
            _in_workers(queue, progress, names)
    finally:
        progress.close()


def _in_this_process(queue: RunQueue, progress: StudyProgress) -> None:
    from sdpet.runs import Resources, run_together
    from sdpet.study.fleet_size import size_for

    resources = Resources()
    while True:
        if unsized := queue.to_measure():
            queue.measured(unsized[0], size_for([job.config for job in unsized[1]], resources))
        for job in queue.poll():
            progress.done(job.name, job.record())
        fleet = queue.next()
        if not fleet:
            if not queue.waiting:
                return
            time.sleep(POLL / 4)
            continue
        records = run_together([job.config for job in fleet], resources, _share_callback(fleet, progress))
        for job, record in zip(fleet, records, strict=True):
            if record is None:
                queue.claimed_elsewhere(job)
            else:
                progress.done(job.name, record)


def _share_callback(fleet: Sequence[Job], progress: StudyProgress) -> ProgressCallback:
    last = [0.0]

    def callback(phase: str, done: int, total: int, loss: float = 0.0) -> None:
        if time.monotonic() - last[0] > 0.2:
            last[0] = time.monotonic()
            for job in fleet:
                progress.share(job.name, share_done(phase, done, total))

    return callback


def _in_workers(queue: RunQueue, progress: StudyProgress, gpus: Sequence[str | None]) -> None:
    """Do the jobs in worker processes; `gpus` has the GPU of each worker, or None."""
    pool = [Worker(gpu) for gpu in gpus]
    selector = selectors.DefaultSelector()
    for worker in pool:
        selector.register(worker.events, selectors.EVENT_READ, worker)
    measured: Job | None = None
    try:
        while True:
            for job in queue.poll():
                progress.done(job.name, job.record())
            for worker in pool:
                if worker.busy:
                    continue
                if unsized := queue.to_measure():
                    measured = unsized[1][0]
                    worker.request_size(*unsized, sharers=list(gpus).count(worker.gpu))
                elif fleet := queue.next():
                    worker.request_training(fleet)
                elif measured:
                    worker.request_loading(measured)
            if not queue.waiting and not any(worker.busy for worker in pool):
                return
            for key, _ in selector.select(timeout=POLL):
                worker = key.data
                events = worker.read()
                if events is not None:
                    for event in events:
                        _handle_event(worker, event, queue, progress)
                    continue
                selector.unregister(worker.events)  # the process has died
                pool.remove(worker)
                _handle_death(worker, queue, progress)
                pool.append(Worker(worker.gpu))
                selector.register(pool[-1].events, selectors.EVENT_READ, pool[-1])
    finally:
        for worker in pool:
            worker.request_stop()
        for worker in pool:
            worker.wait()


def _handle_event(worker: Worker, event: dict[str, Any], queue: RunQueue, progress: StudyProgress) -> None:
    kind = event["event"]
    if kind == "note":
        if event["text"] not in _SAID:  # each worker notes what it sees; it is said once
            _SAID.add(event["text"])
            LOG.log(event["level"], event["text"])
    elif kind == "share":
        for job in worker.fleet:
            progress.share(job.name, event["share"])
    elif kind == "trying":
        worker.trying = event["size"]
    elif kind == "size":
        assert worker.measuring is not None
        queue.measured(worker.measuring, event["size"])
        worker.measuring = None
    elif kind == "stop":
        worker.fleet = []
        raise OSError(*event["error"])
    else:
        fleet, worker.fleet = worker.fleet, []
        for i, job in enumerate(fleet):
            if i in event["claimed"]:
                queue.claimed_elsewhere(job)
            else:
                progress.done(job.name, job.record())


def _handle_death(worker: Worker, queue: RunQueue, progress: StudyProgress) -> None:
    """Requeue or record the jobs of a worker that died.

    A fleet is tried again in halves; a single run is recorded as failed. If the worker was measuring the best size of a
    fleet, half of the size at which it died is used.
    """
    code = worker.process.wait()
    fleet, worker.fleet = worker.fleet, []
    worker.wait()
    if worker.measuring is not None:
        queue.measured(worker.measuring, max(1, worker.trying // 2))
    if len(fleet) > 1:
        for job in fleet:
            if job.complete:
                progress.done(job.name, job.record())
        queue.split_and_requeue([job for job in fleet if not job.complete])
        return
    for job in fleet:
        _record_death(job, code)
        progress.done(job.name, job.record())


def _record_death(job: Job, code: int) -> None:
    from sdpet.runs.start import failure

    hint = "; was memory short?" if code == -9 else ""
    with run_lock(job.folder) as lock:
        if lock and not (job.folder / FILE).exists():
            reason = f"the process died with {'signal ' + str(-code) if code < 0 else 'status ' + str(code)}{hint}"
            job.folder.mkdir(parents=True, exist_ok=True)
            record = failure(job.config, reason)
            record.write(job.folder)
            tell_failure(job.config, job.folder, record)
