"""Files that are never seen half written."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a file beside `path`, then rename it to `path`: all of it is there or nothing.

    That holds for other processes at any moment, and after a crash of the machine.
    """
    all_at_once({path: write})


def all_at_once(writes: Mapping[Path, Callable[[Path], Any]]) -> None:
    """`atomically` for several files that belong together: none is renamed before all of them are on the disk."""
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
            full = errno.ENOSPC  # torch and safetensors have exceptions of their own
        if full is not None:
            raise OSError(full, os.strerror(full), str(path)) from error
        raise
    finally:
        for partial in partials.values():
            partial.unlink(missing_ok=True)


def settle(folder: Path) -> None:
    """Return when all files of the folder are on the disk, so that what is written after them vouches for them."""
    for file in folder.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def no_space(error: BaseException | None) -> int | None:
    """The error number when this error, or one that it came from, is that of a full disk or an exhausted quota."""
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
