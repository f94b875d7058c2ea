"""Handle SIGTERM like Ctrl-C, by an exception, so that the process can clean up."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

RESEND_SECONDS = 0.01  # delay before a signal is sent again


def exit_on_sigterm(farewell: str = "") -> None:
    """Raise SystemExit with status 143 on the first SIGTERM, and ignore later ones. Call it in the main thread.

    Python discards an exception that is raised inside a destructor; the signal is then sent again.

    Parameters
    ----------
    farewell : str
        Printed on stderr, if not empty.
    """

    def handle(number: int, frame: Any) -> None:
        signal.signal(number, signal.SIG_IGN)  # do not interrupt the clean-up
        if farewell:
            print(f"\n{farewell}", file=sys.stderr)
        sys.exit(128 + number)

    def resend_discarded(unraisable: Any) -> None:
        if unraisable.exc_type is not SystemExit:
            sys.__unraisablehook__(unraisable)
            return
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        threading.Timer(RESEND_SECONDS, os.kill, (os.getpid(), signal.SIGTERM)).start()

    signal.signal(signal.SIGTERM, handle)
    sys.unraisablehook = resend_discarded
