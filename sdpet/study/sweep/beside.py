"""Finished runs of other studies, from which the time of a study is estimated that has none of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sdpet.config import RunConfig
from sdpet.runs.record import Record
from sdpet.runs.stored import untrusted_config
from sdpet.study.forecast import folder_size
from sdpet.study.plan import Job

LOOKED_AT = 12  # runs of a study, spread over it
STUDIES = 20  # latest studies


def measured_beside(folder: Path, jobs: Sequence[Job]) -> tuple[list[tuple[Record, int]], str]:
    """Finished runs of the latest studies beside a study, with its base model and device, for each of its tasks.

    Parameters
    ----------
    folder : Path
        The study's folder.
    jobs : sequence of Job
        Its runs.

    Returns
    -------
    measured : list of (Record, int)
        Records, and the size of their folders in bytes; empty where no study has such runs.
    where : str
        The studies that were used, for the text; the folder of all studies where none was.
    """
    wanted = {(job.config.task.name, *_way(job.config)) for job in jobs}
    found: list[tuple[Record, int]] = []
    used: list[str] = []
    for study in _latest(folder):
        of_study: list[tuple[Any, Record, int]] = []
        runs = sorted(entry.path for entry in os.scandir(study) if entry.is_dir() and not entry.name.startswith("."))
        for path in map(Path, runs[:: max(1, len(runs) // LOOKED_AT)]):
            try:
                record = Record.readable(path)
                if record is None or record.status != "finished":
                    continue
                kind = (record.task["name"], *_way(untrusted_config(path)))
            except ValueError:  # of a later version, or without a config
                continue
            if kind in wanted:
                of_study.append((kind, record, folder_size(path)))
        if of_study:
            wanted -= {kind for kind, _, _ in of_study}
            found += [(record, size) for _, record, size in of_study]
            used.append(str(study))
        if not wanted:
            break
    return found, " and ".join(used) or str(folder.parent)


def _latest(folder: Path) -> list[Path]:
    """The studies beside this one, the one that was changed last first."""
    if not folder.parent.is_dir():
        return []
    places = [Path(entry.path) for entry in os.scandir(folder.parent) if entry.is_dir() and entry.name[0] != "."]
    places = [place for place in places if place != folder]
    return sorted(places, key=lambda place: place.stat().st_mtime, reverse=True)[:STUDIES]


def _way(config: RunConfig) -> tuple[str, str]:
    """What the seconds of a step depend on beside the task: the base model and the device."""
    arguments: Mapping[str, Any] = config.unet.arguments
    return repr(sorted(arguments.items(), key=str)), config.trainer.device.partition(":")[0]
