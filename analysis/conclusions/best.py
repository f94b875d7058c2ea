"""Which level is best, for the first paragraph of a report: a set that holds it, and the mean of the winner."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from analysis.comparisons.means import fit_means, tied_by
from analysis.comparisons.moderated import moderated_differences, moderated_means
from analysis.comparisons.posthoc import best_set
from analysis.conclusions.claims import Claim, Part
from analysis.conclusions.confirmed import confirmed
from analysis.conclusions.words import end, figure, level_of, named, plural
from analysis.linear_model.quadrature import one_factor_ppf, studentized_range_ppf
from analysis.linear_model.units import strata_of


def best(
    frame: pd.DataFrame,
    metric: str,
    factor: str,
    block: str | None,
    F: float,
    within: float | None,
    fresh: pd.DataFrame | None = None,
    among: bool = False,
) -> Part:
    """The set of the best (Hsu), the winner's mean as picked and as expected, and what is within a margin of the best.

    To be said only of a factor that matters; else see `leader`. F: the factor's, for the shrinkage. fresh: runs on
    seeds that had no part in the choice; where the winner has some, its estimate is theirs. among: say of which levels
    the best is told, where several factors have a best level of their own.
    """
    try:
        table = best_set(frame, metric, factor, block=block, variances="moderated")
    except ValueError as error:
        return Part([str(error)])
    if table["p"].isna().all():
        why = "no test can say, as nothing else varies" if np.isinf(F) else ""
        return leader(frame, metric, factor, block, why, fresh)
    inside = table.index[table["in_set"]]
    k, first = len(inside), level_of(factor, table.index[0])
    names = [level_of(factor, level) for level in inside]
    if k == len(table):
        said = f"Of the {k} {plural(factor)} none can be excluded as the best."
    elif k == 1:
        said = f"With 95 % confidence the best is {first}."
    else:
        said = f"With 95 % confidence the best is among these {k}: {named(names)}."
    said = f"Among the {plural(factor)}: {said[0].lower() if k < len(table) else said[0]}{said[1:]}" if among else said
    method = "Best: Hsu's comparison with the best"
    claim = Claim("best set", factor.strip("()"), "undecided" if k == len(table) else "yes", said, estimate=float(k),
                  level=0.95, units=int(table["n"].sum()), method=method, levels=tuple(map(str, inside)))  # fmt: skip
    won = confirmed(frame, metric, factor, block, table.index[0], fresh)
    won = won or winner(frame, metric, factor, block, table.index[0], F)
    parts = Part([said, *won.sentences], [claim, *won.claims])
    if within is not None:
        near = equivalent(frame, metric, factor, block, within, table)
        parts = Part(parts.sentences + near.sentences, parts.claims + near.claims)
    return parts


def winner(frame: pd.DataFrame, metric: str, factor: str, block: str | None, first: object, F: float) -> Part:
    """The mean of the level that came first: as it was, shrunk, and with an interval that holds whichever comes first.

    The interval is simultaneous over all levels (studentised maximum modulus), so it also covers the one that was
    picked for its mean. With seeds as blocks it is about these seeds. Shrinkage towards the mean of all levels by
    1 - 1/F, the best linear prediction where levels are drawn from a population (Robinson, Stat. Sci. 6 (1991) 15).
    """
    mean, shrunk, low, high, units = winner_numbers(frame, metric, factor, block, first, F)
    inside = strata_of(frame, metric, [factor], block)[0].within
    seeds = " for these trainings" if inside else f" for these {block}s" if block else ""
    name = level_of(factor, first)
    # As many digits as tell the ends apart, three at least.
    digits = max(3, min(15, math.ceil(math.log10(abs(mean) / (high - low))) + 1)) if mean and high > low else 3
    value, expected, bottom, top = (figure(v, digits) for v in (mean, shrunk, low, high))
    said = (
        f"{name} has the {end(metric)} mean, {value}; as it was picked for that, expect {expected} of it, "
        f"and with 95 % confidence between {bottom} and {top}{seeds}."
    )
    claim = Claim("best mean", name, "yes", said, shrunk, low, high, 0.95, units=units,
                  method="The winner's mean")  # fmt: skip
    return Part([said], [claim])


def winner_numbers(
    frame: pd.DataFrame, metric: str, factor: str, block: str | None, level: object, F: float
) -> tuple[float, float, float, float, int]:
    """(mean, shrunk mean, low, high, runs of all levels) of the level that came first, see `winner`."""
    m = fit_means(frame, metric, factor, block=block)
    at = m.factor.levels.index(level)
    ratio, df = moderated_means(m)
    se = float(np.sqrt(m.variance * ratio[at] * np.sum(m.root[at] ** 2)))
    half = one_factor_ppf(0.95, np.zeros(len(m.value)), float(df[at]), True) * se
    mean, centre = float(m.value[at]), float(m.value.mean())
    keep = max(0.0, 1 - 1 / F) if F > 0 else 0.0
    low, high = mean - half, mean + half
    if set(frame[metric].dropna().unique()) <= {0, 1}:  # a share of successes
        low, high = max(low, 0.0), min(high, 1.0)
    return mean, centre + keep * (mean - centre), low, high, int(m.counts.sum())


def leader(
    frame: pd.DataFrame, metric: str, factor: str, block: str | None, why: str = "", fresh: pd.DataFrame | None = None
) -> Part:
    """The level with the best mean where no test says that levels differ: named, and no more."""
    means = fit_means(frame, metric, factor, block=tied_by(block, frame, metric, factor))
    sign = 1 if end(metric) == "highest" else -1
    at = int(np.argmax(sign * means.value))
    name, what = level_of(factor, means.factor.levels[at]), f"{len(means.value)} {plural(factor)}"
    again = confirmed(frame, metric, factor, block, means.factor.levels[at], fresh) or Part()
    first = (
        f"{name} has the {end(metric)} mean ({figure(means.value[at])}); whether it is the best of the {what}, "
        f"{why or 'the runs do not say'}."
    )
    return Part([first, *again.sentences], again.claims)


def equivalent(
    frame: pd.DataFrame, metric: str, factor: str, block: str | None, within: float, table: pd.DataFrame
) -> Part:
    """Levels within a margin of the best (Hsu's bounds) and worse than it by more (Tukey's); the rest is undecided."""
    behind = _behind(frame, metric, factor, block)
    near = [level for level in table.index if table.loc[level, "low"] > -within]
    far = [level for level in table.index if level not in near and behind[level] > within]
    open_ = [level for level in table.index if level not in near and level not in far]
    said = []
    shown = {level: level_of(factor, level) for level in table.index}
    if near:
        said.append(f"Within {within:g} of the best with 95 % confidence: {named(map(shown.get, near))}.")
    if far:
        said.append(f"Worse than the best by more than {within:g} with 95 % confidence: {named(map(shown.get, far))}.")
    if open_:
        said.append(f"Undecided whether within {within:g} of the best: {named(map(shown.get, open_))}.")
    claims = [
        Claim("equivalent", shown[level], "yes" if level in near else "no" if level in far else "undecided",
              f"{level} against the best, margin {within:g}", float(table.loc[level, "gap"]),
              float(table.loc[level, "low"]), float(table.loc[level, "high"]), 0.95, units=int(table.loc[level, "n"]),
              method="Equivalence: within a margin of the best")
        for level in table.index
    ]  # fmt: skip
    return Part(said, claims)


def _behind(frame: pd.DataFrame, metric: str, factor: str, block: str | None) -> dict[object, float]:
    """By how much each level is at least behind some other, simultaneously over all pairs (Tukey-Kramer)."""
    m = fit_means(frame, metric, factor, block=block)
    value = m.value if end(metric) == "highest" else -m.value
    ratio, df = moderated_differences(m)
    gram = m.root @ m.root.T * m.variance
    se = np.sqrt(np.maximum(np.diag(gram)[:, None] + np.diag(gram)[None, :] - 2 * gram, 0.0) * ratio)
    q = np.array([studentized_range_ppf(0.95, len(value), float(d)) for d in df]) / np.sqrt(2)
    lead = value[None, :] - value[:, None] - q[:, None] * se  # (behind, ahead)
    return dict(zip(m.factor.levels, lead.max(axis=1), strict=True))
