"""Numeric factors: does the score rise or fall with them, and along a straight line?"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis.comparisons.multiplicity import adjust
from analysis.conclusions.claims import Claim, Part
from analysis.conclusions.words import p_value
from analysis.linear_model.units import stratum_of
from analysis.variance.trend import trends
from analysis.variance.verdict import ALPHA

_WIDE = 8.0  # largest over smallest level, from which on levels are taken to grow by factors


def is_numeric(frame: pd.DataFrame, factor: str) -> bool:
    """Whether a factor has three or more levels that are numbers."""
    column = frame[factor] if factor in frame else pd.Series(dtype=str)
    numbers = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    return bool(numbers and column.nunique() > 2 and factor != "seed")


def over_logarithm(column: pd.Series) -> bool:
    """Whether levels are taken to grow by factors: all above 0, and the largest eight times the smallest or more."""
    levels = pd.to_numeric(column)
    return bool(levels.min() > 0 and levels.max() / levels.min() >= _WIDE)


def trend_table(
    frame: pd.DataFrame, metric: str, factor: str, terms: Sequence[str], block: str | None
) -> tuple[pd.DataFrame, bool]:
    """`analysis.trends` of a factor in the stratum it is tested in, and whether it is over the logarithm."""
    runs, given, own = stratum_of(frame, metric, factor, terms, block)
    log = over_logarithm(runs[factor])
    return trends(runs, metric, factor, given, block=own, log=log), log


def trend(frame: pd.DataFrame, metric: str, factor: str, terms: Sequence[str], block: str | None) -> Part:
    """A sentence on a numeric factor that matters: rising, falling, or neither all along."""
    table, log = trend_table(frame, metric, factor, terms, block)
    if "linear" not in table.index or not table.loc["linear", "F"] >= 0:
        return Part()
    row, df2 = table.loc["linear"], table.attrs["df_residual"]
    rest = table.drop(index="linear")
    bends = bool((adjust(rest["p"].to_numpy(float), "holm") < ALPHA).any()) if len(rest) else False
    tests = {name: f"F({r['df']:.0f}, {df2:.0f}) = {r['F']:.2f}, {p_value(r['p'])}" for name, r in table.iterrows()}
    test = tests["linear"]
    scale = f"the logarithm of {factor}" if log else factor
    if bends and "quadratic" in rest.index and rest.loc["quadratic", "sum_sq"] > row["sum_sq"]:
        said = (
            f"Over {scale} {metric} bends more than it rises or falls (quadratic trend, {tests['quadratic']}; linear, "
            f"{test})."
        )
    elif row["p"] < ALPHA:
        way = "rises" if row["slope"] > 0 else "falls"
        said = f"On the whole {metric} {way} with {scale} (linear trend, {test})"
        said += ", not along a straight line." if bends else "."
    else:
        said = f"No linear trend of {metric} over {scale} is shown ({test})"
        said += ", but the levels differ otherwise." if bends else "."
    verdict = "yes" if row["p"] < ALPHA else "undecided"
    return Part([said], [Claim("trend", factor, verdict, said, float(row["slope"]), p=float(row["p"]),
                               units=len(frame), method="Numeric factors: trends")])  # fmt: skip
