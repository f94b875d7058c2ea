"""Texts about runs and studies, printed for the user."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sdpet.choices import NOT_SHOWN, misleading
from sdpet.files.terminal import counted
from sdpet.runs.record import Record

NO_LIKENESS = ("clip_t", "prior_drift", "noise_difference", "kid_deviation")  # real images are not their best value
FEATURES = {"inception": 2048}  # of networks with many
TABLE_ORDER = ("clip_i", "digit_right", "shape_right", "clip_t", "prior_drift", "fid")


def duration(seconds: float) -> str:
    """A time in seconds as readable text: 50 s, 7 min, 3.5 h."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def outcome(record: Record | None) -> str:
    """The result of a run in a few words: its first score with floor and ceiling, or the error."""
    if record is None:
        return "no record"
    if record.status != "finished":
        return f"{record.status}, {record.reason}"
    shown = shown_scores(record)
    name = next((metric for metric in (*TABLE_ORDER, *shown) if metric in shown), None)
    if name is None:
        return "finished"
    found = record.anchors.get(name, {})
    references = ", ".join(f"{end} {found[end]:.3f}" for end in ("floor", "ceiling") if found.get(end) is not None)
    return f"{name} {record.metrics[name]:.3f}" + (f" ({references})" if references else "")


def shown_scores(record: Record) -> dict[str, float]:
    """The scores of a record without those that prefer damaged images, see `sdpet.choices.misleading`."""
    hidden = misleading(record.task.get("data"), record.protocol.get("scores") or {})
    return {name: value for name, value in record.metrics.items() if name not in hidden}


def scores_table(record: Record) -> str:
    """A table of a run's scores, with those of the untuned base model (floor) and of real images (ceiling)."""
    shown_ones = shown_scores(record)
    names = [n for n in TABLE_ORDER if n in shown_ones] + [n for n in shown_ones if n not in TABLE_ORDER]
    rows = [("", "score", "floor", "ceiling")]
    for name in names:
        found = record.anchors.get(name, {})
        shown = _rough if _is_rough(name, record) else _number
        rows.append((name, shown(record.metrics[name]), shown(found.get("floor")), shown(found.get("ceiling"))))
    width = max(len(row[0]) for row in rows)
    return "\n".join(f"  {row[0]:<{width}}" + "".join(f"{cell:>10}" for cell in row[1:]) for row in rows)


def run_report(name: str, record: Record, folder: Path, already: bool) -> str:
    """The summary of one run, which `python train.py` prints at its end.

    Parameters
    ----------
    name : str
        Readable name of the run.
    record : Record
        Its record.
    folder : Path
        Its folder.
    already : bool
        Whether the run was complete before the command.
    """
    if record.status != "finished":
        more = f"\n  traceback {folder / 'error.txt'}" if (folder / "error.txt").exists() else ""
        return f"{name} {record.status}: {record.reason}\n  record    {folder / 'record.json'}{more}"
    seconds, sizes = record.seconds, record.sizes
    cost = f"{sizes['trainable_params']:,} parameters, trained in {duration(seconds.get('train') or 0)}"
    lines = [
        f"{name}: {cost}" + (" (already complete; not run again)" if already else ""),
        scores_table(record),
        "  floor: the untuned base model, same prompts and noise; ceiling: real images",
        *_beyond_ceiling(record),
        *not_shown(record),
        f"  samples   {folder / 'samples'}",
        f"  record    {folder / 'record.json'}",
    ]
    return "\n".join(lines)


def _beyond_ceiling(record: Record) -> list[str]:
    """A line that names the scores that are better than those of real images."""
    found = []
    for name, score in shown_scores(record).items():
        floor, ceiling = (record.anchors.get(name, {}).get(end) for end in ("floor", "ceiling"))
        if name in NO_LIKENESS or floor is None or ceiling is None:
            continue
        if (score - ceiling) * (ceiling - floor) > 0:
            found.append(name)
    if not found:
        return []
    return [
        f"  beyond the ceiling: {', '.join(found)}; copies of the training images score there, so look at the samples"
    ]


def not_shown(record: Record) -> list[str]:
    """A line that names the scores that a table of this record leaves out; no line where it has all."""
    hidden = [name for name in record.metrics if name not in shown_scores(record)]
    return [f"  {NOT_SHOWN.format(scores=', '.join(hidden))}"] if hidden else []


def study_report(
    jobs: Sequence[Any],
    before: Mapping[Path, Record],
    dropped: Sequence[str],
    doubled: int,
    folder: Path,
    seconds: float,
) -> tuple[str, bool]:
    """Summarize a study from the records on disk.

    Parameters
    ----------
    jobs : sequence of Job
        The runs that were requested.
    before : mapping of Path to Record
        Records of the runs that were complete when the study started; they are not read again.
    dropped : sequence of str
        Names of cells that cannot exist.
    doubled : int
        Number of jobs that were the same as another one.
    folder : Path
        The study's folder.
    seconds : float
        Time the study took.

    Returns
    -------
    text : str
        The summary.
    complete : bool
        Whether every run is complete.
    """
    records: Mapping[Path, Record | None] = {job.folder: before.get(job.folder) or job.record() for job in jobs}
    by_status: dict[str, list[Any]] = {status: [] for status in ("finished", "diverged", "failed", "missing")}
    for job in jobs:
        record = records[job.folder]
        by_status[record.status if record else "missing"].append(job)
    skipped = sum(job.folder in before for job in by_status["finished"] + by_status["diverged"])
    done = len(by_status["finished"]) + len(by_status["diverged"]) - skipped
    counts = [
        f"{done} completed in {duration(seconds)}" if done else "",
        f"{skipped} already complete" if skipped else "",
    ]
    counts += [f"{len(by_status[bad])} {bad}" for bad in ("diverged", "failed", "missing") if by_status[bad]]
    lines = [f"{counted(len(jobs), 'run')}: {', '.join(filter(None, counts))}"]
    for status in ("diverged", "failed", "missing"):
        for job in by_status[status]:
            record = records[job.folder]
            lines.append(f"  {status:<9} {job.name}: {record.reason if record else 'no record'}  [{job.folder}]")
    if dropped:
        lines.append(f"  dropped   {counted(len(dropped), 'cell')} that cannot exist: {', '.join(dropped)}")
    if doubled:
        lines.append(f"  dropped   {counted(doubled, 'job')} that asked for the same as another one")
    lines.append(f"  results   {folder}")
    complete = not by_status["failed"] and not by_status["missing"]
    report = f"python -m analysis {folder}   writes {folder / 'report' / 'index.html'}"
    following = report if complete else "run the same command again to complete the missing runs"
    lines.append(f"  next      {following}")
    return "\n".join(lines), complete


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"


def _rough(value: float | None) -> str:
    """Two digits at most, and a sign that the number is rough."""
    return "-" if value is None or math.isnan(value) else f"~{value:.2g}"


def _is_rough(name: str, record: Record) -> bool:
    """Whether a Frechet distance is of no more images than features, so that their covariance is singular.

    Of a handful of images there is no extrapolation, whatever the features.
    """
    endless = record.metrics.get(f"{name}_infinity", 0.0)
    if endless is None or math.isnan(endless):
        return True
    made = (record.protocol.get("scores") or {}).get(name) or {}
    counts = [sum((made.get("images") or {}).values()), record.protocol.get("reference_count")]
    features = FEATURES.get(str(made.get("scorer")), 0) if name.endswith("fid") else 0
    return min((count for count in counts if count), default=features + 1) <= features
