"""A run belongs to one process at a time, also where several machines share its folder; the dead own nothing.

Two layers. A lock (flock) on a file, which the system frees when its owner dies: enough on one machine, and on network
file systems that carry locks. Not all do, and some keep a lock to the machine that took it. So the owner also holds a
lease: a file beside the lock whose time stamp it changes every BEAT seconds. Who has the lock, but finds a lease of
another machine, watches it: when it has not changed for STALE seconds, as measured by the watcher's own monotonic
clock, its owner is dead. No two clocks are ever compared, so one that is wrong or jumps does no harm.

Leases of a run are numbered. To take over from a dead owner is to create the next number (O_EXCL: one process can), and
the highest number owns. An owner that was asleep for long sees so (`Claim.holds`) before it writes its record.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

BEAT = 5.0  # seconds between signs of life
STALE = 60.0  # seconds without one after which an owner on another machine counts as dead
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # what file systems without them say


def claims_folder(run_folder: Path) -> Path:
    return run_folder.parent / ".claims"


class Claim:
    """What the owner of a run holds: true, as long as nobody had reason to think it dead."""

    def __init__(self, lease: Path) -> None:
        self._lease = lease

    def holds(self) -> bool:
        """Is the run still ours? No, when we were without a sign of life for so long that another process took it."""
        return self._lease.exists() and _latest(self._lease.with_suffix("")) == self._lease


@contextmanager
def claim(run_folder: Path) -> Iterator[Claim | None]:
    """Hold the run for the duration of the block; gives None at once when another process holds it, or may do so.

    The files lie beside the run folder, so the folder may be emptied and made anew by its owner. A lease that seems
    dead is taken over by a later call: ask again from time to time.
    """
    path = claims_folder(run_folder) / run_folder.name
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _lock(path)
    if descriptor is None:
        yield None
        return
    lease = None
    try:
        lease = _take_lease(path, locks=descriptor >= 0)
        if lease is not None:
            _HEART.keep(lease)
        yield None if lease is None else Claim(lease)
    finally:
        if lease is not None:
            _HEART.drop(lease)
            lease.unlink(missing_ok=True)
        if descriptor >= 0:
            path.unlink(missing_ok=True)  # while still locked: whoever opened it meanwhile sees that it is gone
            os.close(descriptor)


def _lock(path: Path) -> int | None:
    """An open, locked descriptor of `path`; -1 where the file system has no locks; None when another process has it."""
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            return -1 if error.errno in NO_LOCKS else None
        try:
            same = os.stat(path).st_ino == os.fstat(descriptor).st_ino
        except FileNotFoundError:
            same = False
        if same:
            return descriptor
        os.close(descriptor)  # the former owner removed the file between our open and our lock


def _take_lease(path: Path, locks: bool) -> Path | None:
    """A new lease of the run, ours; None while that of another process may be alive."""
    last = _latest(path)
    number = 0
    if last is not None:
        number = int(last.suffix[1:]) + 1
        owner, stamp = _read(last)
        if not (locks and owner == machine()):  # on this machine the lock is proof that the owner is dead
            first = _SEEN.setdefault(str(last), (stamp, time.monotonic()))
            if first[0] != stamp:
                _SEEN[str(last)] = (stamp, time.monotonic())
                return None
            if time.monotonic() - first[1] < STALE:
                return None
    lease = path.with_name(f"{path.name}.{number}")
    try:
        descriptor = os.open(lease, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return None  # another process was quicker
    try:
        os.write(descriptor, machine().encode())
    except OSError:
        lease.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    if _latest(path) != lease:
        lease.unlink(missing_ok=True)
        return None
    for old in _leases(path):
        if old != lease:
            _SEEN.pop(str(old), None)
            old.unlink(missing_ok=True)
    return lease


_SEEN: dict[str, tuple[int, float]] = {}  # lease of another: its time stamp, and when (monotonic) we first saw it


def _leases(path: Path) -> list[Path]:
    found = [lease for lease in path.parent.glob(f"{path.name}.*") if lease.suffix[1:].isdigit()]
    return sorted(found, key=lambda lease: int(lease.suffix[1:]))


def _latest(path: Path) -> Path | None:
    return next(reversed(_leases(path)), None)


def _read(lease: Path) -> tuple[str, int]:
    """Owner's machine and time stamp; the stamp is only ever compared for equality. Opened, as NFS then asks anew."""
    try:
        with lease.open(encoding="utf-8", errors="replace") as file:
            return file.read(), os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return "", -1  # just given back: watched like any other, and gone at the next look


@cache
def machine() -> str:
    """This machine since it was booted, and the container in it: what shares locks for sure."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    return f"{platform.node()} {boot}"


class Heart:
    """One thread a process that gives a sign of life for all its leases. Changing a time stamp needs no disk space."""

    def __init__(self) -> None:
        self._leases: set[Path] = set()
        self._pid = 0

    def keep(self, lease: Path) -> None:
        self._leases.add(lease)
        if self._pid != os.getpid():  # the first, or in a forked process, which has no threads
            self._pid, self._leases = os.getpid(), {lease}
            threading.Thread(target=self._beat, daemon=True, name="claims").start()

    def drop(self, lease: Path) -> None:
        self._leases.discard(lease)

    def _beat(self) -> None:
        while True:
            time.sleep(BEAT)
            for lease in list(self._leases):
                with suppress(OSError):
                    os.utime(lease)


_HEART = Heart()
