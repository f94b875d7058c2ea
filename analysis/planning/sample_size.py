"""How much a study can see: power of the F test, runs needed, and the smallest effect the study at hand would find."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy import special, stats
from scipy.optimize import brentq

from analysis.linear_model.blocks import block_of
from analysis.linear_model.design import Terms, parse_terms
from analysis.linear_model.units import UNIT, stratum_of
from analysis.planning.pair_power import pair_table
from analysis.variance.table import anova


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
    frame, _, block = stratum_of(frame, metric, factor, [factor], block)
    table = anova(frame, metric, [factor], block=block, units=False)
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
    frame, _, block = stratum_of(frame, metric, factor, [factor], block)
    table = anova(frame, metric, [factor], block=block, units=False)
    s, levels = float(np.sqrt(table.loc["residual", "mean_sq"])), frame[factor].nunique()
    if not s > 0 or not abs(difference) > 0 or levels < 2:
        raise ValueError("The runs needed are defined for a difference other than 0, two levels and some residual.")
    for n in [*range(2, 1000), *np.unique(np.logspace(3, 9, 601).astype(np.int64)).tolist()]:
        if _t_power(abs(difference) / s / np.sqrt(2 / n), levels * (n - 1), alpha) >= target:
            return int(n)
    raise ValueError(f"A difference of {difference} is too small against a residual spread of {s:.3g}.")


def seeds_needed(
    frame: pd.DataFrame,
    metric: str,
    factor: str,
    effect: float,
    *,
    terms: Terms | None = None,
    target: float = 0.8,
    alpha: float = 0.05,
    most: int = 1000,
) -> pd.DataFrame:
    """How many seeds a study like this pilot needs to detect a difference of `effect` between two levels of a factor.

    terms: the model whose residual is the spread of the pilot (default: the factor); the seed is a block where it was
    shared, and rows of one training are one unit. Two tests are planned, each for the pair of levels that is hardest to
    tell: `pair`, the t test of the two levels alone, without adjustment, over the pairs that the design can tell at
    all; and `factor`, the F test of the whole factor when all other levels lie in the middle of the two. Power by the
    noncentral t and F distributions; reference: Cohen, Statistical Power Analysis (1988), ch. 2 and 8.

    Returns a frame with the rows pair and factor; columns seeds (for a power of `target`), power (with so many), and
    seeds_at_worst: with the upper 80 % limit of the residual standard deviation, which a small pilot knows badly; and
    detects: the smallest difference the pilot itself would find with that power. attrs: residual_sd, residual_sd_high,
    df, runs (of a level and seed, where a frame without seeds has one for each run of a level; the harmonic mean over
    the levels), levels, seeds, notes, and pairs: for each pair of levels whether the design can tell it and the power
    of both tests with the seeds of the pilot. NaN where `most` seeds are too few.

    >>> frame = pd.DataFrame({"g": list("aaabbbccc"), "seed": [0, 1, 2] * 3, "y": [1, 2, 3, 2, 3, 4, 8, 9, 10.5]})
    >>> seeds_needed(frame, "y", "g", effect=1.0)["seeds"].to_dict()
    {'pair': 2.0, 'factor': 3.0}
    """
    if not effect > 0:
        raise ValueError(f"The effect must be a difference above 0 in units of {metric}, not {effect:g}.")
    given = [factor] if terms is None else [":".join(t) for t in parse_terms(terms, frame.columns)]
    blocking = block_of(frame, factor)
    frame, given, block = stratum_of(blocking.frame, metric, factor, given, blocking.block)
    shared = block is not None
    table = anova(frame, metric, given, block=block, units=False)
    df, levels = float(table.loc["residual", "df"]), int(frame[factor].nunique())
    if levels < 2:
        raise ValueError(f"{factor} has one level in this pilot, so it has no effect to detect.")
    if df <= 0 or not table.loc["residual", "mean_sq"] > 0:
        raise ValueError("The pilot has no residual variation to plan with; it needs replicates, such as two seeds.")
    counted = block if block not in (None, UNIT) else "seed"  # people or folds where these are the blocks
    sizes = frame.groupby(factor, observed=True).size()
    seeds = frame[counted].nunique() if counted in frame else max(1, round(float(stats.hmean(sizes))))
    n, rank = table.attrs["n"], table.attrs["rank"]
    s = float(np.sqrt(table.loc["residual", "mean_sq"]))
    high = s * float(np.sqrt(df / stats.chi2.ppf(0.2, df)))
    runs = float(stats.hmean(sizes)) / seeds  # of a level and seed
    df_factor = float(table.loc[factor, "df"])
    pairs = pair_table(frame, metric, factor, given, block)
    spreads, signals = pairs["spread"].dropna() * seeds, pairs["signal"] / seeds  # of one seed
    blocks = frame[block].nunique() if block else 0

    def power_of(test: str, k: float, spread: float, effect: float = effect, at: float | None = None) -> float:
        """at: the pair's own spread or signal; default: those of the pair that is hardest to find."""
        total = n * k / seeds
        rest = total - (rank + (blocks * k / seeds - blocks if shared else 0))
        if rest <= 0:
            return 0.0
        if test == "pair":
            widest = (spreads.max() if len(spreads) else np.nan) if at is None else at
            return _t_power(effect / (spread * np.sqrt(widest / k)), rest, alpha) if widest > 0 else 0.0
        weakest = signals.min() if at is None else at
        return _power(effect / spread * np.sqrt(weakest * k), df_factor, rest, 1, alpha)

    def least(test: str, spread: float) -> float:
        low, up = 0, 1
        while power_of(test, up, spread) < target:
            low, up = up, 2 * up
            if low >= most:
                return float("nan")
        while up - low > 1:
            middle = (low + up) // 2
            low, up = (low, middle) if power_of(test, middle, spread) >= target else (middle, up)
        return float(up) if up <= most else float("nan")

    def detects(test: str) -> float:
        """The smallest difference that the pilot's own seeds find; searched in units of the spread."""
        if df_factor == 0:
            return float("nan")
        return s * _root(lambda units: power_of(test, seeds, s, units * s) - target)

    pairs["power_pair"] = [power_of("pair", seeds, s, at=v * seeds) if v == v else np.nan for v in pairs["spread"]]
    pairs["power_factor"] = [power_of("factor", seeds, s, at=v / seeds) for v in pairs["signal"]]
    rows = {}
    for test in ("pair", "factor"):
        k = least(test, s)
        rows[test] = {
            "seeds": k, "power": power_of(test, int(k), s) if np.isfinite(k) else float("nan"),
            "seeds_at_worst": least(test, high),
            "detects": detects(test),
        }  # fmt: skip
    out = pd.DataFrame.from_dict(rows, orient="index")
    out.index.name = "test"
    out.attrs = {
        "metric": metric, "factor": factor, "effect": effect, "target": target, "alpha": alpha, "residual_sd": s,
        "residual_sd_high": high, "df": df, "runs": runs, "levels": levels, "seeds": seeds, "pairs": pairs,
        "notes": table.attrs["notes"],
    }  # fmt: skip
    return out


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


def pair_words(table: pd.DataFrame) -> str:
    """A sentence on how unequal the pairs of levels are, for what `seeds_needed` returned; "" where all are alike."""
    pairs, a = table.attrs["pairs"], table.attrs
    if pairs["estimable"].all() and np.ptp(pairs["signal"]) < 1e-6 * pairs["signal"].max():
        return ""
    told = pairs[pairs["estimable"]]
    said = (
        f"Over the {len(pairs)} pairs of levels the F test with {a['seeds']} seeds has power "
        f"{pairs['power_factor'].min():.2f} to {pairs['power_factor'].max():.2f}"
    )
    if len(told):
        said += f", the t test of a pair {told['power_pair'].min():.2f} to {told['power_pair'].max():.2f}"
    lost = len(pairs) - len(told)
    return said + (
        f"; {lost} of the pairs no number of seeds can tell, as the design does not connect them." if lost else "."
    )
