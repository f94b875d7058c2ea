"""What is analysed: score, factors and block as the user asked, or as guessed; and the sentence that says which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.linear_model.design import parse_model, parse_terms
from analysis.runs.direction import higher_is_better, tokens
from analysis.runs.doubts import alike, columns_of_levels, copies, lost_levels, scales
from analysis.runs.load import factor_columns, metric_columns, roles_of
from analysis.runs.names import inner, outer, resolve
from analysis.runs.roles import FACTORS, FOLDS, is_of_records
from analysis.runs.statuses import has_status

NO_BLOCK = "none"
_PEOPLE = frozenset(
    "subject participant patient rater annotator respondent person user volunteer donor animal mouse vp proband "
    "probandin versuchsperson sujet".split()
)
_MOST_SCORES = 12  # scores beside the one analysed, in a table that has many
_MOST_LEVELS = 100
FIRST_CHOICE = "clip_i"  # the score of our own runs where none is named, whichever record is read first


@dataclass(frozen=True)
class Asked:
    """What the user named, all of it optional. model: "score ~ terms". block: a column, or "none".

    registered: what of it (score, direction, factors) was registered before the study ran and is not named now.
    """

    metric: str | None = None
    factors: tuple[str, ...] = ()
    model: str | None = None
    block: str | None = None
    maximize: bool | None = None
    registered: frozenset[str] = frozenset()

    def why(self, what: str) -> str:
        return "as registered" if what in self.registered else "as asked"


@dataclass(frozen=True)
class Choices:
    """What is analysed; factors is empty until they are guessed. `said`: one paragraph on what was guessed."""

    frame: pd.DataFrame = field(default_factory=pd.DataFrame)
    metric: str = ""
    metrics: list[str] = field(default_factory=list)
    factors: list[str] = field(default_factory=list)
    terms: list[str] = field(default_factory=list)
    block: str | None = None
    asked: Asked = field(default_factory=Asked)
    notes: list[str] = field(default_factory=list)
    roles: dict[str, Any] = field(default_factory=dict)
    said: str = ""

    def settled(self, done: pd.DataFrame, factors: Sequence[str]) -> Choices:
        """With the factors, what is doubtful in them, and the sentences on what was guessed."""
        notes = [*self.notes, *lost_levels(self.frame, done, factors), *alike(done, factors)]
        guessed = roles_of(done)
        notes += [] if self.asked.factors or self.asked.model or is_of_records(done) else guessed.notes
        notes += [] if is_of_records(done) else scales(done, self.metric) + copies(done, self.metric)
        notes += columns_of_levels(done, factors, self.metrics)
        listed = [*factors, *(f for f in guessed.factors if not self.asked.factors and f != self.block)]
        listed = list(dict.fromkeys(listed))
        roles = {"factors": listed, "metrics": self.metrics, "notes": []}
        out = replace(self, factors=list(factors), notes=list(map(outer, notes)), roles=roles)
        return replace(out, said=_said(out))


def choose(runs: pd.DataFrame, asked: Asked, source: str) -> Choices:
    """Score, block and, where they are named, factors; ValueError names the choices where a name is unknown.

    Columns whose names hold ":" or "*" are renamed in the returned frame so that models can hold them (see `inner`).
    """
    attrs = dict(runs.attrs)
    runs = runs.rename(columns={c: inner(c) for c in runs.columns if inner(c) != c})
    runs.attrs = attrs
    if not is_of_records(runs):
        roles = roles_of(runs)
        runs.attrs["roles"] = {"factors": roles.factors, "metrics": roles.metrics, "notes": roles.notes}
    columns = [str(c) for c in runs.columns]
    metric, factors, terms = asked.metric, list(asked.factors), []
    if asked.model is not None:
        metric, written = parse_model(asked.model)
        parsed = parse_terms(written, [outer(c) for c in columns])
        parsed = [tuple(_factor(runs, name, source) for name in term) for term in parsed]
        terms, factors = [":".join(t) for t in parsed], list(dict.fromkeys(name for t in parsed for name in t))
    else:
        factors = list(dict.fromkeys(_factor(runs, name, source) for name in factors))
    metrics = metric_columns(runs)
    metric = _score(runs, metrics, metric, factors, source)
    factors = _checked(runs, factors, metric, source)
    metrics = [m for m in metrics if m not in factors]
    notes = []
    if not is_of_records(runs) and len(metrics) > _MOST_SCORES:
        beside = [m for m in metrics if m != metric]
        notes.append(f"{len(beside)} columns may be scores beside {metric}; the first {_MOST_SCORES} are shown.")
        metrics = [metric, *beside[:_MOST_SCORES]]
    if metric not in metrics:
        metrics = [metric, *metrics]
    block = _block(runs, asked.block, columns, factors)
    return Choices(runs, metric, metrics, factors, terms, block, asked, notes)


def column_named(name: str, columns: Sequence[str]) -> str:
    """The column of a frame as `choose` returns it that a user's name means; ValueError where none or several do."""
    return inner(name) if inner(name) in columns else resolve(inner(name), columns)


def _score(runs: pd.DataFrame, metrics: list[str], asked: str | None, factors: list[str], source: str) -> str:
    finished = runs[runs["status"] == "finished"] if has_status(runs) else runs
    if asked is None:
        usable = [m for m in metrics if m not in factors and finished[m].notna().any()]
        usable = usable or [m for m in metrics if m not in factors]
        if metrics and not usable:
            what = "is asked for as a factor" if len(metrics) == 1 else "are asked for as factors"
            named = ", ".join(map(outer, metrics))
            raise ValueError(f"{named} {what}, which leaves no score of {source}; --metric names one.")
        if not usable:
            reasons = runs["reason"].dropna() if is_of_records(runs) and "reason" in runs else pd.Series(dtype=str)
            why = f" (first reason: {min(map(str, reasons))})" if len(reasons) else ""
            numbers = [] if is_of_records(runs) else [c for c in map(str, runs.columns) if _is_numeric(runs[c])]
            hint = f"; --metric takes any column of numbers: {', '.join(numbers[:12])}" if numbers else ""
            raise ValueError(f"No run in {source} has a score{why}{hint}.")
        return FIRST_CHOICE if is_of_records(runs) and FIRST_CHOICE in usable else usable[0]
    try:
        name = column_named(asked, list(map(str, runs.columns)))
    except ValueError:
        raise ValueError(f"Unknown metric {asked!r}; the scores in {source} are {', '.join(metrics)}.") from None
    if name not in metrics and (is_of_records(runs) or not _is_numeric(runs[name])):
        raise ValueError(f"Unknown metric {asked!r}; the scores in {source} are {', '.join(metrics)}.")
    return name


def _is_numeric(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _factor(runs: pd.DataFrame, name: str, source: str) -> str:
    try:
        return column_named(name, list(map(str, runs.columns)))
    except ValueError as error:
        if " can be " in str(error):
            raise
        raise _unknown_factor(runs, name, source) from None


def _unknown_factor(runs: pd.DataFrame, name: str, source: str) -> ValueError:
    choices = ", ".join(map(outer, factor_columns(runs))) or "none: nothing varies"
    others = "" if is_of_records(runs) else "; any other column with two or more values can be one, too"
    return ValueError(f"Unknown factor {outer(name)!r}; the factors that vary in {source} are {choices}{others}.")


def _checked(runs: pd.DataFrame, factors: list[str], metric: str, source: str) -> list[str]:
    """The factors asked for, where each varies and none is the score."""
    for name in factors:
        ours = name in FACTORS or name in factor_columns(runs)
        if runs[name].nunique() < 2 or name == metric or (is_of_records(runs) and not ours):
            raise _unknown_factor(runs, name, source)
        if _is_numeric(runs[name]) and runs[name].nunique() > _MOST_LEVELS:
            raise ValueError(
                f"{outer(name)} has {runs[name].nunique()} different values in {len(runs)} runs, too many for the "
                f"levels of a factor (at most {_MOST_LEVELS})."
            )
    return factors


def _block(runs: pd.DataFrame, asked: str | None, columns: Sequence[str], factors: Sequence[str]) -> str | None:
    if asked is not None:
        return None if asked.lower() == NO_BLOCK else column_named(asked, columns)
    folds = [c for c in columns if "_".join(tokens(c)) in FOLDS and _is_numeric(runs[c])]
    if "seed" in runs or folds:
        return "seed" if "seed" in runs else folds[0]
    return None if is_of_records(runs) else _person(runs, [f for f in roles_of(runs).factors if f not in factors])


def _person(runs: pd.DataFrame, factors: Sequence[str]) -> str | None:
    """The factor whose levels are people (or animals) of whom each has all levels of every other factor, if one is."""
    people = [f for f in factors if set(tokens(outer(f))) & _PEOPLE and runs[f].nunique() > 2]
    others = [f for f in factors if f not in people and runs[f].nunique() > 1]
    if len(people) != 1 or not others:
        return None
    each = runs.groupby(people[0])
    complete = all((each[f].nunique() == runs[f].nunique()).mean() > 0.5 for f in others)
    return people[0] if complete else None


def runs_to_compare(runs: pd.DataFrame, metric: str, block: str | None = None) -> tuple[pd.DataFrame, list[str]]:
    """The finished runs with a finite score and, where most have one, a block; and sentences that count the others."""
    notes = []
    finished = runs
    if has_status(runs):
        other = runs["status"] != "finished"
        if other.any():
            counts = ", ".join(
                f"{n} {value}" for value, n in runs.loc[other, "status"].value_counts(dropna=False).items()
            )
            many = int(other.sum())
            verb, who = ("is", "it") if many == 1 else ("are", "they")
            notes.append(f"{many} of {len(runs)} runs {verb} left out, as {who} did not finish: {counts}.")
        finished = runs[~other]
    score = finished[metric].astype(float)
    infinite, missing = np.isinf(score), score.isna()
    if infinite.any():
        notes.append(_left_out(finished, infinite, f"infinite {outer(metric)}"))
    if missing.any():
        notes.append(_left_out(finished, missing, f"no {outer(metric)}"))
    done = finished[np.isfinite(score)]
    if block is not None and 0 < (lacking := done[block].isna()).sum() < len(done) / 2:
        notes.append(_left_out(done, lacking, f"no {outer(block)}"))
        done = done[~lacking]
    return done.copy(), notes


def _left_out(runs: pd.DataFrame, which: pd.Series, what: str) -> str:
    count = int(which.sum())
    verb = "runs has" if count == 1 else "runs have"
    if is_of_records(runs) and "task" in runs and runs["task"].nunique() > 1:  # each task has scores of its own
        tasks = runs.loc[which, "task"].dropna().unique()
        if len(tasks) == 1 and not (runs.loc[~which, "task"] == tasks[0]).any():
            verb = f"runs, those of task {tasks[0]}, {'has' if count == 1 else 'have'}"
    return f"{count} of {len(runs)} {verb} {what} and {'is' if count == 1 else 'are'} left out."


def _said(choices: Choices) -> str:
    """What is analysed, and how each guess is overruled."""
    asked, metric = choices.asked, choices.metric
    by_model = asked.model is not None
    upward = higher_is_better(metric) if asked.maximize is None else asked.maximize
    way = "larger is better" if upward else "smaller is better"
    if asked.maximize is not None:
        why = asked.why("direction")
    elif not upward:
        why = "by its name; --maximize turns that"
    else:
        why = "no word for a loss, an error or a cost in its name; --minimize turns that"
    score = asked.why("score") if asked.metric or by_model else "guessed; --metric names another"
    text = f"Score: {outer(metric)} ({score}), {way} ({why})."
    factors = ", ".join(_with_parts(choices.factors)) or "none varies"
    why = asked.why("factors") if asked.factors or by_model else "guessed; --factors names others"
    text += f" Factors: {factors} ({why})."
    block = outer(choices.block) if choices.block and choices.block not in choices.factors else "none"
    return text + f" Block: {block} ({'as asked' if asked.block else 'guessed; --block names another, or none'})."


def said_of_block(choices: Choices, done: pd.DataFrame, block: str | None) -> str:
    """The paragraph on what was guessed, in which a block that the runs cannot have is none, with the reason."""
    name = choices.block
    if block is not None or name is None or name in choices.factors or not len(done):
        return choices.said
    if done[name].nunique() < 2:
        why = f"all runs have the same {outer(name)}"
    elif done[name].isna().any():
        why = f"many runs have no {outer(name)}"
    else:
        why = f"most runs have a {outer(name)} that no other design was run with"
    return choices.said.replace(f" Block: {outer(name)} (", f" Block: none, as {why} (", 1)


def _with_parts(factors: Sequence[str]) -> list[str]:
    """The factors' names; din and dout stand with the placement, whose parts they are."""
    parts = [f for f in factors if f in ("din", "dout")] if "placement" in factors else []
    said = " and ".join(parts)
    return [
        f"placement (with {said})" if name == "placement" and parts else outer(name)
        for name in factors
        if name not in parts
    ]
