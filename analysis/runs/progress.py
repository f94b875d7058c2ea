"""How far a study is that was asked for: its plan beside its runs, and which of them have ended."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from sdpet.study.manifest import FILE, read_manifest

_NAMED = 4  # runs that a sentence names


def confirming(folder: Path) -> set[str]:
    """Run ids below `folder` that confirm the best on fresh seeds and are no part of their study."""
    plans = [read_manifest(place) for place in [folder, *sorted(p.parent for p in folder.glob(f"*/{FILE}"))]]
    return {run for plan in plans if plan for run in plan.confirm}


def under_way(folder: Path, runs: pd.DataFrame) -> list[str]:
    """Sentences on the planned runs of the studies in `folder` that have no record yet; none where all have one.

    Parameters
    ----------
    folder
        A study's folder, or one with studies in it.
    runs
        Its runs, with columns run_id and status.
    """
    status = dict(zip(runs["run_id"].astype(str), runs["status"], strict=True)) if "status" in runs else {}
    said = []
    for place in [folder, *sorted(p.parent for p in folder.glob(f"*/{FILE}"))]:
        plan = read_manifest(place)
        if plan is None or not plan.runs:
            continue
        missing = [run for run in plan.runs if run not in status]
        if not missing:
            continue
        finished = sum(status.get(run) == "finished" for run in plan.runs)
        ended = len(plan.runs) - len(missing) - finished
        also = f", {ended} ended without a score" if ended else ""
        has = "has" if len(missing) == 1 else "have"
        shown = [plan.runs[run] or run for run in missing]
        which = ", ".join(shown[:_NAMED]) + (f" and {len(shown) - _NAMED} more" if len(shown) > _NAMED else "")
        said.append(
            f"The study {place.name} is under way: {finished} of {len(plan.runs)} planned runs are finished{also}, "
            f"{len(missing)} {has} no record yet ({which}); what is said here may change with them."
        )
    return said
