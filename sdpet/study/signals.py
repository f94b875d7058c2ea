"""SIGTERM ends a process as Ctrl-C does, by an exception, so that what is under way is cleared away."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

AGAIN = 0.01  # seconds


def exit_on_sigterm(farewell: str = "") -> None:
    """From now on SIGTERM prints `farewell` on stderr, if any, and raises SystemExit with status 143; once.

    An exception that strikes inside a destructor is swallowed by Python; the signal is then sent again. Call it in the
    main thread.
    """

    def leave(number: int, frame: Any) -> None:
        signal.signal(number, signal.SIG_IGN)  # once is enough: runs under way are being cleared away
        if farewell:
            print(f"\n{farewell}", file=sys.stderr)
        sys.exit(128 + number)

    def swallowed(unraisable: Any) -> None:
        if unraisable.exc_type is not SystemExit:
            sys.__unraisablehook__(unraisable)
            return
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        threading.Timer(AGAIN, os.kill, (os.getpid(), signal.SIGTERM)).start()

    signal.signal(signal.SIGTERM, leave)
    sys.unraisablehook = swallowed
