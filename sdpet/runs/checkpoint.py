"""What unfinished runs leave behind to go on from: one file a run, beside the run folders."""

from __future__ import annotations

import functools
import io
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sdpet.files.atomic import all_at_once
from sdpet.files.lock import claim, claims_folder

SECONDS = 60.0  # between checkpoints, where the config does not say
SHARE = 0.05  # of a run's time that may go into them


def checkpoint_file(run_folder: Path) -> Path:
    return run_folder.parent / ".checkpoints" / f"{run_folder.name}.pt"


def read_checkpoint(run_folder: Path) -> dict[str, Any] | None:
    """The state of the run when it was last kept, or None. A damaged file counts as none."""
    file = checkpoint_file(run_folder)
    if not file.exists():
        return None
    import torch

    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception:  # whatever is wrong with it
        return None


def write_checkpoints(states: Mapping[Path, dict[str, Any]]) -> None:
    """Keep the states of a fleet's runs, by run folder. All at once: only runs that are equally far go on together."""
    import torch

    writes = {}
    for run_folder, state in states.items():
        file = checkpoint_file(run_folder)
        file.parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()  # in memory first: errors of the disk then come as such
        torch.save(state, content)
        writes[file] = functools.partial(Path.write_bytes, data=content.getbuffer())
    all_at_once(writes)


def remove_checkpoint(run_folder: Path) -> None:
    checkpoint_file(run_folder).unlink(missing_ok=True)


def clear_away(study: Path) -> None:
    """Remove claims and checkpoints of complete runs, left by processes that were killed right after the record."""
    from sdpet.runs.record import Record

    kept = study / ".checkpoints"
    names = {file.name.lstrip(".").split(".")[0] for place in (claims_folder(study / "any"), kept) if place.is_dir()
             for file in place.iterdir()}  # fmt: skip
    for name in names:
        if Record.find(study / name) is not None:
            with claim(study / name) as mine:  # and given back at once, with all that is left of it
                for file in kept.glob(f"*{name}.pt*") if mine else ():
                    file.unlink(missing_ok=True)


class Keeper:
    """Keeps the states of a fleet's runs from time to time; given to `fit_together` as `save`.

    seconds: between two times, and longer where writing takes long; 0: after every step.
    """

    def __init__(self, folders: list[Path], aboard: Callable[[], list[int]], seconds: float = SECONDS) -> None:
        self._folders, self._aboard, self._seconds = folders, aboard, seconds
        self._next = time.monotonic() + seconds
        self._full = False

    def __call__(self, step: int, state: Callable[[int], dict[str, Any]]) -> None:
        begin = time.monotonic()
        if begin < self._next:
            return
        try:
            write_checkpoints({self._folders[i]: state(i) for i in self._aboard()})
        except OSError as error:  # the one before is still there, and training can go on without
            if not self._full:
                print(f"note: no checkpoint could be kept ({error.strerror}: {error.filename})", file=sys.stderr)
            self._full = True
        took = time.monotonic() - begin
        self._next = begin + took + (max(self._seconds, took / SHARE) if self._seconds else 0.0)
