"""The time left of a study, estimated from a timeline of what its fleets have done so far."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

COUNTED = ("train", "sample")  # the phases that every run may have, in order
OVERDUE = 0.1  # what takes longer than expected is expected to take this share of its time so far in addition
AFRESH = 0.1  # a guess: what a later fleet needs before its first step, as a share of what a worker's first one needs
ENOUGH = 0.1  # share of a phase after which a fleet's own rate counts, and not that of other fleets


class Event(NamedTuple):
    """What happened at `time` (seconds of any clock) to runs that are done together.

    `phase` is "start", "end", "leave" (the runs are not done here) or the name of a phase of which `done` of `total`
    steps are done.
    """

    time: float
    runs: tuple[str, ...]
    phase: str
    done: int = 0
    total: int = 0


class Phase(NamedTuple):
    """A phase of a fleet, from its first report (`first` steps done at `began`) to its latest one."""

    name: str
    began: float
    first: int
    last: float
    done: int
    total: int

    @property
    def share(self) -> float:
        """The share of the phase that was done between the two reports."""
        return (self.done - self.first) / self.total if self.total else 0.0


@dataclass(frozen=True)
class Fleet:
    """Runs that are done together, since `began`; `end` is the time when the last of them ended."""

    runs: tuple[str, ...]
    began: float
    phases: tuple[Phase, ...] = ()
    ended: frozenset[str] = frozenset()
    end: float | None = None

    def after(self, event: Event) -> Fleet:
        """The fleet after an event of its runs."""
        if event.phase == "leave":
            return replace(self, runs=tuple(run for run in self.runs if run not in event.runs))._closed(event.time)
        if event.phase == "end":
            return replace(self, ended=self.ended | {*event.runs})._closed(event.time)
        latest = self.phases[-1] if self.phases else None
        if latest and latest.name == event.phase and latest.done <= event.done and latest.total == event.total:
            return replace(self, phases=(*self.phases[:-1], latest._replace(last=event.time, done=event.done)))
        earlier = [phase for phase in self.phases if phase.name != event.phase]
        if any(phase.name not in _before(event.phase) for phase in earlier):
            earlier = []  # the fleet has begun again
        begun = Phase(event.phase, event.time, event.done, event.time, event.done, event.total)
        return replace(self, phases=(*earlier, begun))

    def _closed(self, time: float) -> Fleet:
        return replace(self, end=time) if self.ended.issuperset(self.runs) else self

    def phase(self, name: str) -> Phase | None:
        """The phase of this name, or None."""
        return next((phase for phase in self.phases if phase.name == name), None)


def _before(phase: str) -> tuple[str, ...]:
    """What a fleet may have done before this phase: any preparation, and counted phases that precede it."""
    return ("class images", *COUNTED[: COUNTED.index(phase)]) if phase in COUNTED else ()


@dataclass(frozen=True)
class Timeline:
    """What the fleets of a study have done so far.

    Attributes
    ----------
    began : float
        The time at which the study began.
    work : mapping of str to mapping of str to float
        The work of each run to do, by run and phase, in a unit that is the same for all runs and phases.
    workers : int
        Number of fleets that are done side by side.
    fleets : tuple of Fleet
        The fleets so far.
    alone : tuple of (str, float)
        Runs that ended without a start, and when.
    """

    began: float
    work: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    workers: int = 1
    fleets: tuple[Fleet, ...] = ()
    alone: tuple[tuple[str, float], ...] = ()

    def after(self, event: Event) -> Timeline:
        """The timeline with one more event."""
        named = set(event.runs)
        if event.phase == "start":
            kept = tuple(fleet for fleet in self.fleets if fleet.end is not None or not named.intersection(fleet.runs))
            return replace(self, fleets=(*kept, Fleet(event.runs, event.time)))
        fleets, found = list(self.fleets), set()
        for i, fleet in enumerate(fleets):
            if fleet.end is None and (mine := named.intersection(fleet.runs)):
                fleets[i] = fleet.after(event._replace(runs=tuple(mine)))
                found |= mine
        others = [(run, event.time) for run in event.runs if run not in found] if event.phase == "end" else []
        fleets = [fleet for fleet in fleets if fleet.runs]
        return replace(self, fleets=tuple(fleets), alone=(*self.alone, *others))

    @property
    def ended(self) -> set[str]:
        """The runs that have ended."""
        return {run for fleet in self.fleets for run in fleet.ended} | {run for run, _ in self.alone}

    @property
    def share(self) -> float:
        """The share of the work that is done; where work is not known, of the runs that have ended."""
        ended, done, total = self.ended, 0.0, 0.0
        under_way = {run: fleet for fleet in self.under_way for run in fleet.runs}
        for run, work in self.work.items():
            amount = sum(work.values()) or 1.0
            total += amount
            if run in ended:
                done += amount
            elif run in under_way:
                fleet = under_way[run]
                latest = fleet.phases[-1].name if fleet.phases else None
                for name, part in work.items():
                    if (phase := fleet.phase(name)) is not None and phase.total:
                        done += part if name != latest else part * phase.done / phase.total
        return done / total if total else 0.0

    @property
    def under_way(self) -> list[Fleet]:
        """The fleets that have not ended."""
        return [fleet for fleet in self.fleets if fleet.end is None]

    @property
    def waiting(self) -> list[str]:
        """The runs that are not begun."""
        begun = self.ended.union(*(fleet.runs for fleet in self.fleets))
        return [run for run in self.work if run not in begun]


def timeline_of(events: Iterable[Event], work: Mapping[str, Mapping[str, float]], workers: int = 1) -> Timeline:
    """The timeline of some events, in order; it begins with the first one."""
    listed = list(events)
    timeline = Timeline(listed[0].time if listed else 0.0, work, workers)
    for event in listed:
        timeline = timeline.after(event)
    return timeline


def time_left(timeline: Timeline, now: float) -> float | None:
    """Estimate the time until all runs of a study have ended.

    A phase that is under way ends at its present rate. Phases to come, and runs that are not begun, cost what the same
    work has cost in all fleets so far. Of a phase that no fleet has reached, a unit of work costs what it costs in the
    other phase. What comes before, between and after the phases (loading, saving, scoring) is known from fleets that
    have passed it, and counts nothing before; before a worker's second fleet has begun to train, its preparation is
    taken as a tenth of that of the first one. Waiting runs are given to the worker that is free first.

    Parameters
    ----------
    timeline : Timeline
        What has happened so far.
    now : float
        The present time, of the same clock. The estimate falls as time passes without an event; what is overdue is
        expected to take a tenth of its time so far in addition.

    Returns
    -------
    float or None
        Seconds; None if too little is known.
    """
    waiting = timeline.waiting
    if not waiting and not timeline.under_way:
        return 0.0
    costs = _Costs(timeline)
    if not costs.rates:
        return _by_ends(timeline, now)
    free = [costs.left(fleet, now) for fleet in timeline.under_way]
    free += [0.0] * (timeline.workers - len(free))
    heapq.heapify(free)
    size = max(len(fleet.runs) for fleet in timeline.fleets)
    count = -(-len(waiting) // size)
    for i in range(count):
        part = waiting[i * len(waiting) // count : (i + 1) * len(waiting) // count]
        heapq.heappush(free, heapq.heappop(free) + costs.whole(part))
    return max(free)


def _by_ends(timeline: Timeline, now: float) -> float | None:
    """The time left by the number of runs that have ended, where nothing else is reported."""
    if not timeline.alone:
        return None
    last = max(time for _, time in timeline.alone)
    left = len(timeline.waiting) + sum(len(fleet.runs) for fleet in timeline.under_way)
    return _still(left * (last - timeline.began) / len(timeline.alone), now - last)


def _still(expected: float, spent: float) -> float:
    """The rest of what was expected to take `expected` seconds, `spent` of which are over."""
    spent = max(spent, 0.0)  # the clock of another machine may be ahead
    return max(expected - spent, OVERDUE * spent)


class _Costs:
    """What the work of a timeline has cost so far."""

    def __init__(self, timeline: Timeline) -> None:
        self._work = timeline.work
        self._fleets, self._workers = timeline.fleets, timeline.workers
        self.rates: dict[str, float] = {}  # seconds for a unit of work, by phase
        for name in COUNTED:
            seen = [(fleet, phase) for fleet in timeline.fleets if (phase := fleet.phase(name)) and phase.share > 0]
            done = sum(phase.share * self._amount(fleet.runs, name) for fleet, phase in seen)
            if done > 0:
                self.rates[name] = sum(phase.last - phase.began for _, phase in seen) / done
        ready = [fleet for fleet in timeline.fleets if fleet.phases]
        sampled = [fleet for fleet in ready if fleet.phase("sample")]
        trained = sum(len(fleet.runs) for fleet in sampled if fleet.phase("train"))
        # runs that only score the weights of others do not train, so the share that trained counts for those to come
        self._trains = trained / sum(len(fleet.runs) for fleet in sampled) if sampled else 1.0
        before = [(fleet.phases[0].began - fleet.began, len(fleet.runs)) for fleet in ready]
        first, later = before[: timeline.workers], before[timeline.workers :]
        self._first = _mean(first)  # the first fleet of a worker also loads the model
        self._before = _mean(later) if later else AFRESH * self._first
        self._between = _mean(
            (sample.began - train.last, len(fleet.runs))
            for fleet in ready
            if (train := fleet.phase("train")) and (sample := fleet.phase("sample"))
        )
        self._after = _mean(
            (fleet.end - fleet.phases[-1].last, len(fleet.runs)) for fleet in ready if fleet.end is not None
        )

    def _amount(self, runs: Iterable[str], phase: str) -> float:
        return sum(self._work.get(run, {}).get(phase, 0.0) for run in runs)

    def _phase(self, runs: Iterable[str], name: str) -> float:
        """Seconds of a phase of these runs."""
        rate = self.rates.get(name) or max(self.rates.values())
        return rate * self._amount(runs, name)

    def whole(self, runs: list[str]) -> float:
        """Seconds of a fleet of these runs from start to end."""
        overhead = len(runs) * (self._before + self._between + self._after)
        return overhead + self._trains * self._phase(runs, "train") + self._phase(runs, "sample")

    def left(self, fleet: Fleet, now: float) -> float:
        """Seconds until a fleet that is under way ends."""
        runs = [run for run in fleet.runs if run not in fleet.ended]
        latest = fleet.phases[-1] if fleet.phases else None
        if latest is None or latest.name not in COUNTED:
            is_first = fleet in self._fleets[: self._workers]
            to_come = self.whole(runs) + len(runs) * (self._first - self._before) * is_first
            return _still(to_come, now - fleet.began)
        to_come = self._remaining(fleet, latest) + len(runs) * self._after
        if latest.name == "train":
            to_come += len(runs) * self._between + self._phase(runs, "sample")
        return _still(to_come, now - latest.last)

    def _remaining(self, fleet: Fleet, phase: Phase) -> float:
        """Seconds from the latest report of a phase to its end."""
        whole = self._phase(fleet.runs, phase.name)
        if phase.share >= ENOUGH or (phase.share > 0 and not self._known_elsewhere(fleet, phase.name)):
            whole = (phase.last - phase.began) / phase.share
        return whole * (1 - phase.done / phase.total) if phase.total else 0.0

    def _known_elsewhere(self, fleet: Fleet, name: str) -> bool:
        others = (other.phase(name) for other in self._fleets if other is not fleet)
        return any(phase is not None and phase.share >= ENOUGH for phase in others)


def _mean(pairs: Iterable[tuple[float, int]]) -> float:
    """Seconds per run, of pairs of seconds and number of runs; 0 where there is none."""
    listed = list(pairs)
    runs = sum(count for _, count in listed)
    return sum(seconds for seconds, _ in listed) / runs if runs else 0.0
