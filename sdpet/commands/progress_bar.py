"""The progress of one run: a bar with rate, time left and loss in a terminal; a plain line now and then in a log."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

from sdpet.study.report import duration

LINE_EVERY = 30.0  # seconds between lines where there is no terminal
REFRESH = 0.1  # seconds between drawings of the bar


class Bar:
    """Call it with (phase, done, total) and, in training, the loss; phases follow each other. close() wipes it away."""

    def __init__(self, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._quiet, self._terminal = quiet, self._stream.isatty()
        self._bar: Any = None
        self._phase, self._began, self._first = "", 0.0, 0
        self._told = time.monotonic()

    def prepare(self, what: str) -> None:
        """Name what goes on before anything can be counted."""
        if self._terminal and not self._quiet:
            self._replace(bar_format="{desc}, {elapsed}", desc=what)

    def __call__(self, phase: str, done: int, total: int, loss: float | None = None) -> None:
        if self._quiet:
            return
        if phase != self._phase:
            self._phase, self._first = phase, done
            self._began = self._told = time.monotonic()
            if self._terminal:
                layout = "{desc} {n_fmt}/{total_fmt} |{bar}| {rate_fmt}, {remaining} left{postfix}"
                self._replace(total=total, initial=done - 1, desc=phase, bar_format=layout, mininterval=REFRESH)
        if self._bar is not None:
            if loss is not None:
                self._bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
            self._bar.update(done - self._bar.n)
        elif time.monotonic() - self._told > LINE_EVERY:
            self._told = time.monotonic()
            rate = (done - self._first) / (self._told - self._began)
            left = f"{duration((total - done) / rate)} left"
            told = f"{phase} {done}/{total}, {rate:.3g} a second, {left}" + (f", loss {loss:.3f}" if loss else "")
            print(told, file=self._stream, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _replace(self, **options: Any) -> None:
        from tqdm import tqdm

        self.close()
        self._bar = tqdm(file=self._stream, leave=False, dynamic_ncols=True, **options)
