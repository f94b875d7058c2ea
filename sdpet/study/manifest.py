"""The runs of a study's last request, stored in its `.plan.json`, so that other processes can report progress."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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
    """

    runs: dict[str, str]
    command: list[str]
    asked: float


def write_manifest(folder: Path, jobs: Iterable[Job], command: Sequence[str]) -> None:
    """Store the requested runs and the command in the study's folder.

    Parameters
    ----------
    folder : Path
        The study's folder.
    jobs : iterable of Job
        The requested runs.
    command : sequence of str
        The command line.
    """
    content = {
        "asked": time.time(),
        "command": list(command),
        "runs": {job.folder.name: job.name for job in jobs if job.folder.parent == folder},
    }
    write_atomic(folder / FILE, lambda file: file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8"))


def read_manifest(folder: Path) -> Manifest | None:
    """Read the manifest of a study; None if there is none or it is damaged."""
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return Manifest(dict(content["runs"]), list(content["command"]), float(content["asked"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
