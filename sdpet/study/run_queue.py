"""Pack jobs into fleets, and queue the fleets for processes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from sdpet.config import fleet_key
from sdpet.files.lock import run_lock
from sdpet.study.fleet_size import UNMEASURED, worth_measuring
from sdpet.study.plan import Job

POLL = 1.0  # seconds between checks of runs that other processes are working on


def pack(jobs: Sequence[Job], size: int, workers: int = 1) -> list[list[Job]]:
    """Pack jobs into fleets, in order.

    Fleets of the same `fleet_key` differ in size by at most one, and there are enough of them to keep all workers busy:
    60 runs for 2 workers and size 16 become 4 fleets of 15.

    Parameters
    ----------
    jobs : sequence of Job
        The runs.
    size : int
        Largest number of runs in a fleet.
    workers : int
        Number of processes that take fleets.

    Returns
    -------
    list of list of Job
        The fleets.
    """
    if size == 1:
        return [[job] for job in jobs]
    fleets = []
    for kind in kinds(jobs).values():
        fleets.extend(_even_parts(kind, size, -(-workers * len(kind) // len(jobs))))
    return fleets


def kinds(jobs: Sequence[Job]) -> dict[str, list[Job]]:
    """Group jobs by their `fleet_key`; those of a group can be trained together."""
    found: dict[str, list[Job]] = {}
    for job in jobs:
        found.setdefault(fleet_key(job.config), []).append(job)
    return found


def _even_parts(kind: Sequence[Job], size: int, workers: int) -> list[list[Job]]:
    each = -(-len(kind) // workers)
    count = min(len(kind), workers * -(-each // size))
    return [list(kind[i * len(kind) // count : (i + 1) * len(kind) // count]) for i in range(count)]


class RunQueue:
    """A queue of fleets; runs that another process has locked are retried after it releases them.

    Parameters
    ----------
    jobs : sequence of Job
        The runs.
    size : int or str
        Largest number of runs in a fleet. "auto" has it measured for each `fleet_key`: `to_measure` returns runs to
        measure, and `measured` takes the result. Until then no fleet with this key is handed out.
    workers : int
        Number of processes that take fleets.
    """

    def __init__(self, jobs: Sequence[Job], size: int | str = 1, workers: int = 1) -> None:
        self._workers, self._jobs = workers, max(1, len(jobs))
        self._unsized: dict[str, list[Job]] = {}
        self._measuring: dict[str, list[Job]] = {}
        self._fleets: deque[list[Job]] = deque()
        self._elsewhere: list[Job] = []
        self._next_poll = 0.0
        if isinstance(size, int):
            self._fleets.extend(pack(jobs, size, workers))
            return
        for key, kind in kinds(jobs).items():
            self._unsized[key] = kind
            if not worth_measuring(kind[0].config, len(kind)):
                self._measuring[key] = self._unsized.pop(key)
                self.measured(key, UNMEASURED)

    def next(self) -> list[Job]:
        """The next fleet to train; empty if there is none at present."""
        return self._fleets.popleft() if self._fleets else []

    def to_measure(self) -> tuple[str, list[Job]] | None:
        """The next `fleet_key` to measure and its jobs; the caller must report the best size by `measured`."""
        if not self._unsized:
            return None
        key = next(iter(self._unsized))
        self._measuring[key] = self._unsized.pop(key)
        return key, self._measuring[key]

    def measured(self, key: str, size: int) -> None:
        """Queue the runs of this `fleet_key` in fleets of at most `size`."""
        kind = self._measuring.pop(key)
        self._fleets.extend(_even_parts(kind, size, -(-self._workers * len(kind) // self._jobs)))

    def split_and_requeue(self, fleet: list[Job]) -> None:
        """Put a fleet back into the queue as two fleets of half the size."""
        half = (len(fleet) + 1) // 2
        self._fleets.extendleft(part for part in (fleet[half:], fleet[:half]) if part)

    def claimed_elsewhere(self, job: Job) -> None:
        """Remember a job that another process is working on; `poll` checks it."""
        self._elsewhere.append(job)
        self._next_poll = time.monotonic() + POLL

    def poll(self) -> list[Job]:
        """Jobs that other processes have completed; jobs they released without a record go back into the queue."""
        if not self._elsewhere or time.monotonic() < self._next_poll:
            return []
        self._next_poll = time.monotonic() + POLL
        finished, waiting = [], []
        for job in self._elsewhere:
            with run_lock(job.folder) as free:
                if not free:
                    waiting.append(job)
                elif job.complete:
                    finished.append(job)
                else:
                    self._fleets.append([job])
        self._elsewhere = waiting
        return finished

    @property
    def waiting(self) -> bool:
        """Whether jobs remain that other processes are working on, or whose fleet size is not measured yet."""
        return bool(self._elsewhere or self._unsized or self._measuring)
