"""The time left of a study, on recorded and on made-up timelines.

The recorded one, tests/data/timelines/smoke_fleets.json, is the lab on two cores:
`python train.py -m +sweeps=smoke 'seed=range(4)' hydra/launcher=fleet hydra.launcher.size=3 hydra.launcher.workers=2
trainer.steps=120 sampler.steps=20`, its events as `Tracker` receives them, in seconds from the first.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from fake_study import write_study

from sdpet.files import run_lock
from sdpet.study import status_text, study_status
from sdpet.study.manifest import FILE
from sdpet.study.progress import Event, Timeline, time_left, timeline_of
from sdpet.study.progress.files import progress_file, write_timeline

MOMENT = 3.0  # seconds by which an estimate may be wrong in any case
RECORDED = Path(__file__).parent.parent / "data" / "timelines"


def recorded(name):
    stored = json.loads((RECORDED / name).read_text())
    events = [Event(when, tuple(runs), phase, done, total) for when, runs, phase, done, total in stored["events"]]
    return events, stored["work"], stored["workers"]


def made_up(fleets, workers, size, train=(100, 2.0), sample=(40, 3.0), before=5.0, after=10.0, work=(1.0, 0.2)):
    """Events of a study whose fleets each take the same; a worker's first one loads for 30 s more."""
    events, free = [], [0.0] * workers
    names = [tuple(f"{fleet}.{i}" for i in range(size)) for fleet in range(fleets)]
    for number, runs in enumerate(names):
        worker = free.index(min(free))
        now = free[worker]
        events.append(Event(now, runs, "start"))
        now += before + 30.0 * (number < workers)
        for phase, (steps, seconds) in (("train", train), ("sample", sample)):
            for step in range(1, steps + 1):
                now += seconds
                events.append(Event(now, runs, phase, step, steps))
        now += after
        events += [Event(now + 0.01 * i, (run,), "end") for i, run in enumerate(runs)]
        free[worker] = now
    return sorted(events), {run: {"train": work[0], "sample": work[1]} for runs in names for run in runs}, workers


def errors(events, work, workers):
    """Relative errors of the estimate, beyond a MOMENT, at a hundred times from a fifth of the study to its end.

    It begins later if no fleet has done ten steps by then: the recorded study takes 23 % of its time to load.
    """
    first, last = events[0].time, events[-1].time
    known = next(event.time for event in events if event.done >= 10)
    begin, end = max(0.2, (known - first) / (last - first)), 1 - MOMENT / (last - first)
    found = []
    for i in range(101):
        now = first + (last - first) * (begin + (end - begin) * i / 100)
        timeline = timeline_of([event for event in events if event.time <= now], work, workers)
        left = time_left(timeline, now)
        assert left is not None
        found.append(max(abs(left - (last - now)) - MOMENT, 0.0) / (last - now))
    return found


@pytest.mark.parametrize(
    "timeline",
    [
        recorded("smoke_fleets.json"),
        made_up(8, 1, 6),
        made_up(8, 2, 24),
        made_up(8, 1, 2, train=(0, 0.0), before=1.0),  # runs that only score the weights of others
        made_up(7, 2, 1),  # the last one runs alone
        made_up(6, 2, 3, sample=(40, 12.0), work=(1.0, 0.2)),  # sampling costs twelve times what its work says
    ],
    ids=["recorded", "one worker", "fleets of 24", "scoring alone", "single runs", "sampling is dear"],
)
def test_after_the_first_fifth_it_is_within_30_percent(timeline):
    found = errors(*timeline)
    assert max(found) < 0.3, f"{max(found):.0%} at {found.index(max(found))} % of the time looked at"


def test_nothing_is_said_before_anything_is_known():
    start = Timeline(0.0, {"a": {"train": 1.0}, "b": {"train": 1.0}})
    assert time_left(start, 20.0) is None
    begun = start.after(Event(0.0, ("a",), "start"))
    assert time_left(begun, 39.0) is None and time_left(begun.after(Event(40.0, ("a",), "train", 1, 9)), 40.0) is None


def test_it_counts_on_between_events_and_is_never_over_before_the_end():
    events, work, workers = made_up(3, 1, 6)
    for count in range(60, len(events) - 10, 7):
        timeline = timeline_of(events[:count], work, workers)
        now = events[count - 1].time
        if events[count - 1].phase == "end":  # the other runs of the fleet end at once
            continue
        left = [time_left(timeline, now + second) for second in range(5)]
        assert left == pytest.approx([left[0] - second for second in range(5)], abs=0.5)
        late = [time_left(timeline, now + second) for second in (5e3, 6e3)]
        assert 0 < late[0] < late[1], "what is overdue needs more time the longer it takes"


def test_a_fleet_that_is_halved_begins_again_and_what_others_do_is_still_to_come():
    runs = ("a", "b", "c", "d")
    work = {run: {"train": 1.0, "sample": 0.0} for run in runs}
    events = [Event(0, runs, "start"), Event(10, runs, "train", 1, 11), Event(60, runs, "train", 6, 11)]
    half = timeline_of([*events, Event(60, ("a", "b"), "start"), Event(70, ("a", "b"), "train", 1, 11)], work)
    half = half.after(Event(95, ("a", "b"), "train", 6, 11))
    assert half.waiting == ["c", "d"] and time_left(half, 95.0) == pytest.approx(25 + 55 + 1)
    left = timeline_of([*events, Event(60, ("d",), "leave")], work)
    assert left.waiting == ["d"] and len(left.under_way[0].runs) == 3


def test_the_status_has_the_estimate_of_a_process_that_trains(tmp_path):
    """One fleet of two has ended in an instant's distance, one of two trains, and two runs wait."""
    study = write_study(tmp_path / "s", ["attn2o-ffni", "ffni-ffni"], [0], samples=0)
    ended = sorted(path.parent.name for path in study.glob("*/record.json"))
    trained, waiting = ["1" * 12, "2" * 12], ["3" * 12, "4" * 12]
    runs = [*ended, *trained, *waiting]
    (study / FILE).write_text(json.dumps({"asked": 0.0, "command": ["train.py"], "runs": {run: run for run in runs}}))
    now = time.time()
    for i, run in enumerate(ended):
        os.utime(study / run / "record.json", (now - 300 + 0.01 * i, now - 300 + 0.01 * i))
    events = [Event(now - 1500, tuple(ended), "start"), Event(now - 1490, tuple(ended), "train", 1, 101)]
    events += [Event(now - 490, tuple(ended), "train", 101, 101), Event(now - 300, tuple(ended), "end")]
    events += [Event(now - 300, tuple(trained), "start"), Event(now - 300, tuple(trained), "train", 1, 101)]
    events += [Event(now, tuple(trained), "train", 31, 101)]
    write_timeline(progress_file(study), timeline_of(events, {run: {"train": 1.0} for run in runs}), 0.0)
    with run_lock(study / trained[0]), run_lock(study / trained[1]):
        left = study_status(study).seconds_left
        assert left == pytest.approx(700 + 190 + 1000 + 190, rel=0.05)
        assert "left      about 35 min, judging by what is done" in status_text(study_status(study))
        progress_file(study).write_text("{")
        assert study_status(study).seconds_left is None, "a damaged file tells nothing"
    text = status_text(study_status(study))
    assert "left      " not in text, "one fleet has ended, and its runs in one instant: that is no rate"
