"""Effect sizes of an F test and their confidence intervals."""

from __future__ import annotations

import numpy as np
from scipy import special
from scipy.optimize import brentq


def effect_sizes(F: float, df1: float, df2: float, n: int) -> dict[str, float]:
    """Partial effect sizes of an F test with df1 and df2 degrees of freedom in n runs.

    eta2_partial = F df1 / (F df1 + df2), the share in these runs; omega2_partial = df1 (F - 1) / (df1 (F - 1) + n) and
    epsilon2_partial = df1 (F - 1) / (F df1 + df2), nearly unbiased for the population, set to 0 where negative;
    cohen_f = sqrt(F df1 / df2). Formulas: Olejnik & Algina, Psychol. Methods 8 (2003) 434; as R's effectsize.

    >>> {k: round(v, 3) for k, v in effect_sizes(11.97, 9, 10, 20).items()}
    {'eta2_partial': 0.915, 'omega2_partial': 0.832, 'epsilon2_partial': 0.839, 'cohen_f': 3.282}
    """
    if not (df1 > 0 and df2 > 0) or np.isnan(F):
        return dict.fromkeys(("eta2_partial", "omega2_partial", "epsilon2_partial", "cohen_f"), float("nan"))
    if np.isinf(F):
        return {"eta2_partial": 1.0, "omega2_partial": 1.0, "epsilon2_partial": 1.0, "cohen_f": float("inf")}
    signal = max(df1 * (F - 1), 0.0)
    return {
        "eta2_partial": F * df1 / (F * df1 + df2),
        "omega2_partial": signal / (signal + n) if signal else 0.0,
        "epsilon2_partial": signal / (F * df1 + df2),
        "cohen_f": float(np.sqrt(F * df1 / df2)),
    }


def effect_interval(F: float, df1: float, df2: float, n: int | None = None, level: float = 0.95) -> tuple[float, float]:
    """Confidence interval of the explained share of variance, from the noncentral F distribution.

    The noncentralities that put the observed F at the two tails are turned into shares: with n (runs) into the share
    lambda / (lambda + n) of the population (Steiger, Psychol. Methods 9 (2004) 164; R's MBESS::ci.pvaf), without n into
    lambda / (lambda + df2), the scale of eta2_partial in a design of this size (R's effectsize). An interval that
    begins at 0 says that the data do not exclude "no effect".

    >>> tuple(round(x, 3) for x in effect_interval(11.97, 9, 10))
    (0.69, 0.957)
    >>> tuple(round(x, 3) for x in effect_interval(11.97, 9, 10, n=20))
    (0.527, 0.918)
    """
    if not (df1 > 0 and df2 > 0) or np.isnan(F):
        return float("nan"), float("nan")
    if np.isinf(F):
        return 1.0, 1.0
    ends = [noncentrality(F, df1, df2, p) for p in ((1 + level) / 2, (1 - level) / 2)]
    low, high = (x / (x + (df2 if n is None else n)) for x in ends)
    return low, high


def noncentrality(F: float, df1: float, df2: float, p: float) -> float:
    """The lambda >= 0 at which a noncentral F falls below F with probability p; 0 where there is none.

    Where lambda is too large for the noncentral F, its numerator is lambda / df1, and the rest is chi-squared.
    """
    if special.fdtr(df1, df2, F) <= p:
        return 0.0

    def gap(x: float) -> float:
        return float(special.ncfdtr(df1, df2, x, F)) - p

    high = max(1.0, F * df1)
    while gap(high) > 0:
        high *= 2
    if np.isnan([gap(high), gap(high / 2)]).any():
        return float(F * df1 * special.chdtri(df2, p) / df2)
    return float(brentq(gap, 0.0, high, xtol=1e-10, rtol=1e-12))
