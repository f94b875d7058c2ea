"""Handle SIGTERM and SIGHUP like Ctrl-C, by an exception, so that the process can clean up."""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import suppress
from typing import Any

RESEND_SECONDS = 0.01  # delay before a signal is sent again


def exit_on_sigterm(farewell: str = "") -> None:
    """Raise SystemExit on the first SIGTERM (status 143) or SIGHUP (129), and ignore later ones.

    Call it in the main thread. SIGHUP arrives when a terminal is closed. Where it is ignored, as under nohup, it stays
    ignored. Python discards an exception that is raised inside a destructor; the signal is then sent again.

    Parameters
    ----------
    farewell : str
        Printed on stderr, if not empty.
    """

    def handle(number: int, frame: Any) -> None:
        for each in handled:
            signal.signal(each, signal.SIG_IGN)  # do not interrupt the clean-up
        received.append(number)
        if farewell:
            with suppress(OSError, ValueError):  # the terminal may be gone
                print(f"\n{farewell}", file=sys.stderr)
        sys.exit(128 + number)

    def resend_discarded(unraisable: Any) -> None:
        if unraisable.exc_type is not SystemExit:
            sys.__unraisablehook__(unraisable)
            return
        again = received[-1] if received else signal.SIGTERM
        signal.signal(again, lambda number, frame: sys.exit(128 + number))
        threading.Timer(RESEND_SECONDS, os.kill, (os.getpid(), again)).start()

    received: list[int] = []
    handled = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) != signal.SIG_IGN]
    for each in handled:
        signal.signal(each, handle)
    sys.unraisablehook = resend_discarded
