"""When a race looks at its scores, what each look may spend of alpha, and the critical value of a look."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from analysis.linear_model.quadrature import one_factor_ppf

LOOKS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48)  # numbers of seeds; fixed, so that no look depends on what was seen
MOST = LOOKS[-1]


def level_of_a_look(alpha: float) -> float:
    """The error rate of one look: the same for all ten, whether they are reached or not (a union bound)."""
    return alpha / len(LOOKS)


def spent(alpha: float, seeds: int) -> float:
    """What the looks at up to so many seeds have spent of alpha."""
    return level_of_a_look(alpha) * sum(look <= seeds for look in LOOKS)


def looks_up_to(most: int) -> tuple[int, ...]:
    """The looks at up to `most` seeds.

    Raises
    ------
    ValueError
        `most` is none of the looks, so that seeds beyond the last look would decide nothing.
    """
    if most not in LOOKS:
        raise ValueError(f"most={most!r} is no look of a race; choose {', '.join(map(str, LOOKS[:-1]))} or {MOST}.")
    return LOOKS[: LOOKS.index(most) + 1]


@lru_cache(maxsize=4096)
def critical_value(designs: int, df: float, level: float) -> float:
    """One-sided quantile of Dunnett's test at 1 - level, for all designs against one.

    The largest of `designs` - 1 t statistics with `df` degrees of freedom and correlation 1/2 exceeds it with
    probability `level`. By quadrature; tables: Bechhofer and Dunnett, Selected Tables in Mathematical Statistics 11
    (1988).
    """
    return one_factor_ppf(1 - level, np.full(designs - 1, np.sqrt(0.5)), df, two_sided=False)
