"""What `evaluate.py` prints of a study: the scores that are new, how many were there already, and where they are."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdpet.choices import NOT_SHOWN, misleading
from sdpet.files.terminal import counted
from sdpet.runs.record import FILE, Record
from sdpet.study.report import not_shown, scores_table

SAME = 1e-6  # difference of a score that is rounding: other samples of a batch stand beside the run's own


@dataclass(frozen=True)
class Scored:
    """A stored run with scores of one protocol.

    Parameters
    ----------
    folder : Path
        The run's folder.
    record : Record
        Its record.
    entry : mapping
        The scores, as in the record's `evaluations`.
    is_new : bool
        Whether they were computed by this command.
    """

    folder: Path
    record: Record
    entry: Mapping[str, Any]
    is_new: bool

    @property
    def hidden(self) -> list[str]:
        """The scores that are not shown, see `sdpet.choices.misleading`."""
        made = (self.entry.get("protocol") or {}).get("scores") or {}
        return [name for name in misleading(self.record.task.get("data"), made) if name in self.entry["metrics"]]

    @property
    def changed(self) -> dict[str, float]:
        """The scores that the run's first scores lack, or that differ from them; all of them if none does."""
        first = self.record.metrics
        found = {name: value for name, value in self.entry["metrics"].items() if name not in self.hidden}
        return {name: value for name, value in found.items() if _differs(first.get(name), value)} or found

    def shown(self) -> Record:
        """A record with the changed scores alone, to print."""
        known = self.record
        record = Record(known.run_id, known.study, "finished", known.factors, known.task)
        record.metrics, record.anchors = self.changed, dict(self.entry["anchors"])
        return record


def run_text(run: Scored, name: str) -> str:
    """The summary of one run that was scored again: a line a score, what is left out or missing, and the places.

    Parameters
    ----------
    run : Scored
        The run.
    name : str
        Readable name of the run.

    Returns
    -------
    str
    """
    known = run.record
    shown = Record(known.run_id, known.study, "finished", known.factors, known.task)
    shown.metrics, shown.anchors = run.entry["metrics"], run.entry["anchors"]
    shown.protocol = run.entry.get("protocol") or {}
    return "\n".join(
        [
            name + ("" if run.is_new else " (already scored with this protocol; skipped)"),
            scores_table(shown),
            *not_shown(shown),
            *(f"  missing   {what}: {reason}" for what, reason in (run.entry.get("missing") or {}).items()),
            f"  samples   {run.folder / run.entry['samples']}",
            f"  record    {run.folder / FILE}",
        ]
    )


def study_text(runs: Sequence[Scored]) -> str:
    """The summary of several runs that were scored again: a line a score, then the places and the next command."""
    names = list(dict.fromkeys(name for run in runs for name in run.changed))
    hidden = list(dict.fromkeys(name for run in runs for name in run.hidden))
    same = sorted({name for run in runs for name in run.entry["metrics"]} - {*names, *hidden})
    fresh = sum(run.is_new for run in runs)
    counts = [f"{fresh} scored"] if fresh else []
    counts += [f"{len(runs) - fresh} already scored with this protocol (skipped)"] if fresh < len(runs) else []
    lines = [f"{counted(len(runs), 'run')}: {', '.join(counts)}", *_table(runs, names)]
    if same:
        lines.append(f"  as before {', '.join(same)}")
    if hidden:
        lines.append(f"  {NOT_SHOWN.format(scores=', '.join(hidden))}")
    missing = {what: why for run in runs for what, why in (run.entry.get("missing") or {}).items()}
    lines += [f"  missing   {what}: {why}" for what, why in missing.items()]
    studies = {run.folder.parent for run in runs}
    place = studies.pop() / "RUN" if len(studies) == 1 else Path("RUN")
    lines.append(f"  scores    {place / FILE}, in its evaluations")
    lines += [f"  samples   {place / samples}" for samples in sorted({run.entry["samples"] for run in runs})]
    asked = {" ".join(run.entry.get("asked") or ()) for run in runs}
    if names and len(asked) == 1 and place.parent != Path():
        scores = asked.pop()
        words = ["python", "-m", "analysis", str(place.parent), *(["--scores", scores] if scores else [])]
        lines.append(f"  next      {shlex.join([*words, '--metric', names[0]])}")
    return "\n".join(lines)


def _table(runs: Sequence[Scored], names: Sequence[str]) -> list[str]:
    rows: list[tuple[str, ...]] = [("", "mean", "lowest", "highest", "floor")]
    for name in names:
        values = _finite(run.entry["metrics"].get(name) for run in runs)
        floors = _finite((run.entry["anchors"].get(name) or {}).get("floor") for run in runs)
        cells = [_mean(values), min(values, default=math.nan), max(values, default=math.nan), _mean(floors)]
        rows.append((name, *("-" if math.isnan(cell) else f"{cell:.3f}" for cell in cells)))
    width = max(len(row[0]) for row in rows)
    return [f"  {row[0]:<{width}}" + "".join(f"{cell:>10}" for cell in row[1:]) for row in rows]


def _differs(first: float | None, value: float | None) -> bool:
    if first is None or value is None:
        return first is not value
    return not (first == value or abs(first - value) <= SAME or (math.isnan(first) and math.isnan(value)))


def _finite(values: Any) -> list[float]:
    return [float(value) for value in values if value is not None and math.isfinite(value)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
