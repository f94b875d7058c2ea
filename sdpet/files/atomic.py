"""Atomic writing: a file is complete or not there."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def write_atomic(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file atomically: other processes, and a later crash of the machine, see all of it or nothing.

    Parameters
    ----------
    path : Path
    write : callable
        ``write(partial)`` writes the content to a file beside `path`, which is then renamed to `path`.

    Raises
    ------
    OSError
        With the number of a full disk or an exhausted quota where that is the cause, whatever `write` raised.
    """
    write_all_atomic({path: write})


def write_all_atomic(writes: Mapping[Path, Callable[[Path], Any]]) -> None:
    """Write several files that belong together: none is renamed before all of them are on the disk.

    Parameters
    ----------
    writes : mapping of Path to callable
        For each path, what `write_atomic` takes as `write`.

    Raises
    ------
    OSError
        As `write_atomic`.
    """
    partials = {path: path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp") for path in writes}
    path = Path()
    try:
        for path, write in writes.items():
            write(partials[path])
            with partials[path].open("rb+") as file:
                os.fsync(file.fileno())
        for path, partial in partials.items():
            os.replace(partial, path)
    except Exception as error:
        full = no_space(error)
        if full is None and not isinstance(error, OSError) and _is_full(path.parent):
            full = errno.ENOSPC  # torch and safetensors raise exceptions of their own
        if full is not None:
            raise OSError(full, os.strerror(full), str(path)) from error
        raise
    finally:
        for partial in partials.values():
            partial.unlink(missing_ok=True)


def fsync_folder(folder: Path) -> None:
    """Flush all files of a folder to the disk, so that a file written afterwards proves that they are complete."""
    for file in folder.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def no_space(error: BaseException | None) -> int | None:
    """Find out whether a full disk or an exhausted quota caused an error.

    Parameters
    ----------
    error : BaseException or None

    Returns
    -------
    int or None
        The error number (ENOSPC or EDQUOT) of this error or of one that caused it.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return error.errno
        if f"os error {errno.ENOSPC}" in str(error):  # safetensors
            return errno.ENOSPC
        error = error.__cause__ or error.__context__
    return None


def _is_full(folder: Path) -> bool:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize < 1 << 16
