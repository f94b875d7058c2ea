"""What each pair of levels of a factor needs: in an incomplete design some are easy to tell and some impossible."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from analysis.comparisons.means import fit_means
from analysis.linear_model.design import Terms, build
from analysis.linear_model.solve import Reduced, orthonormal


def pair_table(
    frame: pd.DataFrame,
    metric: str,
    factor: str,
    terms: Terms | None = None,
    block: str | Sequence[str] | None = None,
) -> pd.DataFrame:
    """For each pair of levels what these runs say about it.

    Columns a, b; estimable (whether the design tells their difference at all: if not, no number of seeds does); spread
    (variance of the estimated difference over that of a run; NaN where not estimable); signal (noncentrality of the
    type II F test of the factor, over effect^2 / variance, when the two differ by the effect and all other levels lie
    in their middle). Both are for the runs of the frame; with k times as many seeds spread is 1 / k and signal k times
    as large.

    >>> frame = pd.DataFrame({"g": list("aabbcc"), "y": [1, 2, 3, 2, 3, 4.0]})
    >>> pair_table(frame, "y", "g").round(3).values.tolist()[0]
    ['a', 'b', True, 1.0, 1.0]
    """
    given = [factor] if terms is None else terms
    m = fit_means(frame, metric, factor, given, block, units=False)
    model = build(frame, metric, given, block=block)
    reduced, term = Reduced(model), (factor,)
    others = [()] + [t for t in model.terms if t != term and not set(term) < set(t)]
    q = orthonormal(reduced.of([term]), orthonormal(reduced.of(others)))
    shape = q.T @ reduced.of([term])  # (df, levels)
    levels = m.factor.levels
    pairs = list(combinations(range(len(levels)), 2))
    C = np.zeros((len(pairs), len(levels)))
    for row, (i, j) in zip(C, pairs, strict=True):
        row[i], row[j] = 1.0, -1.0
    told = m.estimable(C)
    return pd.DataFrame({
        "a": [levels[i] for i, _ in pairs], "b": [levels[j] for _, j in pairs], "estimable": told,
        "spread": np.where(told, np.sum((C @ m.root) ** 2, axis=1), np.nan),
        "signal": np.sum((C / 2 @ shape.T) ** 2, axis=1),
    })  # fmt: skip
