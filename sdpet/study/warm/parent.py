"""The process that forks workers, and the workers it has forked, as the process sees them that launches a study."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import sdpet

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
CAN_FORK = hasattr(os, "pidfd_open") and hasattr(socket, "send_fds")  # Linux


class WarmParent:
    """A process that has imported what every run needs, and forks workers: one import, and one copy of it in memory."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self.process = start_process("warm", theirs.fileno(), stdin=subprocess.DEVNULL)

    def fork(self, events: int) -> ForkedProcess | None:
        """Have a worker forked that writes its events to a descriptor; None if this process has died."""
        requests, stdin = os.pipe()
        status, end = os.pipe()
        try:
            socket.send_fds(self._socket, [b"f"], [requests, events, end])
        except OSError:
            os.close(stdin)
            os.close(status)
            return None
        finally:
            os.close(requests)
            os.close(end)
        return ForkedProcess(self, stdin, status)

    def close(self) -> None:
        """End the process; its workers have ended, or end when their input does."""
        self._socket.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


_kept: list[WarmParent] | None = None  # the parent of all launches inside `one_warm_parent`, once there is one


@contextmanager
def one_warm_parent() -> Iterator[None]:
    """Let all launches inside the block fork their workers from one process, which imports what they need once."""
    global _kept
    before, _kept = _kept, []
    try:
        yield
    finally:
        for parent in _kept:
            parent.close()
        _kept = before


@contextmanager
def warm_parent() -> Iterator[WarmParent]:
    """The warm parent of a launch: that of `one_warm_parent`, or one that ends with the block."""
    there = [parent for parent in _kept or [] if parent.process.poll() is None]
    parent = there[0] if there else WarmParent()
    if _kept is not None and not there:
        _kept.append(parent)
    try:
        yield parent
    finally:
        if _kept is None:
            parent.close()


class ForkedProcess:
    """A forked worker, with the part of `subprocess.Popen` that is used here."""

    def __init__(self, parent: WarmParent, stdin: int, status: int) -> None:
        self.stdin = os.fdopen(stdin, "wb")
        self._parent, self._status = parent, os.fdopen(status, "rb", buffering=0)
        self._pid: int | None = None
        self._code: int | None = None

    def terminate(self) -> None:
        """Send SIGTERM; a worker that is not forked yet is given up with its parent."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL, else as `terminate`."""
        self._send(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, or minus the signal; subprocess.TimeoutExpired if there is none after `timeout` seconds."""
        if self._code is None:
            until = None if timeout is None else time.monotonic() + timeout
            if self._told(until, timeout) and self._pid is None:
                self._pid = self._number()
            if self._pid is not None:
                self._wait_for_end(until, timeout)
                self._told(until, timeout)
                self._code = self._number()
            if self._code is None:  # the parent could not tell, since it was killed itself
                self._code = self._parent.process.wait(timeout)
            self._status.close()
        return self._code

    def _send(self, number: int) -> None:
        if self._code is not None:
            return
        if self._pid is None and select.select([self._status], [], [], 0)[0]:
            self._pid = self._number()
        if self._pid is None:
            self._parent.process.kill()
            return
        with suppress(ProcessLookupError):
            os.kill(self._pid, number)

    def _told(self, until: float | None, timeout: float | None) -> bool:
        """Wait until the parent has told something, or has died."""
        left = None if until is None else max(0.0, until - time.monotonic())
        if not select.select([self._status], [], [], left)[0]:
            raise subprocess.TimeoutExpired("worker", timeout or 0.0)
        return True

    def _number(self) -> int | None:
        content = self._status.read(4)
        return struct.unpack("i", content)[0] if len(content) == 4 else None

    def _wait_for_end(self, until: float | None, timeout: float | None) -> None:
        assert self._pid is not None
        try:
            handle = os.pidfd_open(self._pid)
        except ProcessLookupError:
            return
        try:
            left = None if until is None else max(0.0, until - time.monotonic())
            if not select.select([handle], [], [], left)[0]:
                raise subprocess.TimeoutExpired("worker", timeout or 0.0)
        finally:
            os.close(handle)


def start_process(*arguments: object, stdin: int, device: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start `python -m sdpet.study.worker_process ARGUMENTS`, which gets the last of them, a descriptor."""
    root = str(Path(sdpet.__file__).parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-m", "sdpet.study.worker_process", *map(str, arguments)],
        stdin=stdin,
        pass_fds=[int(str(arguments[-1]))],
        start_new_session=True,  # only this process receives Ctrl-C; it then stops its workers
        env={**os.environ, "PYTHONPATH": path, **dict.fromkeys(THREADS, "1"), **(device or {})},
    )
