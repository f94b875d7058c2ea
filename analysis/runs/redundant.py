"""Columns that vary and are no factors of their own: doubles, names of designs, what goes with the seed."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.linear_model.units import observations
from analysis.runs.records import FACTORS

_POINTS = ("epoch", "step", "iteration")  # of a curve
_MANY = 6  # factors up to which none is left out because runs are few


def own(frame: pd.DataFrame, factors: list[str]) -> tuple[list[str], list[str]]:
    """The factors of which each can tell something of its own, sdpet's first, and sentences on the others."""
    factors, observed = _of_runs(frame, factors)
    factors, nested = _within_seeds(frame, factors)
    known = [name for name in FACTORS if name in factors]
    others, same = _distinct(frame, [c for c in factors if c not in known])
    others, many = _few_enough(frame, others)
    others, named = _without_names_of_designs(frame, known, others)
    return known + others, [*same, *observed, *nested, *named, *many]


def _distinct(frame: pd.DataFrame, factors: list[str]) -> tuple[list[str], list[str]]:
    """The factors of which no two always change together, and a sentence on the others."""
    seen = {_partition(frame["seed"]): "seed"} if "seed" in frame else {}
    kept: list[str] = []
    same: dict[str, list[str]] = {}
    for name in factors:
        codes = _partition(frame[name])
        if codes in seen:
            same.setdefault(seen[codes], []).append(name)
        else:
            seen[codes] = name
            kept.append(name)
    return kept, [
        f"{some(names)} {'changes' if len(names) == 1 else 'change'} exactly where {first} does, so "
        f"{'the two' if len(names) == 1 else 'they'} cannot be told apart."
        for first, names in same.items()
    ]


def _of_runs(frame: pd.DataFrame, factors: list[str]) -> tuple[list[str], list[str]]:
    """Without the columns that only tell apart what one run gave, and a sentence on these."""
    inside = observations(frame, factors)
    if not inside:
        return factors, []
    kept = [f for f in factors if f not in inside]
    curve = [name for name in inside if name.lower() in _POINTS]
    said = f"{some(inside)} {'tells' if len(inside) == 1 else 'tell'} apart the rows of one run: no factor."
    if curve:
        said += f" A run's score is the mean of its rows, so for the end of each curve keep its last {curve[0]} only."
    return kept, [said]


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
        f"{some(fixed)} {are} the same in all runs of a seed, so the effect cannot be told from the seed's; --factors "
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
        f"{some(kept)}, {why.replace('the ones whose', 'whose') if even else why}. --factors names others."
    )
    return kept, [said]


def _without_names_of_designs(frame: pd.DataFrame, known: list[str], factors: list[str]) -> tuple[list[str], list[str]]:
    """Without a column that only names or numbers the combinations of the others, as a config's name does."""
    for name in factors:
        rest = [f for f in (*known, *factors) if f not in (name, "seed") and frame[f].nunique() > 1]
        if len(rest) < 2 or len(rest) > 2 * _MANY or pd.api.types.is_float_dtype(frame[name]):
            continue
        pairs = frame[[name, *rest]].drop_duplicates()
        if len(pairs) == frame[name].nunique() == len(pairs[rest].drop_duplicates()):
            kept = [f for f in factors if f != name]
            return kept, [f"{name} names the combinations of {some(rest)}, so it is no factor beside them."]
    return factors, []


def _is_even(frame: pd.DataFrame, factor: str) -> bool:
    if "seed" in frame and factor != "seed" and frame["seed"].nunique() > 1:
        levels, seeds = pd.factorize(frame[factor])[0], pd.factorize(frame["seed"])[0]
        known, width = (levels >= 0) & (seeds >= 0), seeds.max() + 1
        table = np.bincount(levels[known] * width + seeds[known], minlength=(levels.max() + 1) * width)
    else:
        table = frame[factor].value_counts().to_numpy()
    return bool((table == table[0]).all())


def some(names: list[str], most: int = 5) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
