"""Mixed models: random seeds, subjects or tasks; F tests with Satterthwaite or Kenward-Roger degrees of freedom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from scipy import special

from analysis.linear_model.design import Terms, build, parse_terms
from analysis.linear_model.reml import Reml
from analysis.linear_model.solve import Reduced, orthonormal

_LARGEST = 4000


def mixed(
    frame: pd.DataFrame,
    metric: str,
    fixed: Terms,
    random: Terms,
    *,
    df: str = "satterthwaite",
    numeric: Sequence[str] | Mapping[str, int] = (),
) -> pd.DataFrame:
    """Type II F tests of fixed terms in a model with random intercepts, fitted by REML.

    random: grouping terms, crossed or nested, such as "seed", ["subject", "subject:placement"]. df: satterthwaite
    (Fai & Cornelius, J. Stat. Comput. Simul. 54 (1996) 363; as R's lmerTest) or kenward-roger (Biometrics 53 (1997)
    983; as R's pbkrtest, safer with few groups). Ranks are counted, so disconnected designs get the right numerator
    degrees of freedom. Index term; columns F, df, df_residual, p, note. attrs: variances (grouping term -> variance,
    and "residual"), icc (share of each), notes.

    y = X b + sum_k Z_k u_k + e, var(u_k) = s_k^2 I; hypotheses as in the type II table, Q_T' X b = 0.

    >>> import numpy as np
    >>> rng = np.random.default_rng(1)
    >>> runs = pd.DataFrame({"g": list("abc") * 4, "seed": np.repeat(range(4), 3)})
    >>> runs["y"] = runs["g"].map({"a": 0, "b": 2, "c": 4}) + rng.normal(size=4)[runs["seed"]] + rng.normal(size=12)
    >>> mixed(runs, "y", ["g"], "seed")[["df", "df_residual"]].round(3).values.tolist()
    [[2.0, 6.0]]
    """
    if df not in ("satterthwaite", "kenward-roger"):
        raise ValueError(f"df is {df!r}; choose satterthwaite or kenward-roger.")
    groups, terms = parse_terms(random, frame.columns), parse_terms(fixed, frame.columns)
    if not groups:
        raise ValueError("Give at least one random grouping term, such as seed.")
    if both := [":".join(g) for g in groups if set(g) in [set(t) for t in terms]]:
        raise ValueError(f"{both[0]} is both a fixed and a random term; choose one.")
    model = build(frame, metric, [":".join(t) for t in terms + groups], numeric)
    reduced = Reduced(model)
    if len(reduced.z) > _LARGEST:
        raise ValueError(f"The model has more than {_LARGEST} cells and levels; use anova with a block instead.")
    x = orthonormal(reduced.of([(), *terms]))
    fit = Reml(x, [reduced.of([g]) for g in groups], reduced.z, reduced.extra, model.n - len(reduced.z), model.zero)
    names = [":".join(g) for g in groups]
    notes = model.notes + fit.notes(names)
    rows = {}
    for term in terms:
        others = [()] + [t for t in terms if t != term and not set(term) < set(t)]
        q = orthonormal(reduced.of([term]), orthonormal(reduced.of(others)))
        row: dict[str, float | str] = {"df": float(q.shape[1]), "note": ""}
        rows[":".join(term)] = row
        expected = model.expected_df(term)
        if q.shape[1] == 0 or not fit.ok:
            row["note"] = "not estimable" if q.shape[1] == 0 else "no residual variation to test against"
            continue
        if q.shape[1] < expected:
            row["note"] = f"{':'.join(term)} has {q.shape[1]} of {expected} degrees of freedom: the rest is aliased."
        F, df2 = (fit.satterthwaite if df == "satterthwaite" else fit.kenward_roger)(q.T @ x)
        row |= {"F": F, "df_residual": df2, "p": float(special.fdtrc(q.shape[1], df2, F))}
    out = pd.DataFrame.from_dict(rows, orient="index", columns=["F", "df", "df_residual", "p", "note"])
    out.index.name = "term"
    variances = dict(zip([*names, "residual"], map(float, fit.variances), strict=True))
    total = sum(variances.values())
    out.attrs = {
        "metric": metric, "df": df, "variances": variances, "n": model.n,
        "icc": {k: v / total if total > 0 else float("nan") for k, v in variances.items()}, "notes": notes,
    }  # fmt: skip
    return out
