"""From the settings of runs to columns of factors: what varies, under which name, and what is said of the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.runs.direction import COSTS
from analysis.runs.settings.read import settings_of_record
from sdpet.config import COMPUTED, WAYS, Varying, varying
from sdpet.config import FACTORS as EVERY
from sdpet.study.manifest import read_manifest

BESIDE = (
    "study", "run_id", "trained_in", "status", "reason", "path", "protocol_hash", "component", "design", *COSTS,
)  # fmt: skip
RECORDS = frozenset(("protocol_hash", "study", "run_id"))  # columns that only runs of sdpet have together
COMPANIONS = ("_floor", "_ceiling", "_protocol")  # end the names of columns beside a score
_GROUPS = ("task", "data")  # columns that every record has; factors where they vary
_SCORING = ("sampler", "eval", "unet", "data", "task")  # groups whose settings change how scores are made
_SHOWN = 5  # number of keys that a sentence names


def add_factors(
    rows: Sequence[dict[str, Any]], records: Sequence[Mapping[str, Any]], folders: Sequence[Path], notes: list[str]
) -> tuple[list[str], dict[str, str]]:
    """Add a column to the rows of runs for each setting that varies.

    Parameters
    ----------
    rows
        The runs, as `records.flatten` makes them; they are changed.
    records, folders
        The record of each run, and its folder.
    notes
        Sentences on keys that vary and are no factors of their own are added.

    Returns
    -------
    names : list of str
        The names of all factors.
    keys : dict of str to str
        The keys of the config that those beyond the ones in every record have.
    """
    _asked_ways.cache_clear()
    settings = [
        _without_ways(settings_of_record(record, folder), folder.parent)
        for record, folder in zip(records, folders, strict=True)
    ]
    found = varying(settings)
    given = [[name for name in record.get("factors") or {} if name not in EVERY] for record in records]
    names: dict[str, str] = {}
    named = {name for some_given in given for name in some_given} | set(_GROUPS)
    taken = {name for row in rows for name in row} - named
    for name, levels in found.levels.items():
        column = name if name not in taken else found.keys[name]
        if column in taken:
            notes.append(f"{found.keys[name]} varies, but the runs have another column of that name; it is left out.")
            continue
        names[column] = found.keys[name]
        for row, level in zip(rows, levels, strict=True):
            if level is not None or column not in row:
                row[column] = level
    alone: dict[str, None] = {}  # factors that only records name
    for row, mine, known in zip(rows, given, settings, strict=True):
        for name in mine:
            if known is None:
                alone[name] = None
            elif name not in names and name not in _GROUPS:  # the same in all runs
                row.pop(name, None)
    _say_following(found, notes)
    every = [name for name in EVERY if name not in found.idle]
    groups = [name for name in _GROUPS if name not in found.follow]
    return list(dict.fromkeys([*every, *groups, *names, *alone])), names


def _without_ways(settings: Mapping[str, Any] | None, study: Path) -> Mapping[str, Any] | None:
    """The settings without device, precision and the like, where the study has a plan and does not compare them."""
    asked = _asked_ways(study)
    if settings is None or asked is None:
        return settings
    beside = {f"trainer.{key}" for key in WAYS if key not in asked}
    return {key: value for key, value in settings.items() if key not in beside}


@lru_cache(maxsize=1)  # runs of one study follow each other
def _asked_ways(study: Path) -> tuple[str, ...] | None:
    plan = read_manifest(study)
    return None if plan is None else plan.ways


def _say_following(found: Varying, notes: list[str]) -> None:
    by: dict[str, list[str]] = {}
    for key, decider in found.follow.items():
        group = key.partition(".")[0] if "." in key else ""
        if key not in EVERY.values() and group not in found.follow and group != decider.partition(".")[0]:
            by.setdefault(decider, []).append(key)
    if ways := by.pop(COMPUTED, []):
        verb = "differs" if len(ways) == 1 else "differ"
        why = "between the runs, but no design was run in several ways: no factor apart."
        notes.append(f"{', '.join(ways)} {verb} {why}")
    for decider, keys in by.items():
        shown = ", ".join(keys[:_SHOWN]) + (f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else "")
        notes.append(f"{shown} {'differs' if len(keys) == 1 else 'differ'} only with {decider}: no factor apart.")


def further_factors(frame: pd.DataFrame, metrics: Sequence[str]) -> list[str]:
    """The columns of a frame of records, read from a file, that are factors beyond those that every record has."""
    columns = [str(c) for c in frame.columns]
    scores = {*metrics, *(c for c in columns if any(f"{c}{end}" in columns for end in COMPANIONS))}
    beside = {*EVERY, *BESIDE, *_GROUPS, *scores}
    found = [
        c
        for c in columns
        if c not in beside and not c.startswith(("seconds_", "(", "Unnamed")) and not c.endswith(COMPANIONS)
    ]
    return [c for c in found if not pd.api.types.is_float_dtype(frame[c]) or 2 * frame[c].nunique() <= len(frame)]


def scoring_factors(frame: pd.DataFrame) -> list[str]:
    """The factors by which scores are made differently on purpose, such as the number of images of a score."""
    if "factors" not in frame.attrs and set(frame.columns) >= RECORDS:  # read from a file
        return further_factors(frame, ())
    keys = frame.attrs.get("keys", {})
    return [name for name, key in keys.items() if name in frame and key.partition(".")[0] in _SCORING]


def subject_factors(frame: pd.DataFrame) -> list[str]:
    """The factors of data: subjects, data sets and class words, whose references are their own."""
    keys = frame.attrs.get("keys", {})
    return ["data", *(name for name, key in keys.items() if key.partition(".")[0] == "data")]
