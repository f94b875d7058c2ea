"""Words that the sentences of a conclusion share: names, lists, tests and why one is not enough."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from analysis.comparisons.family import current
from analysis.runs.load import higher_is_better
from analysis.variance.verdict import ALPHA

_NAMES = {"din": "the input position (din)", "dout": "the output position (dout)", "mid_dim": "the width (mid_dim)"}
DESIGN = "(design)"  # the column of designs in the frames of a conclusion; no column of a user is called so
SHOWN = 5  # levels that are named; more are counted


def name_of(factor: str) -> str:
    """A factor or an interaction in a sentence."""
    parts = factor.split(":")
    if len(parts) > 1:
        return f"the interaction of {listed(parts)}"
    return _NAMES.get(factor, f"the {factor.strip('()')}" if factor in ("placement", DESIGN) else factor)


def start(text: str) -> str:
    """The text with a capital, unless it is the name of a column."""
    return text[0].upper() + text[1:] if text.startswith("the ") else text


def level_of(factor: str, level: object) -> str:
    """A level in a sentence: numbers with the name of their factor."""
    if isinstance(level, bool | np.bool_) or not isinstance(level, int | float | np.number):
        return str(level)
    return f"{factor} {level:g}"


def figure(value: float, digits: int = 3) -> str:
    """A number in a sentence with so many significant digits; whole where it has more of them.

    >>> [figure(v) for v in (0.81234, 68.07, 6807.4, 1234567.0, 0.00001234)]
    ['0.812', '68.1', '6807', '1234567', '1.23e-05']
    """
    return f"{value:.0f}" if 10**digits <= abs(value) < 10**9 else f"{value:.{digits}g}"


def plural(factor: str) -> str:
    return f"{factor.strip('()')}s" if factor in ("placement", DESIGN) else f"levels of {factor}"


def listed(words: Iterable[object], last: str = "and") -> str:
    items = [str(word) for word in words]
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {last} {items[-1]}"


def named(levels: Iterable[object]) -> str:
    """Levels of a set: all of them up to a few, then how many more."""
    names = [str(level) for level in levels]
    comma = "; " if any(", " in name for name in names) else ", "  # designs of several factors have commas inside
    if len(names) > SHOWN:
        return comma.join(names[:SHOWN]) + f" and {len(names) - SHOWN} more"
    if comma == "; ":
        return comma.join(names)
    return listed(names)


def p_value(p: float) -> str:
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.2g}"


def f_words(row: pd.Series, df2: float | None = None) -> str:
    """F with its degrees of freedom and p."""
    F = "infinite" if np.isinf(row["F"]) else f"{row['F']:.2f}"
    return f"F({row['df']:.0f}, {row['df_residual'] if df2 is None else df2:.0f}) = {F}, {p_value(row['p'])}"


def test_words(row: pd.Series, family: int) -> str:
    """F with p, and p after Holm's adjustment where several terms are tested."""
    same = p_value(row["p_holm"]) == p_value(row["p"])
    return f_words(row) + ("" if same else f", {row['p_holm']:.2g} after {current().method}")


def objection(row: pd.Series, family: int) -> str:
    """Why a term with p below 5 % is not claimed to matter."""
    after = "" if family < 2 and current().kind != "scores" else f", {row['p_claim']:.2g} after {current().method}"
    if current().kind == "terms" and after:
        after += f" over {family} terms"
    p_seed, p_wild = (row[c] if row[c] == row[c] else 0.0 for c in ("p_seed", "p_wild"))
    if p_seed >= max(row["p"], p_wild):
        if p_seed < ALPHA:
            return f"against its change from seed to seed it has {p_value(row['p_seed'])}{after}"
        return f"its effect varies so much from seed to seed that against this variation {p_value(row['p_seed'])}"
    if p_wild > row["p"]:
        after = "" if p_wild >= ALPHA else after
        return f"a test that does not need equal variances (wild bootstrap) has {p_value(row['p_wild'])}{after}"
    if current().kind == "scores":
        return f"with {current().method}, it has {p_value(row['p_claim'])}"
    return f"as one of {family} terms tested together it has {p_value(row['p_claim'])} (Holm)"


def percent(share: float) -> str:
    """A share as a whole number of percent."""
    return f"{100 * share:.0f}"


def omega_words(row: pd.Series) -> str:
    """The explained share with its interval, for a sentence that says of what it is a share."""
    return f"{percent(row['omega2_partial'])} % [{percent(row['omega2_low'])}, {percent(row['omega2_high'])}]"


def end(metric: str, maximize: bool | None = None) -> str:
    """Which end of the metric is good."""
    return "highest" if (higher_is_better(metric) if maximize is None else maximize) else "lowest"
