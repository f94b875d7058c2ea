"""Distribute the runs of a study to worker processes, and make sure that every run gets a record."""

from __future__ import annotations

import logging
import selectors
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from sdpet.files.lock import run_lock
from sdpet.runs.loggers.choose import tell_failure
from sdpet.runs.record import FILE
from sdpet.runs.setup import ProgressCallback
from sdpet.study.plan import Job
from sdpet.study.progress import StudyProgress, Tracker, thinned
from sdpet.study.run_queue import POLL, RunQueue
from sdpet.study.warm import CAN_FORK, WarmParent, warm_parent
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
    tracker = Tracker(jobs, max(1, min(workers, len(jobs))), progress)
    try:
        if min(workers, len(jobs)) <= 1:
            _in_this_process(queue, tracker)
        else:
            names = [gpus[i % len(gpus)] if gpus else None for i in range(min(workers, len(jobs)))]
            with nullcontext() if any(names) or not CAN_FORK else warm_parent() as parent:  # a GPU is of one process
                _in_workers(queue, tracker, names, parent)
    finally:
        tracker.close()


def _in_this_process(queue: RunQueue, tracker: Tracker) -> None:
    from sdpet.runs import Resources, run_together
    from sdpet.study.fleet_size import size_for

    resources = Resources()
    while True:
        if unsized := queue.to_measure():
            queue.measured(unsized[0], size_for([job.config for job in unsized[1]], resources))
        for job in queue.poll():
            tracker.done(job, job.record())
        fleet = queue.next()
        if not fleet:
            if not queue.waiting:
                return
            time.sleep(POLL / 4)
            continue
        tracker.start(fleet)
        records = run_together([job.config for job in fleet], resources, _step_callback(fleet, tracker))
        for job, record in zip(fleet, records, strict=True):
            if record is None:
                queue.claimed_elsewhere(job)
                tracker.leave(job)
            else:
                tracker.done(job, record)


def _step_callback(fleet: Sequence[Job], tracker: Tracker) -> ProgressCallback:
    return thinned(lambda phase, done, total: tracker.step(fleet, phase, done, total), 0.2)


def _in_workers(queue: RunQueue, tracker: Tracker, gpus: Sequence[str | None], parent: WarmParent | None) -> None:
    """Do the jobs in worker processes, forked from `parent`; `gpus` has the GPU of each worker, or None."""
    pool = [Worker(gpu, parent) for gpu in gpus]
    selector = selectors.DefaultSelector()
    for worker in pool:
        selector.register(worker.events, selectors.EVENT_READ, worker)
    measured: Job | None = None
    try:
        while True:
            for job in queue.poll():
                tracker.done(job, job.record())
            for worker in pool:
                if worker.busy:
                    continue
                if unsized := queue.to_measure():
                    measured = unsized[1][0]
                    worker.request_size(*unsized, sharers=list(gpus).count(worker.gpu))
                elif fleet := queue.next():
                    worker.request_training(fleet)
                    tracker.start(fleet)
                elif measured:
                    worker.request_loading(measured)
            if not queue.waiting and not any(worker.busy for worker in pool):
                return
            for key, _ in selector.select(timeout=POLL):
                worker = key.data
                events = worker.read()
                if events is not None:
                    for event in events:
                        _handle_event(worker, event, queue, tracker)
                    continue
                selector.unregister(worker.events)  # the process has died
                pool.remove(worker)
                _handle_death(worker, queue, tracker)
                pool.append(Worker(worker.gpu, parent))
                selector.register(pool[-1].events, selectors.EVENT_READ, pool[-1])
    finally:
        for worker in pool:
            worker.request_stop()
        for worker in pool:
            worker.wait()


def _handle_event(worker: Worker, event: dict[str, Any], queue: RunQueue, tracker: Tracker) -> None:
    kind = event["event"]
    if kind == "note":
        if event["text"] not in _SAID:  # each worker notes what it sees; it is said once
            _SAID.add(event["text"])
            LOG.log(event["level"], event["text"])
    elif kind == "step":
        tracker.step(worker.fleet, event["phase"], event["done"], event["total"])
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
                tracker.leave(job)
            else:
                tracker.done(job, job.record())


def _handle_death(worker: Worker, queue: RunQueue, tracker: Tracker) -> None:
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
                tracker.done(job, job.record())
        queue.split_and_requeue([job for job in fleet if not job.complete])
        return
    for job in fleet:
        _record_death(job, code)
        tracker.done(job, job.record())


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
