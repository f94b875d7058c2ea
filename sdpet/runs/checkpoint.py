"""Checkpoints of unfinished runs, one file per run, beside the run folders."""

from __future__ import annotations

import functools
import io
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sdpet.files.atomic import write_all_atomic
from sdpet.files.lock import locks_folder, run_lock

LOG = logging.getLogger("sdpet")
SECONDS = 60.0  # default time between checkpoints
SHARE = 0.05  # largest share of a run's time that is spent on checkpoints


def checkpoint_file(run_folder: Path) -> Path:
    """The path of a run's checkpoint, beside the run's folder."""
    return run_folder.parent / ".checkpoints" / f"{run_folder.name}.pt"


def read_checkpoint(run_folder: Path) -> dict[str, Any] | None:
    """The last saved state of a run; None if there is none or the file is damaged."""
    file = checkpoint_file(run_folder)
    if not file.exists():
        return None
    import torch

    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception:  # a damaged file can raise almost anything
        return None


def write_checkpoints(states: Mapping[Path, dict[str, Any]]) -> None:
    """Save the states of a fleet's runs, by run folder.

    All files are renamed into place together, because only runs at the same step can resume as one fleet.
    """
    import torch

    writes = {}
    for run_folder, state in states.items():
        file = checkpoint_file(run_folder)
        file.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()  # in memory, so that a full disk raises OSError from write_bytes
        torch.save(state, content)
        writes[file] = functools.partial(Path.write_bytes, data=content.getbuffer())
    write_all_atomic(writes)


def remove_checkpoint(run_folder: Path) -> None:
    """Delete the checkpoint of a run, if there is one."""
    checkpoint_file(run_folder).unlink(missing_ok=True)


def remove_stale_files(study: Path) -> None:
    """Remove locks and checkpoints of complete runs.

    They remain if a process is killed right after it wrote a record.
    """
    from sdpet.runs.record import Record

    checkpoints = study / ".checkpoints"
    names = {file.name.lstrip(".").split(".")[0] for place in (locks_folder(study / "any"), checkpoints)
             if place.is_dir() for file in place.iterdir()}  # fmt: skip
    for name in names:
        if Record.find(study / name) is not None:
            with run_lock(study / name) as lock:  # releasing the lock also removes its stale files
                for file in checkpoints.glob(f"*{name}.pt*") if lock else ():
                    file.unlink(missing_ok=True)


class CheckpointSaver:
    """Saves the states of a fleet's runs at intervals; `fit_together` calls it as `save`.

    Parameters
    ----------
    folders : list of Path
        Run folder of each member.
    active : callable
        Returns the indices of the members that are still trained.
    seconds : float, optional
        Time between checkpoints, default 60; longer if writing them is slow. 0 saves after every step.
    """

    def __init__(self, folders: list[Path], active: Callable[[], list[int]], seconds: float | None = None) -> None:
        self._folders, self._active = folders, active
        self._seconds = SECONDS if seconds is None else seconds
        self._next = time.monotonic() + self._seconds
        self._warned = False

    def __call__(self, step: int, state: Callable[[int], dict[str, Any]]) -> None:
        begin = time.monotonic()
        if begin < self._next:
            return
        try:
            write_checkpoints({self._folders[i]: state(i) for i in self._active()})
        except OSError as error:  # the previous checkpoint remains, and training can continue
            if not self._warned:
                LOG.warning("no checkpoint could be written (%s: %s)", error.strerror, error.filename)
            self._warned = True
        took = time.monotonic() - begin
        self._next = begin + took + (max(self._seconds, took / SHARE) if self._seconds else 0.0)
