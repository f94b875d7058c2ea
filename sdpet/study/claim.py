"""A run belongs to one process at a time: an flock-ed file, which the system frees when its owner dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def claims_folder(run_folder: Path) -> Path:
    return run_folder.parent / ".claims"


@contextmanager
def claim(run_folder: Path) -> Iterator[bool]:
    """Hold the run for the duration of the block; gives False at once when another process holds it.

    The lock file lies beside the run folder, so the folder may be emptied and made anew by its owner.
    """
    path = claims_folder(run_folder) / run_folder.name
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _lock(path)
    if descriptor is None:
        yield False
        return
    try:
        yield True
    finally:
        path.unlink(missing_ok=True)  # while still locked: whoever opened this file meanwhile sees that it is gone
        os.close(descriptor)


def _lock(path: Path) -> int | None:
    """An open, locked descriptor of `path`, or None when another process has it."""
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return None
        try:
            same = os.stat(path).st_ino == os.fstat(descriptor).st_ino
        except FileNotFoundError:
            same = False
        if same:
            return descriptor
        os.close(descriptor)  # the former owner removed the file between our open and our lock
