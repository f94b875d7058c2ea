"""How much a study can see: power of the F test, runs needed, and the smallest effect the study at hand would find."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy import special, stats
from scipy.optimize import brentq

from analysis.anova_table import anova


def power(f: float, levels: int, runs: float, *, blocks: int = 1, alpha: float = 0.05) -> float:
    """Power of the one-way F test of a factor with `levels` levels and `runs` runs a level.

    f: Cohen's effect size (standard deviation of the level means over the residual one; 0.1 small, 0.25 medium, 0.4
    large). blocks: with more than one, the runs of a level are spread over complete blocks, which cost blocks - 1
    degrees of freedom. 1 - beta = P(F'(df1, df2, lambda) > F_crit), lambda = f^2 levels runs. Reference: Cohen,
    Statistical Power Analysis (1988), ch. 8; as R's pwr.anova.test.

    >>> round(power(0.4, levels=4, runs=6), 4)
    0.2892
    """
    if levels < 2 or runs <= 0 or f < 0 or blocks < 1:
        raise ValueError("Power needs at least two levels, some runs, f at least 0 and at least one block.")
    return _power(f, levels - 1, levels * runs - levels - blocks + 1, levels * runs, alpha)


def runs_needed(f: float, levels: int, *, target: float = 0.8, blocks: bool = False, alpha: float = 0.05) -> int:
    """The smallest number of runs a level with which the F test finds an effect f with power `target`.

    blocks: each run of a level is in a block (a seed) of its own that all levels share.

    >>> runs_needed(0.25, levels=5)
    40
    """
    if not 0 < target < 1 or f <= 0:
        raise ValueError("The runs needed are defined for f above 0 and a target power between 0 and 1.")

    def enough(n: int) -> bool:
        return power(f, levels, n, blocks=n if blocks else 1, alpha=alpha) >= target

    low, high = 1, 2
    while not enough(high):
        low, high = high, 2 * high
        if high > 10**9:
            raise ValueError(f"An effect of f = {f} needs more than a thousand million runs.")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def detectable(
    frame: pd.DataFrame,
    metric: str,
    factor: str,
    *,
    block: str | Sequence[str] | None = None,
    target: float = 0.8,
    alpha: float = 0.05,
) -> pd.Series:
    """The smallest effect the study at hand would find with power `target`, in units of the metric.

    Entries: residual_sd; cohen_f and eta2 = f^2 / (1 + f^2) of the F test; range (distance of two levels when all
    others lie in their middle, the arrangement that is hardest to find: f s sqrt(2 levels)); pair (difference of two
    levels, each with the average number of runs, t test without adjustment); runs (a level, on average). NaN with a
    note in attrs where there is no residual.

    >>> frame = pd.DataFrame({"g": list("aaabbbccc"), "y": [1, 2, 3, 2, 3, 4, 8, 9, 10.0]})
    >>> detectable(frame, "y", "g").round(2).to_dict()
    {'residual_sd': 1.0, 'cohen_f': 1.36, 'eta2': 0.65, 'range': 3.32, 'pair': 2.75, 'runs': 3.0}
    """
    table = anova(frame, metric, [factor], block=block)
    df1, df2, n = table.loc[factor, "df"], table.loc["residual", "df"], table.attrs["n"]
    s, notes = float(np.sqrt(table.loc["residual", "mean_sq"])), list(table.attrs["notes"])
    levels = frame[factor].nunique()
    out = dict.fromkeys(("residual_sd", "cohen_f", "eta2", "range", "pair"), float("nan"))
    if df1 > 0 and df2 > 0 and s > 0:
        f = _root(lambda x: _power(x, df1, df2, n, alpha) - target)
        difference = _root(lambda d: _t_power(d, df2, alpha) - target)
        out = {
            "residual_sd": s, "cohen_f": f, "eta2": f * f / (1 + f * f), "range": f * s * np.sqrt(2 * levels),
            "pair": float(difference * s * np.sqrt(2 * levels / n)),
        }  # fmt: skip
    else:
        notes.append("Without residual variation the smallest effect that would be found is not defined.")
    series = pd.Series({**out, "runs": n / levels}, name=factor)
    series.attrs = {"metric": metric, "notes": notes}
    return series


def runs_to_tell(
    frame: pd.DataFrame,
    metric: str,
    factor: str,
    difference: float,
    *,
    block: str | Sequence[str] | None = None,
    target: float = 0.8,
    alpha: float = 0.05,
) -> int:
    """Runs a level needed to tell two levels apart that differ by `difference` (t test, residual spread of this study).

    >>> frame = pd.DataFrame({"g": list("aaabbbccc"), "y": [1, 2, 3, 2, 3, 4, 8, 9, 10.0]})
    >>> runs_to_tell(frame, "y", "g", difference=1.0)
    17
    """
    table = anova(frame, metric, [factor], block=block)
    s, levels = float(np.sqrt(table.loc["residual", "mean_sq"])), frame[factor].nunique()
    if not s > 0 or not abs(difference) > 0 or levels < 2:
        raise ValueError("The runs needed are defined for a difference other than 0, two levels and some residual.")
    for n in [*range(2, 1000), *np.unique(np.logspace(3, 9, 601).astype(np.int64)).tolist()]:
        if _t_power(abs(difference) / s / np.sqrt(2 / n), levels * (n - 1), alpha) >= target:
            return int(n)
    raise ValueError(f"A difference of {difference} is too small against a residual spread of {s:.3g}.")


def _root(gap: Callable[[float], float]) -> float:
    """The zero of an increasing function that is negative at 0."""
    high = 1.0
    while gap(high) < 0:
        high *= 2
    return float(brentq(gap, 0.0, high, xtol=1e-12))


def _power(f: float, df1: float, df2: float, n: float, alpha: float) -> float:
    if df2 <= 0:
        return float("nan")
    critical = special.fdtri(df1, df2, 1 - alpha)
    return float(1 - special.ncfdtr(df1, df2, f * f * n, critical)) if f > 0 else alpha


def _t_power(noncentrality: float, df: float, alpha: float) -> float:
    # The other tail adds less than alpha / 2 and nothing at the powers asked for.
    return float(stats.nct.sf(stats.t.ppf(1 - alpha / 2, df), df, noncentrality)) if noncentrality > 0 else alpha / 2
