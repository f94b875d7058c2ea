"""The progress of a study: a bar in a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO

from sdpet.runs.record import Record
from sdpet.study.report import duration, outcome

LINE_EVERY = 60.0  # seconds without a finished run after which a line is printed to a log


class StudyProgressBar:
    """One bar for a study, with the remaining time and the latest score; plain lines if there is no terminal."""

    def __init__(self, total: int, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._total, self._done, self._quiet = total, 0, quiet
        self._shares: dict[str, float] = {}  # share done of the runs in progress
        self._started = self._last_line = time.monotonic()
        self._bar: Any = None
        if not quiet and self._stream.isatty():
            from tqdm import tqdm

            layout = "{percentage:3.0f}%|{bar}| {desc}{postfix}"
            self._bar = tqdm(total=total, bar_format=layout, file=self._stream, dynamic_ncols=True, leave=False)
            self._bar.set_description_str(f"0/{total} runs")

    def share(self, name: str, share: float) -> None:
        """Report the share (0 to 1) of the named run that is done."""
        self._shares[name] = share
        self._draw()
        if self._bar is None and not self._quiet and time.monotonic() - self._last_line > LINE_EVERY:
            underway = len(self._shares)
            self._line(f"{underway} {'run' if underway == 1 else 'runs'} under way")

    def done(self, name: str, record: Record | None) -> None:
        self._shares.pop(name, None)
        self._done += 1
        text = f"{name}: {outcome(record)}"
        if self._bar is not None:
            self._bar.set_postfix_str(f"last {text}", refresh=False)
            if record is None or record.status != "finished":
                self._bar.write(text, file=self._stream)
        elif not self._quiet:
            self._line(text)
        self._draw()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def _line(self, text: str) -> None:
        self._last_line = time.monotonic()
        width = len(str(self._total))
        print(f"[{self._done:{width}}/{self._total}, {self._left()} left] {text}", file=self._stream, flush=True)

    def _position(self) -> float:
        return self._done + sum(self._shares.values())

    def _left(self) -> str:
        position, elapsed = self._position(), time.monotonic() - self._started
        return duration((self._total - position) * elapsed / position) if position > 0.01 and elapsed > 1 else "?"

    def _rate(self) -> str:
        position, elapsed = self._position(), time.monotonic() - self._started
        return f"{60 * position / elapsed:.2g} a minute, " if position > 0.01 and elapsed > 1 else ""

    def _draw(self) -> None:
        if self._bar is not None:
            self._bar.n = min(self._position(), self._total)
            text = f"{self._done}/{self._total} runs, {self._rate()}{self._left()} left"
            self._bar.set_description_str(text, refresh=False)
            self._bar.refresh()
