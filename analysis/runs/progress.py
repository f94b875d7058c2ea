"""What the plan of a study says of its runs: which are missing, which confirm the best, which repeat another one."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from sdpet.runs.copies import Origin
from sdpet.runs.record_index import RecordIndex
from sdpet.study.manifest import FILE, read_manifest

_NAMED = 4  # runs that a sentence names


def confirming(folder: Path) -> set[str]:
    """Run ids below `folder` that confirm the best on fresh seeds and are no part of their study."""
    plans = [read_manifest(place) for place in _studies(folder)]
    return {run for plan in plans if plan for run in plan.confirm}


def _studies(folder: Path) -> list[Path]:
    """The study in `folder`, or else the studies below it."""
    return [folder] if (folder / FILE).is_file() else sorted(path.parent for path in folder.glob(f"*/{FILE}"))


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
    for place in _studies(folder):
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


def without_copies(
    frame: pd.DataFrame, notes: list[str], indexes: Mapping[Path, RecordIndex] | None = None
) -> pd.DataFrame:
    """The runs of a folder, each question once; what was computed where, and what is left out, is added to the notes.

    Of several runs that answer the same question with the same seed, the one that the study's last command asked for is
    kept, or else the first by id. Copies are no replicates: they share the seed, so that their scores agree but for
    rounding.

    Parameters
    ----------
    frame
        One row a run, with columns run_id and path.
    notes
        Is extended.
    indexes
        Those of some of the folders that hold the runs, by folder.
    """
    places = [os.path.split(path) for path in frame["path"].astype(str)]
    have = {str(study): index for study, index in (indexes or {}).items()}
    have |= {study: RecordIndex(Path(study)) for study in {study for study, _ in places} - have.keys()}
    origins = [have[study].origin(name) for study, name in places]
    if not any(origins):
        return frame
    plans = {study: read_manifest(Path(study)) for study in dict.fromkeys(study for study, _ in places)}
    asked = {study: plan.ways if plan else () for study, plan in plans.items()}
    wanted = {run for plan in plans.values() if plan for run in plan.runs}
    ids = frame["run_id"].astype(str).tolist()
    groups: dict[tuple[str, str], list[int]] = {}
    for row, ((study, _), origin) in enumerate(zip(places, origins, strict=True)):
        question = ids[row] if origin is None else origin.key(asked[study])
        groups.setdefault((study, question), []).append(row)
    status = frame["status"].tolist() if "status" in frame else [None] * len(frame)
    kept_id: dict[str, str] = {}
    for rows in groups.values():
        rows.sort(key=lambda row: (status[row] != "finished", ids[row] not in wanted, ids[row]))
        kept_id |= {ids[row]: ids[rows[0]] for row in rows[1:]}
    copies = [row for rows in groups.values() for row in rows[1:]]
    notes += _computed([(asked[study], origin) for (study, _), origin in zip(places, origins, strict=True) if origin])
    if not copies:
        return frame
    named = ", ".join(f"{ids[row]} as {kept_id[ids[row]]}" for row in sorted(copies)[:_NAMED])
    more = f" and {len(copies) - _NAMED} more" if len(copies) > _NAMED else ""
    notes.append(
        f"{len(copies)} of {len(frame)} runs repeat another run with the same seed, computed in another way ({named}"
        f"{more}); such runs are no replicates, so each counts once."
    )
    frame = frame.drop(index=frame.index[copies])
    if "trained_in" in frame:
        frame["trained_in"] = frame["trained_in"].replace(kept_id)
    return frame


def _computed(known: list[tuple[tuple[str, ...], Origin]]) -> list[str]:
    """A sentence on the ways in which the runs were computed, where they differ and the study does not compare them."""
    alike = Counter(
        tuple((key, str(value)) for key, value in origin.ways.items() if key not in asked) for asked, origin in known
    )
    first = dict(next(iter(alike)))
    differing = [key for key in first if len({dict(way).get(key, "None") for way in alike}) > 1]
    if not differing:
        return []
    counts: Counter[str] = Counter()
    for way, count in alike.items():
        counts[", ".join(f"{key} {dict(way).get(key)}" for key in differing)] += count
    said = "; ".join(f"{count} with {words}" for words, count in counts.most_common())
    return [f"The runs were computed in {len(counts)} ways, which are no factor here: {said}."]
