"""The progress of one run: a bar with rate, remaining time and loss in a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, TextIO

from sdpet.commands.ticker import Ticker
from sdpet.study.progress import COUNTED, Event, Timeline, time_left
from sdpet.study.report import duration

LINE_EVERY = 30.0  # seconds between lines in a log
REFRESH = 0.1  # seconds between updates of the bar
RUN = ("run",)


class Bar:
    """A progress bar for the phases of a run.

    Call it with (phase, done, total) and, in training, with the loss. `close` removes the bar from the terminal. The
    time left is that of the run if its work is given, and else that of the phase.

    Parameters
    ----------
    quiet : bool
        Whether to print nothing.
    stream : file, optional
        Where to print; default stderr.
    work : mapping of str to float, optional
        The work of the run by phase; see `sdpet.study.progress.work_of`.
    """

    def __init__(
        self, quiet: bool = False, stream: TextIO | None = None, work: Mapping[str, float] | None = None
    ) -> None:
        self._stream = stream or sys.stderr
        self._quiet, self._terminal = quiet, self._stream.isatty()
        self._bar: Any = None
        self._ticker: Ticker | None = None
        self._lock = threading.RLock()
        self._work = work
        self._phase, self._loss = "", ""
        self._began, self._first = 0.0, 0
        self._timeline = Timeline(0.0)
        self._last_line = time.monotonic()

    def prepare(self, what: str) -> None:
        """Show a text and the time that has passed, before there are steps to count."""
        if self._terminal and not self._quiet:
            self._replace(bar_format="{desc}, {elapsed}", desc=what)

    def __call__(self, phase: str, done: int, total: int, loss: float | None = None) -> None:
        """Show that `done` of `total` steps of a phase are done."""
        if self._quiet:
            return
        with self._lock:
            now = time.monotonic()
            if phase != self._phase:
                self._begin(phase, done, total, now)
            counted = phase if self._work is not None and phase in COUNTED else COUNTED[-1]
            self._timeline = self._timeline.after(Event(now, RUN, counted, done, total))
            self._loss = "" if loss is None else f", loss {loss:.3f}"
            if self._bar is not None:
                self._bar.set_postfix_str(f"{self._left(now)} left{self._loss}", refresh=False)
                self._bar.update(done - self._bar.n)
            elif now - self._last_line > LINE_EVERY:
                rate = (done - self._first) / (now - self._began)
                line = f"{phase} {done}/{total}, {rate:.3g} a second, {self._left(now)} left{self._loss}"
                self._last_line = now
                print(line, file=self._stream, flush=True)

    def close(self) -> None:
        """Remove the bar from the terminal."""
        if self._ticker is not None:
            self._ticker.close()
            self._ticker = None
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _begin(self, phase: str, done: int, total: int, now: float) -> None:
        """Begin a phase; the phases of a run are one timeline, and any other has its own."""
        if self._work is None or phase not in COUNTED:
            self._timeline = Timeline(now, {"run": {COUNTED[-1]: 1.0}}).after(Event(now, RUN, "start"))
        elif self._phase not in COUNTED:
            self._timeline = Timeline(now, {"run": self._work}).after(Event(now, RUN, "start"))
        self._phase, self._first = phase, done
        self._began = self._last_line = now
        if self._terminal:
            layout = "{desc} {n_fmt}/{total_fmt} |{bar}| {rate_fmt}{postfix}"
            self._replace(total=total, initial=done - 1, desc=phase, bar_format=layout, mininterval=REFRESH)

    def _left(self, now: float) -> str:
        left = time_left(self._timeline, now)
        return "?" if left is None else duration(left)

    def _tick(self) -> None:
        with self._lock:
            if self._bar is not None:
                if self._phase:
                    self._bar.set_postfix_str(f"{self._left(time.monotonic())} left{self._loss}", refresh=False)
                self._bar.refresh()

    def _replace(self, **options: Any) -> None:
        from tqdm import tqdm

        with self._lock:
            if self._bar is not None:
                self._bar.close()
            self._bar = tqdm(file=self._stream, leave=False, dynamic_ncols=True, **options)
        if self._ticker is None:
            self._ticker = Ticker(self._tick)
