"""Sentences on what is doubtful in the runs that are compared: lost levels, copies, scales, columns of levels."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.runs.columns import look_alikes
from analysis.runs.direction import tokens
from analysis.runs.names import outer
from analysis.runs.roles import FACTORS, is_of_records
from analysis.runs.words_in_names import says_score

_SPREADS = frozenset("std stdev sd stddev sem stderr se".split())


def lost_levels(runs: pd.DataFrame, done: pd.DataFrame, factors: Sequence[str]) -> list[str]:
    """Levels that no compared run has, and runs without a level."""
    said = []
    reference = {"placement", "din", "dout"} | set(FACTORS if is_of_records(runs) else ())
    for name in factors:
        lost = [v for v in runs[name].dropna().unique() if v not in set(done[name].dropna())]
        if lost:
            named = ", ".join(map(str, lost[:5])) + (f" and {len(lost) - 5} more" if len(lost) > 5 else "")
            said.append(f"No run that is compared has {outer(name)} {named}.")
        empty = int(done[name].isna().sum())
        if empty and name not in reference:
            have, are = ("has", "is") if empty == 1 else ("have", "are")
            below = "; if an empty cell stands for the value above it, fill it in" if 2 * empty > len(done) else ""
            said.append(
                f"{empty} of {len(done)} runs {have} no {outer(name)} and {are} left out where {outer(name)} is "
                f"tested{below}."
            )
    return said


def copies(done: pd.DataFrame, metric: str) -> list[str]:
    """A sentence on rows that are equal in every column, where the score has too many values for chance."""
    count = int(done.astype(str).duplicated().sum())
    if not count or 2 * done[metric].nunique() <= len(done) - count:
        return []
    repeat = "row repeats" if count == 1 else "rows repeat"
    they = "it is a copy, take it" if count == 1 else "they are copies, take them"
    return [f"{count} of {len(done)} {repeat} another one in every column; if {they} out."]


def scales(done: pd.DataFrame, metric: str) -> list[str]:
    """Sentences on values in percent among shares, and on rows that are means of runs already."""
    said = []
    score = done[metric].astype(float)
    above = (score > 1) & (score <= 100)
    if 0 < above.sum() <= len(done) / 5 and score[~above].between(0, 1).all() and (score[above] > 10).all():
        count = int(above.sum())
        said.append(
            f"{count} of {len(done)} values of {outer(metric)} {'is' if count == 1 else 'are'} above 10 and all others "
            f"at most 1; if {'it is' if count == 1 else 'they are'} in percent, write all alike."
        )
    spreads = [
        c for c in map(str, done.columns) if set(tokens(c)) & _SPREADS and pd.api.types.is_numeric_dtype(done[c])
    ]
    of_score = {"mean", *(word for name in spreads[:1] for word in tokens(name))} - _SPREADS
    if spreads and metric not in spreads and of_score & set(tokens(metric)):
        said.append(
            f"{outer(spreads[0])} looks like the spread of several runs, so that each row is a mean of runs; to have "
            "designs tested against this spread, give every run a row of its own."
        )
    return said


def columns_of_levels(done: pd.DataFrame, factors: Sequence[str], scores: Sequence[str]) -> list[str]:
    """A sentence where columns of numbers may be the levels of one factor: none says that it is a score."""
    lone = not factors or (len(factors) == 1 and done[factors[0]].nunique() == len(done))
    if not lone or len(scores) < 2 or is_of_records(done) or (factors and any(says_score(s) for s in scores)):
        return []
    shown = ", ".join(map(outer, scores[:4])) + (", ..." if len(scores) > 4 else "")
    first = "No factor varies, but there" if not factors else f"Each {outer(factors[0])} has one row, and there"
    return [
        f"{first} are {len(scores)} columns of numbers ({shown}). Where each is a level of one factor, give each a row "
        "of its own, with a column for the factor and one for the score."
    ]


def alike(done: pd.DataFrame, factors: Sequence[str]) -> list[str]:
    """Levels that differ only by case or blanks."""
    said = []
    for name in factors:
        if pd.api.types.is_numeric_dtype(done[name]):
            continue
        for group in look_alikes(done[name]):
            shown = " and ".join(f"“{level}”" for level in group)
            said.append(f"{outer(name)} has levels that differ only by case or blanks: {shown}; they are kept apart.")
    return said
