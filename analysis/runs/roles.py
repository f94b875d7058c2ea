"""What each column of a table is, as far as names and values tell: a factor, a score, or neither."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from analysis.runs.columns import MOST_LEVELS, is_leveled
from analysis.runs.direction import COSTS, SMALLER, tokens
from analysis.runs.exports import SCORES, SETTINGS, bookkeeping, is_costlike, is_export
from analysis.runs.names import doubles
from analysis.runs.records import FACTORS
from analysis.runs.statuses import has_status
from analysis.runs.words_in_names import says_factor, says_score

IDENTITY = ("study", "run_id", "trained_in", "status", "reason", "task", "data", "path", "protocol_hash", "component")
ENDS = ("_floor", "_ceiling", "_protocol")  # columns beside a score of a record
PREFERRED = ("clip_i", "clip_similarity", "fid")  # the score that is analysed unless another one is asked for
REPLICATES = ("run", "rep", "replicate", "repetition", "repeat", "trial", "attempt")  # numbers of runs of one design
# What tells apart the rows of one run: its images, prompts or the points of its curve.
OBSERVATIONS = (
    "image", "images", "image_id", "img", "prompt", "prompt_id", "sample", "sample_id", "step", "epoch", "iteration",
    "file", "filename", "noise_seed",
)  # fmt: skip
FOLDS = ("fold", "cv_fold", "split_id")  # shared by all designs, as seeds are
_MANY = 6  # factors up to which none is left out because runs are few
_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d.*)?")
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
    factors, observed = _of_runs(frame, factors)
    factors, nested = _within_seeds(frame, factors)
    known = [name for name in FACTORS if name in factors]
    others, notes = _distinct(frame, [c for c in factors if c not in known])
    others, more = _few_enough(frame, others)
    notes += observed + nested
    left = [
        f"{c} ({frame[c].nunique()} values in {frame[c].count()} rows)"
        for c, kind in kinds.items()
        if kind in ("continuous", "names", "whole") and c not in factors and c not in scores
    ]
    if left:
        notes.append(f"Not taken as factors, as their values hardly repeat: {_some(left)}.")
    return Roles(known + others, _ranked(frame, scores), notes + more)


def _judged(frame: pd.DataFrame) -> list[str]:
    """The columns that may be something."""
    columns = [str(c) for c in frame.columns]
    beside = set(doubles(frame, FACTORS)) | bookkeeping(columns) | set(COSTS)
    if is_of_records(frame) or "placement" in frame:
        beside |= set(IDENTITY)
    if has_status(frame):
        beside |= {"status"}
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
    if known == 0 or (numeric and name.lower() in (*REPLICATES, *FOLDS)):
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
    if is_leveled(column):
        return "factor" if distinct > 1 else ""
    if _is_whole(column):
        counts = sorted(column) == list(range(int(column.min()), int(column.min()) + known))
        return "" if counts and known > MOST_LEVELS else "whole" if distinct <= MOST_LEVELS else "score"
    return "score"


def _is_whole(column: pd.Series) -> bool:
    return pd.api.types.is_integer_dtype(column)


def _promoted_score(frame: pd.DataFrame, kinds: dict[str, str]) -> list[str]:
    """Where no column is clearly a score: a cost, or the numbers that repeat least; none in an export of a tracker."""
    if is_export(frame.columns):
        return []
    if costs := [c for c, kind in kinds.items() if kind == "cost"]:
        return costs
    numbers = [
        c
        for c, kind in kinds.items()
        if kind in ("whole", "factor")
        and c not in FACTORS
        and pd.api.types.is_numeric_dtype(frame[c])
        and not pd.api.types.is_bool_dtype(frame[c])
        and not says_factor(c)
    ]
    return [max(numbers, key=lambda c: (frame[c].nunique(), list(kinds).index(c)))] if numbers else []


def _ranked(frame: pd.DataFrame, scores: list[str]) -> list[str]:
    """The likeliest first: named a score, of held-out data, no cost, no loss where there is a rating; then as found."""
    smaller = {c: bool(set(tokens(c)) & SMALLER) for c in scores}

    def rank(name: str) -> tuple[bool, ...]:
        words = set(tokens(name))
        return (
            name not in PREFERRED, frame[name].nunique() < 2, not says_score(name) and not SCORES.match(name),
            bool(words & _TRAINING), bool(words & _COST_WORDS), smaller[name],
        )  # fmt: skip

    order = sorted(scores, key=rank)
    preferred = [name for name in PREFERRED if name in scores]
    return preferred + [name for name in order if name not in preferred]


def _distinct(frame: pd.DataFrame, factors: list[str]) -> tuple[list[str], list[str]]:
    """The factors of which no two always change together, and a sentence on the others."""
    seen = {_partition(frame["seed"]): "seed"} if "seed" in frame else {}
    kept, notes = [], []
    for name in factors:
        codes = _partition(frame[name])
        if codes in seen:
            notes.append(f"{name} changes exactly where {seen[codes]} does, so the two cannot be told apart.")
        else:
            seen[codes] = name
            kept.append(name)
    return kept, notes


def _of_runs(frame: pd.DataFrame, factors: list[str]) -> tuple[list[str], list[str]]:
    """Without the columns that only tell apart what one run gave, and a sentence on these."""
    inside = [f for f in factors if f.lower() in OBSERVATIONS]
    kept = [f for f in factors if f not in inside]
    keys = list(dict.fromkeys([*kept, *(["seed"] if "seed" in frame else [])]))
    if not inside or not [f for f in kept if f != "seed"] or not frame.duplicated(keys).any():
        return factors, []
    return kept, [f"{_some(inside)} {'tells' if len(inside) == 1 else 'tell'} apart the rows of one run: no factor."]


def _partition(column: pd.Series) -> bytes:
    return pd.factorize(column)[0].astype("int64").tobytes()


def _within_seeds(frame: pd.DataFrame, factors: list[str]) -> tuple[list[str], list[str]]:
    """The factors that vary within seeds, where some do, and a sentence on the others."""
    if "seed" not in frame or frame["seed"].nunique() < 2:
        return factors, []
    varying = [f for f in factors if f != "seed" and frame[f].nunique() > 1]
    fixed = [f for f in varying if not _varies_within(frame[f], frame["seed"])]
    kept = [f for f in factors if f not in fixed]
    if not fixed or not set(kept) & set(varying):
        return factors, []
    one = len(fixed) == 1
    are, it = ("is", "it") if one else ("are", "them")
    return kept, [
        f"{_some(fixed)} {are} the same in all runs of a seed, so the effect cannot be told from the seed's; --factors "
        f"and --block none test {it} all the same."
    ]


def _varies_within(column: pd.Series, groups: pd.Series) -> bool:
    """Whether a group has two values of the column."""
    codes, group = pd.factorize(column)[0], pd.factorize(groups)[0]
    known = (codes >= 0) & (group >= 0)
    pairs = np.unique(group[known].astype(np.int64) * (codes.max() + 1) + codes[known])
    return len(pairs) > len(np.unique(group[known]))


def _few_enough(frame: pd.DataFrame, factors: list[str]) -> tuple[list[str], list[str]]:
    """Where more columns vary than the runs can test: those whose levels are spread evenly, as in a planned study."""
    varying = [f for f in factors if frame[f].nunique() > 1]
    room = len(frame) - 1 - (frame["seed"].nunique() - 1 if "seed" in frame else 0)
    if len(varying) <= _MANY or sum(frame[f].nunique() - 1 for f in varying) < room // 2:
        return factors, []
    even = [f for f in varying if _is_even(frame, f)]
    kept = even
    if not even or sum(frame[f].nunique() - 1 for f in even) >= room:
        kept, used = [], 0
        for name in even or varying:
            used += frame[name].nunique() - 1
            if used <= room // 2:
                kept.append(name)
    kept = kept or varying[:1]
    why = "the ones whose levels are spread evenly over the runs" if even else "the first ones"
    said = (
        f"{len(varying)} columns vary that may be factors, more than {len(frame)} runs can test together; taken: "
        f"{_some(kept)}, {why.replace('the ones whose', 'whose') if even else why}. --factors names others."
    )
    return kept, [said]


def _is_even(frame: pd.DataFrame, factor: str) -> bool:
    if "seed" in frame and factor != "seed" and frame["seed"].nunique() > 1:
        levels, seeds = pd.factorize(frame[factor])[0], pd.factorize(frame["seed"])[0]
        known, width = (levels >= 0) & (seeds >= 0), seeds.max() + 1
        table = np.bincount(levels[known] * width + seeds[known], minlength=(levels.max() + 1) * width)
    else:
        table = frame[factor].value_counts().to_numpy()
    return bool((table == table[0]).all())


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
