"""The file in a study's folder by which a process tells others what its fleets have done."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from sdpet.files.atomic import write_atomic
from sdpet.files.received import read_json
from sdpet.study.progress.estimate import Fleet, Phase, Timeline

FOLDER = ".progress"


def progress_file(study: Path) -> Path:
    """The file of this process in a study's folder."""
    return study / FOLDER / f"{_machine()}-{os.getpid()}.json"


def _machine() -> str:
    return re.sub(r"[^\w.]", "_", platform.node()) or "machine"


def write_timeline(file: Path, timeline: Timeline, shift: float) -> None:
    """Write a timeline atomically; `shift` turns its times into seconds since the epoch."""
    fleets = [
        {
            "runs": fleet.runs,
            "began": fleet.began + shift,
            "phases": [[p.name, p.began + shift, p.first, p.last + shift, p.done, p.total] for p in fleet.phases],
            "ended": sorted(fleet.ended),
            "end": None if fleet.end is None else fleet.end + shift,
        }
        for fleet in timeline.fleets
    ]
    content = {"format": 1, "began": timeline.began + shift, "workers": timeline.workers, "fleets": fleets}
    text = json.dumps({**content, "work": {run: dict(work) for run, work in timeline.work.items()}})
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, lambda partial: partial.write_text(text, encoding="utf-8"))


def read_timelines(study: Path) -> list[Timeline]:
    """The timelines that processes have written into a study's folder; damaged files are left out."""
    found = []
    for file in sorted((study / FOLDER).glob("*.json")):
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            found.append(_timeline(read_json(file)))
    return found


def _timeline(content: Any) -> Timeline:
    fleets = tuple(
        Fleet(
            tuple(map(str, fleet["runs"])),
            _number(fleet["began"]),
            tuple(
                Phase(str(name), _number(began), int(first), _number(last), int(done), int(total))
                for name, began, first, last, done, total in fleet["phases"]
            ),
            frozenset(map(str, fleet["ended"])),
            None if fleet["end"] is None else _number(fleet["end"]),
        )
        for fleet in content["fleets"]
    )
    work = {
        str(run): {str(phase): _number(amount) for phase, amount in found.items()}
        for run, found in content["work"].items()
    }
    return Timeline(_number(content["began"]), work, min(max(int(content["workers"]), 1), 10_000), fleets)


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value} is no number")
    return number


def remove_dead(study: Path) -> None:
    """Remove the files of processes of this machine that have died."""
    for file in (study / FOLDER).glob(f"{_machine()}-*.json"):
        number = file.stem.rpartition("-")[2]
        if number.isdigit() and not _is_alive(int(number)):
            file.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def epoch_shift() -> float:
    """What turns seconds of the monotonic clock into seconds since the epoch."""
    return time.time() - time.monotonic()
