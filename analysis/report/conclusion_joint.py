"""What several factors say together, for the first paragraph of a report: which one matters, and how much."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.runs.load import factor_columns
from analysis.variance.table import anova

DERIVED = ("mid_dim", "lr", "steps")  # often set for each placement, method or activation: then no factors themselves
NAMED = ("placement", "din", "dout", "activation", "init", "method")  # levels that need no name of their factor
ALPHA = 0.05
DESIGN = "(design)"  # a column of the combinations of levels, which no table has


def own_factors(frame: pd.DataFrame) -> list[str]:
    """The factors of these runs without those that only follow another one, and din and dout as parts of placement.

    Runs without a placement among others that have one are references: what sets only them apart is no factor.

    >>> import analysis
    >>> own_factors(analysis.load_paper_heatmap())
    ['placement']
    """
    varying = factor_columns(frame) if len(frame) else []
    others = [f for f in varying if f not in DERIVED]
    kept = [f for f in varying if f in others or not _follows(frame, f, others)]
    if "placement" in kept and frame["placement"].isna().any():
        placed = frame[frame["placement"].notna()]
        kept = [f for f in kept if placed[f].nunique() > 1]
    return [f for f in kept if "placement" not in kept or f not in ("din", "dout")]


def _follows(frame: pd.DataFrame, factor: str, others: Sequence[str]) -> bool:
    """Whether each level of one of the others has one level of `factor`, which then tells nothing beyond it."""
    return any((frame.groupby(o, dropna=False)[factor].nunique(dropna=False) == 1).all() for o in others)


def factors_of(terms: Sequence[str]) -> list[str]:
    """The factors that the terms of a model are made of."""
    return list(dict.fromkeys(name for term in terms for name in term.split(":")))


def designs(frame: pd.DataFrame, factors: Sequence[str]) -> pd.Series:
    """A name for each run's combination of levels, as "attn2o-ffni, relu, scale 2"."""
    words = [frame[f].map(lambda level, f=f: _level(level) if f in NAMED else f"{f} {_level(level)}") for f in factors]
    return pd.Series([", ".join(parts) for parts in zip(*words, strict=True)], index=frame.index, dtype=str)


def _level(level: object) -> str:
    return f"{level:g}" if isinstance(level, float) else str(level)


def leaves_residual(frame: pd.DataFrame, metric: str, terms: Sequence[str], block: str | None) -> bool:
    """Whether a residual is left beside the terms."""
    return bool(anova(frame, metric, list(terms), block=block).loc["residual", "df"] > 0)


def explained(frame: pd.DataFrame, metric: str, terms: Sequence[str], block: str | None) -> list[str]:
    """Each term of the joint model (type II): what explains most, then what else matters, then the rest."""
    table = anova(frame, metric, list(terms), block=block)
    df2, n = table.loc["residual", "df"], table.attrs["n"]
    rows = table.drop(index=["residual", *([block] if block in table.index and block not in terms else [])])
    tested = rows[rows["F"] >= 0].sort_values("eta2_partial", ascending=False)
    found, rest = tested[tested["p"] < ALPHA], tested[~(tested["p"] < ALPHA)]
    others = f"the others{f' and the {block}' if block else ''} leave"
    said = []
    if len(found):
        first = found.iloc[0]
        said.append(
            f"Of {_listed(factors_of(terms))}, {_term(found.index[0])} matters most for {metric}: it explains "
            f"{percent(first['eta2_partial'])} % of the variance that {others} in these {n} runs "
            f"({f_words(first, df2)}); for the population behind them the estimate is "
            f"{percent(first['omega2_partial'])} % "
            f"[{percent(first['omega2_partial_low'])}, {percent(first['omega2_partial_high'])}]."
        )
        more = [
            f"{_term(t)}, {percent(row['eta2_partial'])} % ({f_words(row, df2)})"
            for t, row in found.iloc[1:].iterrows()
        ]
        said += [f"What matters, too: {'; '.join(more)}."] if more else []
        said += [f"Not shown to matter: {_with_tests(rest, df2)}."] if len(rest) else []
    elif len(rest):
        said.append(
            f"These {n} runs cannot tell whether {_listed(map(_term, rest.index), 'or')} "
            f"matters for {metric}: {_with_tests(rest, df2)}."
        )
    lost = [_term(t) for t in rows.index if t not in tested.index]
    return said + ([f"These runs cannot test {_listed(lost, 'or')}."] if lost else [])


def _with_tests(rows: pd.DataFrame, df2: float) -> str:
    return "; ".join(f"{_term(str(term))} ({f_words(row, df2)})" for term, row in rows.iterrows())


def _term(term: object) -> str:
    parts = str(term).split(":")
    return parts[0] if len(parts) == 1 else f"the interaction of {_listed(parts)}"


def _listed(words: object, last: str = "and") -> str:
    items = [str(word) for word in words]  # type: ignore[attr-defined]
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {last} {items[-1]}"


def f_words(row: pd.Series, df2: float) -> str:
    """F with its degrees of freedom and p."""
    F = "infinite" if np.isinf(row["F"]) else f"{row['F']:.2f}"
    p = "p < 0.0001" if row["p"] < 1e-4 else f"p = {row['p']:.2g}"
    return f"F({row['df']:.0f}, {df2:.0f}) = {F}, {p}"


def percent(share: float) -> str:
    """A share as a whole number of percent."""
    return f"{100 * share:.0f}"
