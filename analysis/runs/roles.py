"""What each column of a table is, as far as names and values tell: a factor, a score, or neither."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import pandas as pd

from analysis.linear_model.units import tells_rows_apart
from analysis.runs.columns import MOST_LEVELS, is_leveled
from analysis.runs.direction import COSTS, SMALLER, tokens
from analysis.runs.exports import SCORES, SETTINGS, bookkeeping, is_costlike, is_export
from analysis.runs.names import doubles
from analysis.runs.records import FACTORS
from analysis.runs.redundant import own, some
from analysis.runs.statuses import ends_runs, has_status
from analysis.runs.words_in_names import says_factor, says_score

IDENTITY = ("study", "run_id", "trained_in", "status", "reason", "task", "data", "path", "protocol_hash", "component")
ENDS = ("_floor", "_ceiling", "_protocol")  # columns beside a score of a record
# The score that is analysed unless another one is asked for.
PREFERRED = ("clip_i", "clip_similarity", "digit_right", "shape_right", "fid")
# Numbers of runs of one design.
REPLICATES = ("run", "rep", "replicate", "repetition", "repeat", "trial", "attempt", "replikat", "wiederholung")
FOLDS = ("fold", "cv_fold", "split", "split_id", "cv", "kfold", "k_fold", "fold_id", "fold_idx")  # shared, as seeds are
_LABELS = frozenset("checkpoint comment comments notes row experiment_id".split())  # settings where they repeat as such
# 2024-03-01, 2024/3/1, 01.03.2024 and 3/1/24, with or without a time.
_DATE = re.compile(r"(\d{4}([-/.])\d{1,2}\2\d{1,2}|\d{1,2}([-/.])\d{1,2}\3(\d{4}|\d\d))([T ,]+\d{1,2}:\d\d.*)?")
_IDS = frozenset("id ids idx uuid guid hash nr no".split())  # end names of columns that number or name rows
_TRAINING = {"train", "training"}
_COST_WORDS = frozenset(
    "latency latencies time times seconds secs sec ms duration runtime memory vram ram flops gflops macs cost costs "
    "energy params parameters throughput fps price carbon co2 emissions".split()
)


@dataclass(frozen=True)
class Roles:
    """factors, metrics: names of columns, the likeliest score first. notes: what was not taken, and why."""

    factors: list[str]
    metrics: list[str]
    notes: list[str] = field(default_factory=list)


def is_of_records(frame: pd.DataFrame) -> bool:
    """Whether the frame was made of sdpet's records, or of a file that such a frame was written to."""
    return "metrics" in frame.attrs or {"protocol_hash", "study", "run_id"} <= set(frame.columns)


def guess_roles(frame: pd.DataFrame) -> Roles:
    """Factors and scores of a table of any origin; what varies and is neither is named in the notes.

    A score is a column of numbers whose name says so (val_acc, loss), or else one whose values hardly repeat. A factor
    is a column of words or truth values, or of numbers that repeat as settings do. Times, names and ids that a tracker
    writes are neither. In a table of one run a level no value repeats; then the first column that can be is the factor.
    """
    kinds = {column: _kind(frame, column) for column in _judged(frame)}
    scores = [c for c, kind in kinds.items() if kind == "score"]
    factors = [c for c, kind in kinds.items() if kind == "factor"]
    if not scores:
        scores = _promoted_score(frame, kinds)
        factors = [c for c in factors if c not in scores]
    if not [f for f in factors if f != "seed"]:
        spare = [c for c, kind in kinds.items() if kind in ("whole", "names", "continuous") and c not in scores]
        factors = [*spare[:1], *factors]
    factors, notes = own(frame, factors)
    left = [
        f"{c} ({frame[c].nunique()} values in {frame[c].count()} rows)"
        for c, kind in kinds.items()
        if kind in ("continuous", "names", "whole") and c not in factors and c not in scores
    ]
    if left:
        notes.append(f"Not taken as factors, as their values hardly repeat: {some(left)}.")
    return Roles(factors, _ranked(frame, scores), notes)


def _judged(frame: pd.DataFrame) -> list[str]:
    """The columns that may be something."""
    columns = [str(c) for c in frame.columns]
    beside = set(doubles(frame, FACTORS)) | bookkeeping(columns) | set(COSTS)
    if is_of_records(frame) or "placement" in frame:
        beside |= set(IDENTITY)
    if has_status(frame):
        beside |= {"status"}
    beside |= {c for c in columns if ends_runs(frame, c)}
    if not is_export(columns):
        beside -= {c for c in columns if c.lower() in _LABELS and frame[c].nunique() > 1 and is_leveled(frame[c])}
    beside -= {"seed"}
    return [
        c
        for c in columns
        if c not in beside and not (c.endswith(ENDS) and c.removesuffix("_floor").removesuffix("_ceiling") in columns)
    ]


def _kind(frame: pd.DataFrame, name: str) -> str:
    """score, factor, whole (numbers that may be either), continuous, names (ids, prompts), or "" for none of these."""
    column = frame[name]
    known, distinct = column.count(), column.nunique()
    numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    if known == 0 or (numeric and "_".join(tokens(name)) in (*REPLICATES, *FOLDS)):
        return ""
    if pd.api.types.is_bool_dtype(column):
        return "factor"
    if not numeric:
        if SCORES.match(name) or column.dropna().map(lambda v: bool(_DATE.fullmatch(str(v)))).all():
            return ""
        if distinct == 1:
            return "factor" if name in FACTORS else ""
        if name in FACTORS or set(column.dropna().unique()) <= {True, False}:
            return "factor"
        return "names" if distinct == known or (distinct > MOST_LEVELS and 2 * distinct > known) else "factor"
    if name in FACTORS:
        return "factor" if is_leveled(column) or pd.api.types.is_integer_dtype(column) or distinct < 2 else "continuous"
    if SETTINGS.match(name) or (says_factor(name) and not SCORES.match(name)):
        if distinct < 2:
            return ""
        return "factor" if is_leveled(column) else "whole" if _is_whole(column) else "continuous"
    if SCORES.match(name):
        return "score"
    if any(SCORES.match(str(c)) for c in frame.columns) and is_export(frame.columns):
        return ""  # where scores are marked, other numbers are none
    if says_score(name):
        return "score"
    if is_costlike(name):
        return "cost"
    if _is_id(name) and not is_leveled(column):
        return "names"
    if is_leveled(column):
        copies = frame.attrs.get("long", {}).get("copies", 1)
        if distinct * copies == known and not _is_whole(column):
            return "continuous"  # another value in each row of the wide table
        return "factor" if distinct > 1 else ""
    if _is_whole(column):
        if set(tokens(name)) & _COST_WORDS:
            return "score"
        counts = sorted(column) == list(range(int(column.min()), int(column.min()) + known))
        return "" if counts and known > MOST_LEVELS else "whole" if distinct <= MOST_LEVELS else "score"
    return "score"


def _is_id(name: str) -> bool:
    words = tokens(name)
    return bool(words) and (words[-1] in _IDS or tells_rows_apart(name, MOST_LEVELS))


def _is_whole(column: pd.Series) -> bool:
    return pd.api.types.is_integer_dtype(column)


def _promoted_score(frame: pd.DataFrame, kinds: dict[str, str]) -> list[str]:
    """Where no column is clearly a score: a cost, or the numbers that repeat least; none in an export of a tracker."""
    if is_export(frame.columns):
        return []
    if costs := [c for c, kind in kinds.items() if kind == "cost"]:
        return costs
    possible = [
        c
        for c, kind in kinds.items()
        if kind in ("whole", "factor", "continuous")
        and c not in FACTORS
        and pd.api.types.is_numeric_dtype(frame[c])
        and not pd.api.types.is_bool_dtype(frame[c])
        and not _is_id(c)
    ]
    # Where a word of a setting is in every name (steps_reached), the column whose values hardly repeat.
    numbers = [c for c in possible if not says_factor(c)] or [c for c in possible if not is_leveled(frame[c])]
    return [max(numbers, key=lambda c: (frame[c].nunique(), list(kinds).index(c)))] if numbers else []


def _ranked(frame: pd.DataFrame, scores: list[str]) -> list[str]:
    """The likeliest first: named a score, of held-out data, no cost, no loss where there is a rating; then as found."""
    long = frame.attrs.get("long", {}).get("scores", ())
    smaller = {c: bool(set(tokens(c)) & SMALLER) for c in scores}

    def rank(name: str) -> tuple[bool, ...]:
        words = set(tokens(name))
        return (
            name not in PREFERRED, name not in long, frame[name].nunique() < 2,
            not says_score(name) and not SCORES.match(name), bool(words & _TRAINING), bool(words & _COST_WORDS),
            smaller[name],
        )  # fmt: skip

    order = sorted(scores, key=rank)
    preferred = [name for name in PREFERRED if name in scores]
    return preferred + [name for name in order if name not in preferred]
