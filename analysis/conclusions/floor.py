"""Floor and ceiling, for the first paragraph of a report: whether training moved the score, and how sure that is."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from analysis.comparisons.means import fit_means, tied_by
from analysis.comparisons.moderated import moderated_means
from analysis.conclusions.claims import Claim, Part
from analysis.conclusions.words import DESIGN, end, figure, level_of, percent, plural
from analysis.linear_model.blocks import SEED
from analysis.linear_model.quadrature import one_factor_ppf

_NEAR = 0.97  # share of the way to the ceiling above which levels can hardly be told apart


def anchors(frame: pd.DataFrame, metric: str, factor: str, block: str | None) -> Part:
    """Where the means lie between floor and ceiling, and bounds of what the best level gained over the floor."""
    floor_of = frame.get(f"{metric}_floor", pd.Series(dtype=float))
    if floor_of.isna().all():
        return Part()
    sign = 1 if end(metric) == "highest" else -1
    runs = frame.assign(gain=sign * (frame[metric] - floor_of)).dropna(subset=["gain"])
    floor, gain = float(floor_of.mean()), float(runs.groupby(factor)["gain"].mean().max())
    ceiling = float(frame.get(f"{metric}_ceiling", pd.Series(dtype=float)).mean())
    share = shares_of_way(frame, metric, factor, block)
    own = own_floors(frame, metric, factor, block)
    whose = plural(factor).capitalize() if factor in (DESIGN, "placement") else "Levels"
    apart = (
        f"{whose} have floors of their own ({figure(floor_of.min())} to {figure(floor_of.max())}, the model untuned)."
    )
    if len(share):
        best, worst = (f"{percent(float(v))} %" for v in (share.max(), share.min()))
        if own:
            said = (
                f"{apart} Of the way from its floor to its ceiling {level_of(factor, share.idxmax())} goes furthest, "
                f"{best}, and {level_of(factor, share.idxmin())} least, {worst}."
            )
        else:
            said = (
                f"The best mean lies {best} of the way from the floor ({figure(floor)}, the model untuned) to "
                f"the ceiling ({figure(ceiling)}), the worst {worst}."
            )
        if share.min() > _NEAR:
            said += " All means are at the ceiling, where the score can hardly tell levels apart."
    elif own:
        means = runs.assign(_floor=floor_of).groupby(factor)[["gain", "_floor", metric]].mean()
        most = means.loc[means["gain"].idxmax()]
        name = level_of(factor, means["gain"].idxmax())
        said = f"{apart} {name} gained most over its own, from {figure(most['_floor'])} to {figure(most[metric])}."
    else:
        said = f"The floor (the model untuned) is {figure(floor)}, the best mean {figure(floor + sign * gain)}."
    told = _gain(runs, metric, factor, block)
    return Part([said, *told.sentences], told.claims)


def shares_of_way(frame: pd.DataFrame, metric: str, factor: str, block: str | None) -> pd.Series:
    """How far each level went from its own floor to its own ceiling (0 to 1), by level; empty where this is unknown.

    Mean gain over mean way of the level's own runs, both adjusted for the block where levels lack some of it.
    """
    known = {f"{metric}_floor", f"{metric}_ceiling", factor} <= set(frame)
    if not known:
        return pd.Series(dtype=float)
    floor, ceiling = frame[f"{metric}_floor"], frame[f"{metric}_ceiling"]
    runs = frame.assign(_gain=frame[metric] - floor, _way=ceiling - floor).dropna(subset=["_gain", "_way", factor])
    sign = 1 if end(metric) == "highest" else -1
    if not len(runs):
        return pd.Series(dtype=float)
    way = _level_means(runs, "_way", factor, block)
    return _level_means(runs, "_gain", factor, block) / way if (sign * way > 0).all() else pd.Series(dtype=float)


def own_floors(frame: pd.DataFrame, metric: str, factor: str, block: str | None) -> bool:
    """Whether levels have different floors, as they have under different guidance; seeds alone do not count."""
    column = f"{metric}_floor"
    runs = frame.dropna(subset=[column, factor]) if column in frame else frame[:0]
    if not len(runs):
        return False
    if block is not None and block in runs and (runs.groupby(block)[column].agg(np.ptp) <= _same(runs[column])).all():
        return False
    means = _level_means(runs, column, factor, block)
    return bool(np.ptp(means) > _same(means))


def _same(values: pd.Series) -> float:
    """A difference of floors that is rounding."""
    return 1e-6 * float(values.abs().max())


def _level_means(runs: pd.DataFrame, column: str, factor: str, block: str | None) -> pd.Series:
    """Mean of a column by level, adjusted for the block where there is one."""
    plain = runs.groupby(factor)[column].mean()
    if block is None or block not in runs or runs[block].isna().any() or len(plain) < 2:
        return plain
    m = fit_means(runs, column, factor, block=tied_by(block, runs, column, factor))
    return pd.Series(m.value, index=m.factor.levels)


def _gain(runs: pd.DataFrame, metric: str, factor: str, block: str | None) -> Part:
    """What the runs say about the gain over the floor: some level gained, all lost, or neither can be told."""
    bounds = gain_bounds(runs, factor, block)
    if bounds is None:
        one = factor.strip("()") if factor in (DESIGN, "placement") else "level"
        each = f"each {one}" if runs[factor].nunique() == len(runs) else f"most {plural(factor)}"
        return Part([f"There is one run of {each}, so nothing says whether such a gain is chance."])
    best, mean, low, high, least, units = bounds
    name = level_of(factor, best)
    one = factor.strip("()") if factor in (DESIGN, "placement") else f"level of {factor}"
    method = "Floor: bounds of the gain"
    if low > 0:
        said = f"With 95 % confidence some {one} gained over its floor: {name} by at least {figure(low, 2)}."
        verdict = "yes"
    elif least < 0:
        said = f"With 95 % confidence every {one} is worse in {metric} than the model untuned."
        verdict = "no"
    else:
        said = (
            f"Whether training moved {metric} from its floor these runs cannot tell: gains of the best {one} "
            f"({name}) between {figure(low, 2)} and {figure(high, 2)} agree with them."
        )
        verdict = "undecided"
    return Part([said], [Claim("above floor", str(best), verdict, said, mean, low, high, 0.95, units=units,
                               method=method)])  # fmt: skip


def gain_bounds(
    runs: pd.DataFrame, factor: str, block: str | None
) -> tuple[object, float, float, float, float, int] | None:
    """(best level, its mean gain, low, high, upper bound of every level's gain, runs); None where most have one run.

    The error has two parts, each bounded at 97.5 %: that of the levels (maximum modulus over all of them), and that of
    the seeds, common to all levels (Student's t over seeds), as a floor is measured once a seed.
    """
    if not runs.groupby(factor).size().median() > 1:  # the few designs that were run again tell too little of the rest
        return None
    single = runs[factor].nunique() < 2
    frame = runs.assign(level="all") if single else runs.assign(level=runs[factor].astype(str))
    m = fit_means(frame, "gain", "level", block=None if single else block)
    if m.df <= 0 or m.variance <= 0:
        return None
    if single:
        half = np.array([stats.t.ppf(0.975, m.df) * np.sqrt(m.variance * np.sum(m.root[0] ** 2))])
    else:
        ratio, df = moderated_means(m)
        se = np.sqrt(m.variance * ratio * np.sum(m.root**2, axis=1))
        half = np.array([one_factor_ppf(0.975, np.zeros(len(se)), float(d), True) for d in df]) * se
        half = half + _seed_part(frame, block or SEED)
    at = int(np.argmax(m.value))
    value = m.value
    return (
        runs[factor].iloc[0] if single else m.factor.levels[at], float(value[at]), float(value[at] - half[at]),
        float(value[at] + half[at]), float((value + half).max()), int(m.counts.sum()),
    )  # fmt: skip


def _seed_part(frame: pd.DataFrame, seed: str) -> float:
    """Half width at 97.5 % of what the seeds add to all levels alike; 0 where no seed is shared, infinite for one."""
    if seed not in frame or frame[seed].isna().any():
        return 0.0
    shared = frame.groupby(seed)["level"].nunique()
    if not (shared > 1).any():
        return 0.0
    if len(shared) < 2:
        return float("inf")
    effect = (frame["gain"] - frame.groupby("level")["gain"].transform("mean")).groupby(frame[seed]).mean()
    n = len(effect)
    return float(stats.t.ppf(1 - 0.0125, n - 1) * effect.std(ddof=1) / np.sqrt(n))
