"""Locks on runs: one process at a time owns a run, also where several machines share its folder.

There are two layers. The first is a lock (flock) on a file, which the system frees when its owner dies. It is enough on
one machine, and on network file systems that support locks. Not all do, and some keep a lock local to the machine that
took it. So the owner also has a lease: a file beside the lock whose time stamp it changes every INTERVAL seconds. A
process that has the lock but finds another machine's lease polls that lease's time stamp. When it has not changed for
STALE seconds of the poller's own monotonic clock, its owner counts as dead. Clocks of two machines are never compared,
so one that is wrong or jumps does no harm.

Leases of a run are numbered. A process takes over from a dead owner by creating the next number (with O_EXCL, so only
one process can), and the highest number owns the run. An owner that was suspended for long notices the takeover
(`RunLock.is_held`) before it writes its record.
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

INTERVAL = 5.0  # seconds between two heartbeats
STALE = 60.0  # seconds without a heartbeat after which an owner on another machine counts as dead
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # errors of file systems without locks


def locks_folder(run_folder: Path) -> Path:
    """The folder of a run's lock and leases. Its name is fixed, as processes of older versions use it, too."""
    return run_folder.parent / ".claims"


class RunLock:
    """The lock of a run. It is valid until another process has taken over a stale lease."""

    def __init__(self, lease: Path) -> None:
        self._lease = lease

    def is_held(self) -> bool:
        """Whether this process still owns the run: False if its lease expired and another process took over."""
        return self._lease.exists() and _latest(self._lease.with_suffix("")) == self._lease


@contextmanager
def run_lock(run_folder: Path) -> Iterator[RunLock | None]:
    """Lock a run for the duration of the block, without waiting.

    Lock and lease lie beside the run folder, so its owner may empty and recreate the folder. A lease whose owner seems
    dead is taken over by a later call, so retry from time to time.

    Parameters
    ----------
    run_folder : Path

    Yields
    ------
    RunLock or None
        None if another process owns the run, or may own it.
    """
    path = locks_folder(run_folder) / run_folder.name
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _lock(path)
    if descriptor is None:
        yield None
        return
    lease = None
    try:
        lease = _take_lease(path, locks=descriptor >= 0)
        if lease is not None:
            _HEARTBEAT.keep(lease)
        yield None if lease is None else RunLock(lease)
    finally:
        if lease is not None:
            _HEARTBEAT.drop(lease)
            lease.unlink(missing_ok=True)
        if descriptor >= 0:
            path.unlink(missing_ok=True)  # while still locked: whoever opened it meanwhile sees that it is gone
            os.close(descriptor)


def _lock(path: Path) -> int | None:
    """A locked descriptor of `path`; -1 if the file system has no locks; None if another process has the lock."""
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
    """A new lease of the run for this process; None while the owner of an older one may be alive."""
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
        return None  # another process was faster
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


_SEEN: dict[str, tuple[int, float]] = {}  # others' leases: time stamp, and monotonic time when it was first seen


def _leases(path: Path) -> list[Path]:
    found = [lease for lease in path.parent.glob(f"{path.name}.*") if lease.suffix[1:].isdigit()]
    return sorted(found, key=lambda lease: int(lease.suffix[1:]))


def _latest(path: Path) -> Path | None:
    return next(reversed(_leases(path)), None)


def _read(lease: Path) -> tuple[str, int]:
    """Owner's machine and time stamp, which is compared for equality only. Opening makes NFS ask the server again."""
    try:
        with lease.open(encoding="utf-8", errors="replace") as file:
            return file.read(), os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return "", -1  # released just now; it is polled like any other, and gone the next time


@cache
def machine() -> str:
    """Host name and boot id: processes with equal values are certain to see each other's locks."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    return f"{platform.node()} {boot}"


class Heartbeat:
    """A thread that renews all leases of this process. Changing a time stamp needs no disk space."""

    def __init__(self) -> None:
        self._leases: set[Path] = set()
        self._pid = 0

    def keep(self, lease: Path) -> None:
        self._leases.add(lease)
        if self._pid != os.getpid():  # the first lease, or a forked process, which has no threads
            self._pid, self._leases = os.getpid(), {lease}
            threading.Thread(target=self._beat, daemon=True, name="claims").start()

    def drop(self, lease: Path) -> None:
        self._leases.discard(lease)

    def _beat(self) -> None:
        while True:
            time.sleep(INTERVAL)
            for lease in list(self._leases):
                with suppress(OSError):
                    os.utime(lease)


_HEARTBEAT = Heartbeat()
