"""The progress of one run: a bar with rate, remaining time and loss in a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

from sdpet.study.report import duration

LINE_EVERY = 30.0  # seconds between lines in a log
REFRESH = 0.1  # seconds between updates of the bar


class Bar:
    """A progress bar for the phases of a run.

    Call it with (phase, done, total) and, in training, with the loss. `close` removes the bar from the terminal.

    Parameters
    ----------
    quiet : bool
        Whether to print nothing.
    stream : file, optional
        Where to print; default stderr.
    """

    def __init__(self, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._quiet, self._terminal = quiet, self._stream.isatty()
        self._bar: Any = None
        self._phase, self._began, self._first = "", 0.0, 0
        self._last_line = time.monotonic()

    def prepare(self, what: str) -> None:
        """Show a text before there are steps to count."""
        if self._terminal and not self._quiet:
            self._replace(bar_format="{desc}, {elapsed}", desc=what)

    def __call__(self, phase: str, done: int, total: int, loss: float | None = None) -> None:
        if self._quiet:
            return
        if phase != self._phase:
            self._phase, self._first = phase, done
            self._began = self._last_line = time.monotonic()
            if self._terminal:
                layout = "{desc} {n_fmt}/{total_fmt} |{bar}| {rate_fmt}, {remaining} left{postfix}"
                self._replace(total=total, initial=done - 1, desc=phase, bar_format=layout, mininterval=REFRESH)
        if self._bar is not None:
            if loss is not None:
                self._bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
            self._bar.update(done - self._bar.n)
        elif time.monotonic() - self._last_line > LINE_EVERY:
            self._last_line = time.monotonic()
            rate = (done - self._first) / (self._last_line - self._began)
            left = f"{duration((total - done) / rate)} left"
            line = f"{phase} {done}/{total}, {rate:.3g} a second, {left}" + (f", loss {loss:.3f}" if loss else "")
            print(line, file=self._stream, flush=True)

    def close(self) -> None:
        """Remove the bar from the terminal."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _replace(self, **options: Any) -> None:
        from tqdm import tqdm

        self.close()
        self._bar = tqdm(file=self._stream, leave=False, dynamic_ncols=True, **options)
