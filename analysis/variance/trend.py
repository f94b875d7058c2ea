"""Trends of a numeric factor: how much of its effect is linear, quadratic, ... and what is left over."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import special

from analysis.linear_model.design import Terms, build, trend_values
from analysis.linear_model.solve import Coefficients, Reduced, orthonormal
from analysis.variance.effect_size import effect_sizes

_NAMES = {1: "linear", 2: "quadratic", 3: "cubic"}


def trends(
    frame: pd.DataFrame,
    metric: str,
    factor: str,
    terms: Terms = (),
    *,
    block: str | Sequence[str] | None = None,
    degree: int | None = None,
    log: bool = False,
) -> pd.DataFrame:
    """Split the effect of a numeric factor (mid_dim, scale, ...) into polynomial trends, adjusted for other terms.

    terms: further terms of the model; those that hold the factor (interactions) count for the residual only. degree:
    highest trend (default: 3, or one less than the levels); what the levels show beyond it is the row "lack of fit".
    log: the trend is over the logarithm, as suits factors that double. Each trend is adjusted for the lower ones; the
    residual is that of the model with the factor as levels. Index trend; columns slope (of the linear trend alone,
    metric per unit or, with log, per factor e), sum_sq, df, F, p, eta2_partial, omega2_partial. Reference: Draper &
    Smith, Applied Regression Analysis (1998), ch. 22.

    >>> frame = pd.DataFrame({"m": [1, 2, 4, 8] * 3, "y": [1, 2.1, 3.2, 4, 1.2, 2, 2.9, 4.1, 0.9, 2.2, 3.1, 3.9]})
    >>> trends(frame, "y", "m", log=True)["p"].lt(0.05).to_dict()
    {'linear': True, 'quadratic': False, 'cubic': False}
    """
    column = pd.to_numeric(frame[factor], errors="coerce") if factor in frame else None
    if column is None or column.isna().all():
        raise ValueError(f"{factor} is not a numeric column of the frame, so it has no trend.")
    if log and (column <= 0).any():
        raise ValueError(f"{factor} has values that are not above 0, so its logarithm is not defined.")
    values = np.log(column) if log else column
    levels = int(values.nunique())
    degree = min(3 if degree is None else degree, levels - 1)
    if degree < 1:
        raise ValueError(f"{factor} has one level, so it has no trend.")
    data = frame.assign(**{factor: values})
    given = [terms] if isinstance(terms, str) else list(terms)
    given = [term for term in given if term != factor]
    model = build(data, metric, [*given, factor] if given else [factor], block=block)
    reduced = Reduced(model)
    solution = Coefficients(reduced.R, reduced.z)
    df2 = model.n - solution.rank
    rss = reduced.residual(orthonormal(reduced.R))
    base = orthonormal(reduced.of([(), *(t for t in model.terms if factor not in t)]))
    f = model.factors[factor]
    f.degree = degree
    shapes = trend_values(f)
    f.degree = 0
    indicator = reduced.of([(factor,)])
    rows: dict[str, dict[str, float]] = {}
    for d in range(degree + 1):
        columns = indicator @ shapes[:, [d]] if d < degree else indicator
        q = orthonormal(columns, base)
        if not q.shape[1]:
            continue
        ss, df = float(np.sum((q.T @ reduced.z) ** 2)), q.shape[1]
        row: dict[str, float] = {"sum_sq": ss, "df": float(df)}
        if d == 0:
            x = np.asarray(f.levels, float)
            raw = indicator @ (x - x.mean())
            row["slope"] = float((q[:, 0] @ reduced.z) / (q[:, 0] @ raw))
        if df2 > 0 and rss > 0:
            F = ss / df / (rss / df2)
            effects = effect_sizes(F, df, df2, model.n)
            row |= {"F": F, "p": float(special.fdtrc(df, df2, F))}
            row |= {k: effects[k] for k in ("eta2_partial", "omega2_partial")}
        rows[_NAMES.get(d + 1, f"degree {d + 1}") if d < degree else "lack of fit"] = row
        base = np.concatenate([base, q], axis=1)
    names = ["slope", "sum_sq", "df", "F", "p", "eta2_partial", "omega2_partial"]
    out = pd.DataFrame.from_dict(rows, orient="index", columns=names)
    out.index.name = "trend"
    notes = model.notes + (["No residual is left, so no trend can be tested."] if df2 <= 0 or rss == 0 else [])
    out.attrs = {"metric": metric, "df_residual": float(df2), "notes": notes}
    return out
