"""The progress of a study: a bar in a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any, TextIO

from sdpet.commands.ticker import Ticker
from sdpet.runs.record import Record
from sdpet.study.progress import Event, Timeline, time_left
from sdpet.study.report import duration, outcome

LINE_EVERY = 60.0  # seconds without a finished run after which a line is printed to a log


class StudyProgressBar:
    """One bar for a study, with the remaining time and the latest score; plain lines if there is no terminal."""

    def __init__(self, total: int, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._total, self._done, self._quiet = total, 0, quiet
        self._last_line = time.monotonic()
        self._ends = Timeline(self._last_line, {str(i): {} for i in range(total)})  # where only ends are reported
        self._timeline: Timeline | None = None
        self._lock = threading.RLock()
        self._bar: Any = None
        self._ticker = None if quiet else Ticker(self._tick)
        if not quiet and self._stream.isatty():
            from tqdm import tqdm

            layout = "{percentage:3.0f}%|{bar}| {desc}{postfix}"
            self._bar = tqdm(total=total, bar_format=layout, file=self._stream, dynamic_ncols=True, leave=False)
            self._bar.set_description_str(f"0/{total} runs")

    def moved(self, timeline: Timeline) -> None:
        """See `StudyProgress.moved`; what it says is shown within a second."""
        self._timeline = timeline

    def done(self, name: str, record: Record | None) -> None:
        """See `StudyProgress.done`."""
        with self._lock:
            self._ends = self._ends.after(Event(time.monotonic(), (str(self._done),), "end"))
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
        """End the report."""
        if self._ticker is not None:
            self._ticker.close()
        if self._bar is not None:
            self._bar.close()

    def _tick(self) -> None:
        with self._lock:
            self._draw()
            if self._bar is None and time.monotonic() - self._last_line > LINE_EVERY:
                self._line(self._under_way())

    def _under_way(self) -> str:
        """What the fleets that are under way do, in words."""
        if self._timeline is None:  # only ends are reported
            return "under way"
        parts = []
        for fleet in self._timeline.under_way:
            runs = f"{len(fleet.runs)} {'run' if len(fleet.runs) == 1 else 'runs'}"
            latest = fleet.phases[-1] if fleet.phases else None
            parts.append(f"{runs}: {latest.name} {latest.done}/{latest.total}" if latest else f"{runs}: preparing")
        return ", ".join(parts) or "preparing"

    def _line(self, text: str) -> None:
        self._last_line = time.monotonic()
        width = len(str(self._total))
        print(f"[{self._done:{width}}/{self._total}, {self._left()} left] {text}", file=self._stream, flush=True)

    def _left(self) -> str:
        left = time_left(self._timeline or self._ends, time.monotonic())
        return "?" if left is None else duration(left)

    def _draw(self) -> None:
        if self._bar is not None:
            self._bar.n = min((self._timeline or self._ends).share, 1.0) * self._total
            self._bar.set_description_str(f"{self._done}/{self._total} runs, {self._left()} left", refresh=False)
            self._bar.refresh()
