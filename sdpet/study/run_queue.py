"""Which runs are trained together: jobs packed into fleets, and the queue from which processes take them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from sdpet.config import fleet_key
from sdpet.files.lock import run_lock
from sdpet.study.fleet_size import UNMEASURED, worth_measuring
from sdpet.study.plan import Job

POLL = 1.0  # seconds between checks of runs that another process is doing


def pack(jobs: Sequence[Job], size: int, workers: int = 1) -> list[list[Job]]:
    """The jobs in fleets of at most `size` that can be trained together, in order.

    Fleets of one kind are equally large, give or take one, and as many as keep that kind's share of the workers busy:
    60 runs for 2 workers and size 16 are 4 fleets of 15.
    """
    if size == 1:
        return [[job] for job in jobs]
    fleets = []
    for kind in kinds(jobs).values():
        fleets.extend(_even_parts(kind, size, -(-workers * len(kind) // len(jobs))))
    return fleets


def kinds(jobs: Sequence[Job]) -> dict[str, list[Job]]:
    """Jobs that can be trained together, by their `fleet_key`."""
    found: dict[str, list[Job]] = {}
    for job in jobs:
        found.setdefault(fleet_key(job.config), []).append(job)
    return found


def _even_parts(kind: Sequence[Job], size: int, workers: int) -> list[list[Job]]:
    each = -(-len(kind) // workers)
    count = min(len(kind), workers * -(-each // size))
    return [list(kind[i * len(kind) // count : (i + 1) * len(kind) // count]) for i in range(count)]


class RunQueue:
    """Jobs to do, in fleets, in order; runs claimed by another process are retried after it releases them.

    size: runs that are trained together at most; "auto" has it measured for each kind of runs: `to_measure` gives some
    of them, `measured` takes the answer, and meanwhile no fleet of that kind is given.
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
        """A fleet to train, or none for now."""
        return self._fleets.popleft() if self._fleets else []

    def to_measure(self) -> tuple[str, list[Job]] | None:
        """A kind of runs of which to say, by `measured`, how many to train together."""
        if not self._unsized:
            return None
        key = next(iter(self._unsized))
        self._measuring[key] = self._unsized.pop(key)
        return key, self._measuring[key]

    def measured(self, key: str, size: int) -> None:
        kind = self._measuring.pop(key)
        self._fleets.extend(_even_parts(kind, size, -(-self._workers * len(kind) // self._jobs)))

    def split_and_requeue(self, fleet: list[Job]) -> None:
        """Put a fleet back in two halves."""
        half = (len(fleet) + 1) // 2
        self._fleets.extendleft(part for part in (fleet[half:], fleet[:half]) if part)

    def claimed_elsewhere(self, job: Job) -> None:
        self._elsewhere.append(job)
        self._next_poll = time.monotonic() + POLL

    def poll(self) -> list[Job]:
        """Jobs that another process has completed meanwhile; those it has released are put back into the queue."""
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
        return bool(self._elsewhere or self._unsized or self._measuring)
