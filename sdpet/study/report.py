"""What a study and a run say to the person who started them."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from sdpet.runs.record import Record

if TYPE_CHECKING:
    pass

LINE_EVERY = 60.0  # seconds without a finished run after which a log is told how far a study is
TABLE_ORDER = ("clip_i", "clip_t", "prior_drift", "fid")


class Progress:
    """One bar for a whole study, with the time left and the latest score; plain lines where there is no terminal."""

    def __init__(self, total: int, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._total, self._done, self._quiet = total, 0, quiet
        self._shares: dict[str, float] = {}  # share done of the runs now under way
        self._started = self._told = time.monotonic()
        self._bar: Any = None
        if not quiet and self._stream.isatty():
            from tqdm import tqdm

            layout = "{percentage:3.0f}%|{bar}| {desc}{postfix}"
            self._bar = tqdm(total=total, bar_format=layout, file=self._stream, dynamic_ncols=True, leave=False)
            self._bar.set_description_str(f"0/{total} runs")

    def share(self, name: str, share: float) -> None:
        """The named run is done to this share (0 to 1)."""
        self._shares[name] = share
        self._draw()
        if self._bar is None and not self._quiet and time.monotonic() - self._told > LINE_EVERY:
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
        self._told = time.monotonic()
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


def duration(seconds: float) -> str:
    """Rounded to what one wants to know: 50 s, 7 min, 3.5 h."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def outcome(record: Record | None) -> str:
    """A run in a few words: its first score between floor and ceiling, or what went wrong."""
    if record is None:
        return "no record"
    if record.status != "finished":
        return f"{record.status}, {record.reason}"
    name = next((metric for metric in TABLE_ORDER if metric in record.metrics), None)
    if name is None:
        return "finished"
    anchors = record.anchors.get(name, {})
    frame = ", ".join(f"{end} {anchors[end]:.3f}" for end in ("floor", "ceiling") if anchors.get(end) is not None)
    return f"{name} {record.metrics[name]:.3f}" + (f" ({frame})" if frame else "")


def scores_table(record: Record) -> str:
    """Scores of one run beside the untuned base model (floor) and real images (ceiling)."""
    names = [n for n in TABLE_ORDER if n in record.metrics] + [n for n in record.metrics if n not in TABLE_ORDER]
    rows = [("", "score", "floor", "ceiling")]
    for name in names:
        anchors = record.anchors.get(name, {})
        rows.append(
            (name, _number(record.metrics[name]), _number(anchors.get("floor")), _number(anchors.get("ceiling")))
        )
    width = max(len(row[0]) for row in rows)
    return "\n".join(f"  {row[0]:<{width}}" + "".join(f"{cell:>10}" for cell in row[1:]) for row in rows)


def run_report(name: str, record: Record, folder: Path, already: bool) -> str:
    """What `python train.py` ends by saying."""
    if record.status != "finished":
        more = f"\n  traceback {folder / 'error.txt'}" if (folder / "error.txt").exists() else ""
        return f"{name} {record.status}: {record.reason}\n  record    {folder / 'record.json'}{more}"
    seconds, sizes = record.seconds, record.sizes
    cost = f"{sizes['trainable_params']:,} parameters, trained in {duration(seconds.get('train') or 0)}"
    lines = [
        f"{name}: {cost}" + (" (done before; not run again)" if already else ""),
        scores_table(record),
        "  floor: the untuned base model, same prompts and noise; ceiling: real images",
        f"  samples   {folder / 'samples'}",
        f"  record    {folder / 'record.json'}",
    ]
    return "\n".join(lines)


def study_report(
    jobs: Sequence[Any],
    before: Mapping[Path, Record],
    dropped: Sequence[str],
    doubled: int,
    folder: Path,
    seconds: float,
) -> tuple[str, bool]:
    """The summary at the end of a study, read from the records on disk, and whether all that was asked for is there.

    before: the records of the runs that were complete at its start; they are not read again.
    """
    records: Mapping[Path, Record | None] = {job.folder: before.get(job.folder) or job.record() for job in jobs}
    by_status: dict[str, list[Any]] = {status: [] for status in ("finished", "diverged", "failed", "missing")}
    for job in jobs:
        record = records[job.folder]
        by_status[record.status if record else "missing"].append(job)
    skipped = sum(job.folder in before for job in by_status["finished"] + by_status["diverged"])
    done = len(by_status["finished"]) + len(by_status["diverged"]) - skipped
    counts = [f"{done} done in {duration(seconds)}" if done else "", f"{skipped} there before" if skipped else ""]
    counts += [f"{len(by_status[bad])} {bad}" for bad in ("diverged", "failed", "missing") if by_status[bad]]
    lines = [f"{len(jobs)} runs: {', '.join(filter(None, counts))}"]
    for status in ("diverged", "failed", "missing"):
        for job in by_status[status]:
            record = records[job.folder]
            lines.append(f"  {status:<9} {job.name}: {record.reason if record else 'no record'}  [{job.folder}]")
    if dropped:
        lines.append(f"  dropped   {len(dropped)} cells that cannot exist: {', '.join(dropped)}")
    if doubled:
        lines.append(f"  dropped   {doubled} jobs that were the same as another one")
    lines.append(f"  results   {folder}")
    complete = not by_status["failed"] and not by_status["missing"]
    report = f"python -m analysis {folder}   writes {folder / 'report' / 'index.html'}"
    following = report if complete else "the same command does what is missing"
    lines.append(f"  next      {following}")
    return "\n".join(lines), complete


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
