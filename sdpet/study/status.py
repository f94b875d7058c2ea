"""The status of a study, read from its folder: which runs are complete, running, failed or waiting, and the rate."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shlex
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from sdpet.files.lock import STALE, locks_folder, machine
from sdpet.files.terminal import counted, printable
from sdpet.runs.record import FILE, STATUSES
from sdpet.runs.verify import problems_of
from sdpet.study.manifest import read_manifest
from sdpet.study.progress import Event, Fleet, Timeline, read_timelines, time_left
from sdpet.study.report import duration

RECENT = 50  # number of latest runs from which the rate is computed
PAUSE = 10.0  # a gap longer than this many median gaps is a pause of the study and not part of its rate
MOST_CHECKED = 1000  # runs of a study whose files are compared with their digests
TOGETHER = 1.0  # runs that end within so many seconds of each other belong to a fleet
RACE = ".race.json"
SHOWN = 3  # number of runs that are named for each reason
HEAD = re.compile(rb'\{\s*"format": 1,\s*"run_id": "[^"\\]*",\s*"study": "(?:[^"\\]|\\.)*",\s*"status": "(\w+)"')
REASON = re.compile(rb'\n "reason": (null|"(?:[^"\\]|\\.)*"),')


@dataclass
class Ended:
    """A run with a record, which was written at `when` (seconds since the epoch)."""

    status: str
    reason: str | None
    when: float


@dataclass
class Status:
    """The status of a study.

    Attributes
    ----------
    folder : Path
        The study's folder.
    asked : dict of str to str, or None
        Names of the requested runs by run_id; None if no request was stored.
    command : list of str
        The command line of the last request.
    ended : dict of str to Ended
        Runs with a record, by run_id.
    running : list of str
        Runs that a process is working on.
    stale : list of str
        Runs that a process has left without a record.
    seconds_a_run : float, optional
        Seconds between two records of the study; None if unknown.
    factors : dict of str to int
        The factors of the last request, with their number of levels.
    seconds_left : float, optional
        Seconds until all runs have ended, by what the processes that are working on it have reported; None if unknown.
    race : list of str
        Lines on where a race stands.
    """

    folder: Path
    asked: dict[str, str] | None
    command: list[str]
    ended: dict[str, Ended]
    running: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    seconds_a_run: float | None = None
    seconds_left: float | None = None
    problems: list[str] = field(default_factory=list)
    race: list[str] = field(default_factory=list)
    factors: dict[str, int] = field(default_factory=dict)

    @property
    def runs(self) -> list[str]:
        """The requested runs; if no request was stored, all runs in the folder."""
        return list(self.asked) if self.asked is not None else sorted({*self.ended, *self.running, *self.stale})

    def having(self, status: str) -> list[str]:
        """The runs whose record has this status."""
        return [run for run in self.runs if run in self.ended and self.ended[run].status == status]

    @property
    def waiting(self) -> list[str]:
        """The runs that have no record and that no process is working on."""
        return [run for run in self.runs if run not in self.ended and run not in self.running]


def study_status(folder: Path, check_files: bool = True) -> Status:
    """Read the status of a study.

    Parameters
    ----------
    folder : Path
        The study's folder.
    check_files : bool
        Whether to compare the files of the runs with their digests as well.

    Returns
    -------
    Status
        The status; the study may be running.

    Raises
    ------
    ValueError
        The folder does not exist, or there is no study in it.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}; give a study's folder, such as outputs/placement.")
    manifest = read_manifest(folder)
    ended = _ended(folder)
    status = Status(folder, manifest.runs if manifest else None, manifest.command if manifest else [], ended)
    status.factors = manifest.factors if manifest else {}
    status.problems = problems_of(folder) if check_files and len(ended) <= MOST_CHECKED else []
    for run, alive in _claims(folder).items():
        if alive:
            status.running.append(run)
        elif run not in status.ended:
            status.stale.append(run)
    if not status.runs and not status.problems:
        raise ValueError(f"{folder} holds no run and no plan of one; give a study's folder, such as outputs/placement.")
    status.race = _race_lines(folder)
    status.seconds_a_run = _pace([status.ended[run].when for run in status.runs if run in status.ended])
    status.seconds_left = _reported_left(status, read_timelines(folder), time.time())
    return status


def _reported_left(status: Status, reported: Sequence[Timeline], now: float) -> float | None:
    """The time left by the timelines that processes have written; None if none of them tells enough.

    A file lags behind by some seconds, or its process has died, so records and locks say which runs are under way.
    """
    running, asked = set(status.running), set(status.runs)
    fleets: list[Fleet] = []
    work: dict[str, Mapping[str, float]] = {}
    workers = 0
    for timeline in reported:
        live = [fleet for fleet in timeline.under_way if running.intersection(fleet.runs)]
        workers += timeline.workers if live else 0
        fleets += [fleet for fleet in timeline.fleets if fleet.end is not None or fleet in live]
        work |= timeline.work
    if not workers:
        return None
    names = asked.union(*(fleet.runs for fleet in fleets))
    mean = {name: statistics.fmean(found.get(name, 0.0) for found in work.values()) for name in ("train", "sample")}
    began = min(fleet.began for fleet in fleets)
    joined = Timeline(began, {run: work.get(run, mean) for run in sorted(names)}, workers, tuple(fleets))
    for run in sorted(names & set(status.ended) - joined.ended):
        joined = joined.after(Event(status.ended[run].when, (run,), "end"))
    return time_left(joined, now)


def _race_lines(folder: Path) -> list[str]:
    """What `.race.json` says of itself, so that a status needs no statistics; nothing where it is absent or damaged."""
    try:
        said = json.loads((folder / RACE).read_text(encoding="utf-8"))["said"]
        return [line for line in said if isinstance(line, str)]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _ended(folder: Path) -> dict[str, Ended]:
    found = {}
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if not entry.name.startswith(".")]
    for name in names:
        path = f"{folder}/{name}/{FILE}"
        try:
            with open(path, "rb") as file:
                content, when = file.read(), os.fstat(file.fileno()).st_mtime
        except OSError:
            continue  # a file, or the folder of an unfinished run
        ended = _end_of(content, when)
        if ended is not None:
            found[name] = ended
    return found


def _end_of(content: bytes, when: float) -> Ended | None:
    """Status and reason of a record, read without parsing the rest if sdpet wrote it; None for a damaged one."""
    head, reason = HEAD.match(content), REASON.search(content)
    if head and reason and content.endswith(b"}\n"):
        return Ended(head[1].decode(), json.loads(reason[1]), when)
    try:
        record = json.loads(content)
        status = record["status"]
    except (ValueError, KeyError, TypeError):
        return None
    return Ended(status, record.get("reason"), when) if status in STATUSES else None


def _claims(folder: Path) -> dict[str, bool]:
    """Runs with a lock or lease, by run_id, and whether its owner seems to be alive."""
    alive: dict[str, bool] = {}
    place = locks_folder(folder / "run")
    try:
        names = os.listdir(place)
    except OSError:
        return alive
    for name in names:
        run, _, number = name.partition(".")
        alive[run] = alive.get(run, False) or (_lease_is_alive(place / name) if number else _is_locked(place / name))
    return alive


def _is_locked(path: Path) -> bool:
    """Whether a process holds the lock; this takes a shared lock for a moment."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except OSError as error:
        return error.errno in (errno.EWOULDBLOCK, errno.EACCES)
    finally:
        os.close(descriptor)


def _lease_is_alive(path: Path) -> bool:
    """Whether a lease of another machine was renewed recently; for owners on this machine the lock is decisive."""
    try:
        age = abs(time.time() - path.stat().st_mtime)  # a clock may have been set back
        return path.read_text(errors="replace") != machine() and age < 2 * STALE
    except OSError:
        return False


def _pace(ends: Sequence[float]) -> float | None:
    """Mean seconds from one end of a run to the next over the latest runs, without pauses.

    Runs of a fleet end together, within about a second, and count as one end of several runs. One fleet tells nothing.
    """
    latest = sorted(ends)[-RECENT:]
    bunches: list[list[float]] = []  # runs that ended together
    for end in latest:
        if bunches and end - bunches[-1][-1] <= TOGETHER:
            bunches[-1].append(end)
        else:
            bunches.append([end])
    gaps = [(b[-1] - a[-1], len(b)) for a, b in pairwise(bunches)]
    if not gaps:
        return None
    usual = statistics.median(gap for gap, _ in gaps)
    kept = [(gap, runs) for gap, runs in gaps if gap <= PAUSE * usual]
    return sum(gap for gap, _ in kept) / sum(runs for _, runs in kept)


def status_text(status: Status) -> str:
    """The text that `python -m sdpet.study status` prints."""
    runs, names = status.runs, status.asked or {}
    ended = sum(run in status.ended for run in runs)
    counts = [(len(status.having(name)), name) for name in STATUSES]
    under_way = sum(run in status.running for run in runs)
    counts += [(under_way, "under way"), (len(status.waiting), "waiting")]
    summary = ", ".join(f"{count} {name}" for count, name in counts if count)
    share = ended / len(runs) if runs else 0.0
    lines = [f"{status.folder}: {ended} of {counted(len(runs), 'run')} ({share:.0%}): {summary}"]
    if status.asked is None:
        with_record = f"{counted(ended, 'run')} with a record"
        lines[0] = f"{status.folder}: {with_record}: {summary} (the number planned was not stored)"
    if status.factors:
        lines.append(f"  factors   {', '.join(f'{name} ({count})' for name, count in status.factors.items())}")
    left = len(runs) - ended
    if left and status.seconds_left is not None:
        lines.append(f"  left      about {duration(status.seconds_left)}, judging by what is done of all runs")
    elif left and status.seconds_a_run:
        pace = f"one run every {duration(status.seconds_a_run)}, judging by the latest runs"
        if under_way:
            lines.append(f"  left      about {duration(left * status.seconds_a_run)}: {pace}")
        else:
            lines.append(f"  left      about {duration(left * status.seconds_a_run)} once it is resumed: {pace}")
    for name in ("diverged", "failed"):
        reasons = Counter(status.ended[run].reason or "no reason" for run in status.having(name))
        for reason, count in reasons.most_common():
            which = [run for run in status.having(name) if (status.ended[run].reason or "no reason") == reason]
            shown = ", ".join(printable(f"{names.get(run, '')} [{run}]".strip()) for run in which[:SHOWN])
            more = f" and {count - SHOWN} more" if count > SHOWN else ""
            lines.append(f"  {name:<9} {count}: {printable(reason)}  ({shown}{more})")
    stale = [run for run in status.stale if run in set(runs)]
    if stale:
        text = "run was" if len(stale) == 1 else "runs were"
        lines.append(f"  stopped   {len(stale)} {text} left by a process that died; the same command resumes them")
    if status.problems:
        lines.append(f"  changed   {len(status.problems)}: {'; '.join(map(printable, status.problems[:SHOWN]))}")
        lines.append(f"            all of them: python -m sdpet.study verify {shlex.quote(str(status.folder))}")
    elif len(status.ended) > MOST_CHECKED:
        lines.append(f"  unchecked more than {MOST_CHECKED} runs: python -m sdpet.study verify checks their files")
    others = len(set(status.ended) - set(runs))
    if others:
        lines.append(f"  also      {counted(others, 'run')} of earlier requests")
    lines += status.race
    if left and not under_way and status.command:
        lines.append(f"  next      no process is working on it; resume with: python {shlex.join(status.command)}")
    elif not left and not status.having("failed"):
        lines.append(f"  next      python -m analysis {status.folder}")
    return "\n".join(lines)
