"""Share the runs of a study out to worker processes, and see to it that every one of them ends up with a record."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import sdpet
from sdpet.study.claim import claim
from sdpet.study.log import tell_failure
from sdpet.study.plan import Job
from sdpet.study.show import Progress

POLL = 1.0  # seconds between looks at runs that another study's process is doing
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def usable_cores() -> int:
    """Cores this process may use: its affinity, and the quota of its control group where there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):
        pass
    return cores


def launch(jobs: Sequence[Job], workers: int, quiet: bool = False, size: int = 1) -> None:
    """Do all the jobs; returns when each has a record (its status tells), done here or by another process.

    workers: processes; 1 does the runs in this process. size: runs that are trained together at most, as a fleet.
    Interrupted, it leaves no half record and no process.
    """
    queue = Queue(jobs, size, workers)
    progress = Progress(len(jobs), quiet)
    try:
        if min(workers, len(jobs)) <= 1:
            _in_this_process(queue, progress)
        else:
            _in_workers(queue, progress, min(workers, len(jobs)))
    finally:
        progress.close()


class Queue:
    """Jobs to do, in fleets, in order; those that another process has claimed come last, when it has let go of them."""

    def __init__(self, jobs: Sequence[Job], size: int = 1, workers: int = 1) -> None:
        self._ready = deque(jobs)
        self._again: deque[list[Job]] = deque()  # fleets that a process died of
        self._size, self._workers = size, workers
        self._elsewhere: list[Job] = []
        self._next_look = 0.0

    def next(self) -> list[Job]:
        """A fleet: the next job and those that can be trained with it, but no more than leaves some for each worker."""
        if self._again:
            return self._again.popleft()
        if not self._ready or self._size == 1:
            return [self._ready.popleft()] if self._ready else []
        from sdpet.run import fleet_key

        key = fleet_key(self._ready[0].config)
        fitting = [job for job in self._ready if fleet_key(job.config) == key]
        fleet = fitting[: min(self._size, -(-len(fitting) // self._workers))]
        taken = {job.folder for job in fleet}
        self._ready = deque(job for job in self._ready if job.folder not in taken)
        return fleet

    def halves(self, fleet: list[Job]) -> None:
        """The fleet is to be tried again, in two."""
        half = (len(fleet) + 1) // 2
        self._again.extend(part for part in (fleet[:half], fleet[half:]) if part)

    def claimed_elsewhere(self, job: Job) -> None:
        self._elsewhere.append(job)
        self._next_look = time.monotonic() + POLL

    def look(self) -> list[Job]:
        """Jobs that another process has finished meanwhile; those it has dropped are ready again."""
        if not self._elsewhere or time.monotonic() < self._next_look:
            return []
        self._next_look = time.monotonic() + POLL
        finished, waiting = [], []
        for job in self._elsewhere:
            with claim(job.folder) as free:
                if not free:
                    waiting.append(job)
                elif job.complete:
                    finished.append(job)
                else:
                    self._ready.append(job)
        self._elsewhere = waiting
        return finished

    @property
    def waiting(self) -> bool:
        return bool(self._elsewhere)


def _in_this_process(queue: Queue, progress: Progress) -> None:
    from sdpet.run import run_together
    from sdpet.stage import Stage

    stage = Stage()
    while True:
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

    def watch(phase: str, done: int, total: int) -> None:
        if time.monotonic() - last[0] > 0.2:
            last[0] = time.monotonic()
            for job in fleet:
                progress.share(job.name, share(phase, done, total))

    return watch


def share(phase: str, done: int, total: int) -> float:
    """How much of a run is done: training counts 0.8, sampling the rest (about what they take in the lab)."""
    return 0.8 * done / total if phase == "train" else 0.8 + 0.2 * done / total


class Worker:
    """A process that does fleets one after another: a JSON line of configs goes in, what happens comes back as lines.

    It ends when its input ends, so it does not outlive this process, even a killed one.
    """

    def __init__(self) -> None:
        root = str(Path(sdpet.__file__).parent.parent)
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        read_end, write_end = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sdpet.study.worker", str(write_end)],
            stdin=subprocess.PIPE,
            pass_fds=[write_end],
            start_new_session=True,  # Ctrl-C goes to this process alone, which then ends its workers
            env={**os.environ, "PYTHONPATH": path, **dict.fromkeys(THREADS, "1")},
        )
        os.close(write_end)
        self.reports = read_end
        self._partial = b""
        self.fleet: list[Job] = []

    def read(self) -> list[dict[str, Any]] | None:
        """What the process has reported since the last call; None when it is dead."""
        content = os.read(self.reports, 1 << 16)
        *lines, self._partial = (self._partial + content).split(b"\n")
        return [json.loads(line) for line in lines] if content else None

    def give(self, fleet: list[Job]) -> None:
        self.fleet = fleet
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # if it died, that is seen when its reports end
            self.process.stdin.write(json.dumps([job.config for job in fleet]).encode() + b"\n")
            self.process.stdin.flush()

    def ask_to_end(self) -> None:
        """By SIGTERM in the middle of a run, which it then clears away; by the end of its input when idle."""
        assert self.process.stdin is not None
        if self.fleet:
            self.process.terminate()
        else:
            with suppress(BrokenPipeError):
                self.process.stdin.close()

    def wait(self, patience: float = 10.0) -> None:
        """Wait for the end, and bring it about if need be."""
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        os.close(self.reports)


def _in_workers(queue: Queue, progress: Progress, count: int) -> None:
    pool = [Worker() for _ in range(count)]
    selector = selectors.DefaultSelector()
    for worker in pool:
        selector.register(worker.reports, selectors.EVENT_READ, worker)
    try:
        while True:
            for job in queue.look():
                progress.done(job.name, job.record())
            for worker in pool:
                if not worker.fleet and (fleet := queue.next()):
                    worker.give(fleet)
            if not queue.waiting and not any(worker.fleet for worker in pool):
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
                pool.append(Worker())
                selector.register(pool[-1].reports, selectors.EVENT_READ, pool[-1])
    finally:
        for worker in pool:
            worker.ask_to_end()
        for worker in pool:
            worker.wait()


def _heed(worker: Worker, report: dict[str, Any], queue: Queue, progress: Progress) -> None:
    if report["event"] == "share":
        for job in worker.fleet:
            progress.share(job.name, report["share"])
        return
    if report["event"] == "stop":
        worker.fleet = []
        raise OSError(*report["error"])
    fleet, worker.fleet = worker.fleet, []
    for i, job in enumerate(fleet):
        if i in report["claimed"]:
            queue.claimed_elsewhere(job)
        else:
            progress.done(job.name, job.record())


def _bury(worker: Worker, queue: Queue, progress: Progress) -> None:
    """See to the runs that a worker was doing when it died: a fleet is tried again in halves, a single one failed."""
    from sdpet.run import failure

    code = worker.process.wait()
    fleet, worker.fleet = worker.fleet, []
    worker.wait()
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
