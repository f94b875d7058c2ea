"""Import what every run needs once, and fork worker processes from there."""

from __future__ import annotations

import atexit
import gc
import os
import selectors
import signal
import socket
import struct
import sys
from contextlib import suppress

from sdpet.runs.libraries import import_libraries, quick_imports, silence_libraries


def fork_on_request(descriptor: int) -> int | None:
    """Fork workers until the other end of the socket is closed.

    Returns
    -------
    int or None
        In a forked worker, the descriptor for its events, and its requests are standard input. None in this process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    silence_libraries()
    import_libraries()
    with quick_imports():
        import open_clip  # noqa: F401 (which most scorers need)

    gc.freeze()  # a collection would otherwise copy all pages that the workers share
    atexit.register(gc.unfreeze)  # else libraries complain at the exit of what was not freed
    ends: dict[int, tuple[int, int]] = {}  # by pidfd of a worker: its pid, and where its exit status goes
    with socket.socket(fileno=descriptor) as asked, selectors.DefaultSelector() as selector:
        selector.register(asked, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd != asked.fileno():
                    _tell_end(*ends.pop(key.fd))
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    continue
                content, given, *_ = socket.recv_fds(asked, 1, 3)
                if not content:
                    return None
                requests, events, end = given
                pid = os.fork()
                if pid == 0:
                    for other in (*ends, *(place for _, place in ends.values()), end):
                        os.close(other)
                    os.setsid()  # only the parent of all receives Ctrl-C; it then stops its workers
                    os.dup2(requests, 0)
                    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 (stays open)
                    return events
                os.close(requests)
                os.close(events)
                with suppress(BrokenPipeError):
                    os.write(end, struct.pack("i", pid))
                handle = os.pidfd_open(pid)
                ends[handle] = (pid, end)
                selector.register(handle, selectors.EVENT_READ)


def _tell_end(pid: int, end: int) -> None:
    """Write the exit status of a worker that has ended."""
    _, status = os.waitpid(pid, 0)
    with suppress(BrokenPipeError):
        os.write(end, struct.pack("i", os.waitstatus_to_exitcode(status)))
    os.close(end)
