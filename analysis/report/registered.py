"""What was registered before a study ran, beside what a page of it analyses."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from analysis.linear_model.design import parse_terms
from analysis.planning.registered import FILE, Registration, read_registration
from analysis.report.words import listing
from analysis.runs.asked import Asked
from analysis.runs.load import metric_columns


def as_registered(asked: Asked, folder: Path, runs: pd.DataFrame) -> tuple[Asked, Registration | None, list[str]]:
    """What was asked for, completed by the registered question; the registration; and what is doubtful about it."""
    if not folder.is_dir():
        return asked, None, []
    found = read_registration(folder)
    if found is None:
        damaged = (folder / FILE).exists()
        return asked, None, [f"{FILE} is damaged or was changed, so nothing counts as registered."] if damaged else []
    question, taken = found.question, set()
    if asked.metric is None and asked.model is None and question.score in metric_columns(runs):
        terms = parse_terms(question.model) if question.model else []
        varying = all(name in runs and runs[name].nunique() > 1 for term in terms for name in term)
        if terms and varying and not asked.factors:
            asked = replace(asked, model=f"{question.score} ~ {question.model}")
            taken.add("factors")
        else:
            asked = replace(asked, metric=question.score)
        taken.add("score")
    if asked.maximize is None and "score" in taken:
        asked = replace(asked, maximize=question.maximize)
        taken.add("direction")
    return replace(asked, registered=frozenset(taken)), found, []


def when(registration: Registration) -> str:
    """The date and time of a registration."""
    return datetime.fromtimestamp(registration.at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def registered_note(
    registration: Registration, score: str, maximize: bool, factors: list[str], terms: list[str], runs: pd.DataFrame
) -> str:
    """For the top of the page: the question, whether it came before the runs, and where the page departs from it."""
    question = registration.question
    named = f"{question.score}, {'larger' if question.maximize else 'smaller'} is better"
    over = question.model or f"the main effects of {listing(question.factors)}"
    said = f"The question ({named}; {over}; alpha {question.alpha:g}; {_looks(question.looks)}) was registered on "
    if registration.in_time:
        said += f"{when(registration)}, before any run ended."
    else:
        count = registration.ended
        said += (
            f"{when(registration)}, after {count} {'run' if count == 1 else 'runs'} had ended, so it was not chosen "
            "blind to the results."
        )
    other = departures(registration, score, maximize, factors, terms)
    said += f" This page departs from it in {', '.join(other)}: what it says of these is exploratory." if other else ""
    beyond = [r for r in runs.get("run_id", pd.Series(dtype=str)).astype(str) if r not in registration.runs]
    missing = len(registration.runs) - (len(runs) - len(beyond))
    if beyond:
        said += f" {len(beyond)} of the {len(runs)} runs are not of the registered plan."
    if missing > 0:
        said += f" {missing} of the {len(registration.runs)} registered runs have no record."
    return said


def departures(
    registration: Registration, score: str, maximize: bool, factors: list[str], terms: list[str]
) -> list[str]:
    """In which points a page answers another question than the one that was registered."""
    question = registration.question
    found = []
    if score != question.score:
        found.append(f"the score ({score})")
    elif maximize != question.maximize:
        found.append(f"the direction ({'larger' if maximize else 'smaller'} is better)")
    if question.model:
        asked = {frozenset(term) for term in parse_terms(question.model)}
        if asked != {frozenset(term.split(":")) for term in terms}:
            found.append(f"the model ({' + '.join(terms)})")
    else:
        more = sorted(set(factors) - set(question.factors) - {"seed"})
        less = sorted(set(question.factors) - set(factors) - {"seed"})
        found += [f"the factors (also {', '.join(more)})"] if more else []
        found += [f"the factors (without {', '.join(less)})"] if less else []
    return found


def _looks(looks: int) -> str:
    return "one look" if looks == 1 else f"{looks} looks"
