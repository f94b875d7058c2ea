"""Call a function every second, so that a clock on the screen goes on while nothing is reported."""

from __future__ import annotations

import threading
from collections.abc import Callable

EVERY = 1.0  # seconds


class Ticker:
    """A thread that calls `tick` every second until it is closed.

    Parameters
    ----------
    tick : callable
        Must be safe to call from another thread.
    """

    def __init__(self, tick: Callable[[], None]) -> None:
        self._tick, self._over = tick, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="ticker")
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(EVERY):
            self._tick()

    def close(self) -> None:
        """Stop the thread; `tick` is not called after this."""
        self._over.set()
        if self._thread is not threading.current_thread():
            self._thread.join()
