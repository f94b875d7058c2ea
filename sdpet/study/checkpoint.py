"""What unfinished runs leave behind to go on from: one file a run, beside the run folders."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sdpet.files import atomically

SECONDS = 60.0  # between checkpoints, at least
SHARE = 0.05  # of the time spent on writing them, at most: the weights of a whole UNet are large


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


def write_checkpoint(run_folder: Path, state: dict[str, Any]) -> None:
    import torch

    file = checkpoint_file(run_folder)
    file.parent.mkdir(parents=True, exist_ok=True)
    atomically(file, lambda partial: torch.save(state, partial))


def remove_checkpoint(run_folder: Path) -> None:
    checkpoint_file(run_folder).unlink(missing_ok=True)


class Keeper:
    """Keeps the states of a fleet's runs from time to time; given to `fit_together` as `save`."""

    def __init__(self, folders: list[Path], aboard: Callable[[], list[int]]) -> None:
        self._folders, self._aboard = folders, aboard
        self._last, self._wait = time.monotonic(), SECONDS

    def __call__(self, step: int, state: Callable[[int], dict[str, Any]]) -> None:
        began = time.monotonic()
        if began - self._last < self._wait:
            return
        try:
            for i in self._aboard():
                write_checkpoint(self._folders[i], state(i))
        except OSError as error:  # a full disk must not end the training
            warnings.warn(f"no checkpoint was written ({error}); the run goes on without.", stacklevel=2)
        self._last = time.monotonic()
        self._wait = max(SECONDS, (self._last - began) / SHARE)
