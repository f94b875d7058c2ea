"""The runs of a study's last request, stored in its `.plan.json`, so that other processes can report progress."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sdpet.files.atomic import write_atomic

if TYPE_CHECKING:
    from sdpet.study.plan import Job

FILE = ".plan.json"


@dataclass(frozen=True)
class Manifest:
    """The last request for runs of a study.

    Attributes
    ----------
    runs : dict of str to str
        Readable name by run_id.
    command : list of str
        The command line.
    asked : float
        Time of the request, in seconds since the epoch.
    confirm : frozenset of str
        Those of the runs that confirm the best on fresh seeds; they are no part of the study otherwise.
    ways : tuple of str
        Ways of computing (keys of trainer, such as precision) that the study compares.
    factors : dict of str to int
        The factors of the study with their number of levels; empty in manifests of older versions.
    """

    runs: dict[str, str]
    command: list[str]
    asked: float
    confirm: frozenset[str] = frozenset()
    ways: tuple[str, ...] = ()
    factors: dict[str, int] = field(default_factory=dict)


def write_manifest(
    folder: Path,
    jobs: Iterable[Job],
    command: Sequence[str],
    confirm: Iterable[Job] = (),
    ways: Sequence[str] = (),
    factors: Mapping[str, int] | None = None,
) -> None:
    """Store the requested runs and the command in the study's folder.

    Parameters
    ----------
    folder : Path
        The study's folder.
    jobs : iterable of Job
        The requested runs.
    command : sequence of str
        The command line.
    confirm : iterable of Job
        Runs that confirm the best on fresh seeds. Those of earlier requests stay noted until the study itself asks for
        them.
    ways : sequence of str
        Ways of computing that the study compares. Those of earlier requests stay.
    factors : mapping, optional
        The factors of the study with their number of levels; None keeps those of the request before.
    """
    runs = {job.folder.name: job.name for job in jobs if job.folder.parent == folder}
    before = read_manifest(folder)
    apart = {run: before.runs[run] for run in before.confirm if run in before.runs} if before else {}
    apart |= {job.folder.name: job.name for job in confirm}
    apart = {run: name for run, name in apart.items() if run not in runs}
    content = {
        "asked": time.time(),
        "command": list(command),
        "runs": runs | apart,
        "confirm": sorted(apart),
        "ways": sorted({*ways, *(before.ways if before else ())}),
        "factors": dict(factors) if factors is not None else before.factors if before else {},
    }
    write_atomic(folder / FILE, lambda file: file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8"))


def read_manifest(folder: Path) -> Manifest | None:
    """Read the manifest of a study; None if there is none or it is damaged."""
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return Manifest(
            dict(content["runs"]),
            list(content["command"]),
            float(content["asked"]),
            frozenset(content.get("confirm", ())),
            tuple(map(str, content.get("ways", ()))),
            {str(name): int(count) for name, count in dict(content.get("factors") or {}).items()},
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
