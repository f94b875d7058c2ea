"""The mean of the level that came first, on seeds that had no part in choosing it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from analysis.comparisons.means import fit_means
from analysis.comparisons.moderated import moderated_means
from analysis.conclusions.claims import Claim, Part
from analysis.conclusions.words import figure, level_of, listed


def confirmed(
    frame: pd.DataFrame, metric: str, factor: str, block: str | None, level: object, fresh: pd.DataFrame | None
) -> Part | None:
    """The mean of the fresh runs of a level, with an interval; None where there are none.

    The mean is theirs alone, so it needs no correction for the choice. The variance of a run is that of the study
    (moderated as for the winner's mean, without what its seeds share), as two or three runs tell little of it; the
    interval by Student's t is about these seeds.
    """
    if fresh is None or factor not in fresh or metric not in fresh:
        return None
    scores = fresh[(fresh[factor] == level) & np.isfinite(fresh[metric].astype(float))]
    m = fit_means(frame, metric, factor, block=block)
    if not len(scores) or m.df <= 0 or not m.variance > 0:
        return None
    at, n, mean = m.factor.levels.index(level), len(scores), float(scores[metric].mean())
    ratio, df = moderated_means(m)
    half = float(stats.t.ppf(0.975, df[at]) * np.sqrt(m.variance * ratio[at] / n))
    name, seeds = level_of(factor, level), listed(sorted(scores["seed"].unique()))
    said = (
        f"{name} was trained again on {n} fresh {'seed' if n == 1 else 'seeds'} ({seeds}), which had no part in "
        f"choosing it: its mean there is {figure(mean)}, with 95 % confidence between {figure(mean - half)} and "
        f"{figure(mean + half)} for these seeds. This estimate is of these runs alone; the spread of a run is that of "
        "the study."
    )
    return Part([said], [Claim("confirmed mean", name, "yes", said, mean, mean - half, mean + half, 0.95, units=n,
                               method="The winner's mean")])  # fmt: skip
