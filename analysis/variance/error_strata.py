"""Error strata: designs in which factors are tested against different errors, and repeated measures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import special

from analysis.linear_model.design import Terms, build, parse_terms
from analysis.linear_model.solve import orthonormal, run_columns

_COLUMNS = ["sum_sq", "df", "mean_sq", "F", "p"]


def strata(frame: pd.DataFrame, metric: str, terms: Terms, error: Terms) -> pd.DataFrame:
    """Analysis of variance with error strata, as R's aov(metric ~ terms + Error(error)).

    error: the grouping terms from the coarsest to the finest, such as ["block", "block:variety"] for a split plot. The
    response and the terms are projected on what each grouping adds, and last on the rest ("within"); in each stratum
    the terms are tested one after the other against that stratum's residual. Index (stratum, term); columns sum_sq,
    df, mean_sq, F, p. Meant for balanced data; else use `mixed`. Reference: Wilkinson & Rogers, Appl. Stat. 22 (1973).

    >>> runs = pd.DataFrame({"seed": [0, 0, 1, 1, 2, 2], "g": list("ab") * 3, "y": [1, 2, 3, 5, 5, 6.0]})
    >>> strata(runs, "y", ["g"], ["seed"])["df"].to_dict()
    {('seed', 'residual'): 2.0, ('within', 'g'): 1.0, ('within', 'residual'): 2.0}
    """
    tested, errors = parse_terms(terms, frame.columns), parse_terms(error, frame.columns)
    if not errors:
        raise ValueError("Give at least one error term, such as the seed.")
    names = list(dict.fromkeys(":".join(t) for t in tested + errors))
    model = build(frame, metric, names)
    base = orthonormal(run_columns(model, ()))
    whole = np.eye(model.n) if model.n <= 4000 else None
    if whole is None:
        raise ValueError("Error strata are for studies up to 4000 runs; use mixed or a block instead.")
    rows: dict[tuple[str, str], dict[str, float]] = {}
    for error_term in [*errors, None]:
        stratum = "within" if error_term is None else ":".join(error_term)
        space = orthonormal(whole if error_term is None else run_columns(model, error_term), base)
        y, used = space.T @ model.response, np.zeros((space.shape[1], 0))
        found = []
        for term in tested:
            columns = run_columns(model, term)
            part = space.T @ columns
            # What lies in another stratum projects to rounding error here.
            part = part[:, np.linalg.norm(part, axis=0) > 1e-7 * np.linalg.norm(columns, axis=0)]
            q = orthonormal(part, used)
            if q.shape[1]:
                used = np.concatenate([used, q], axis=1)
                found.append((":".join(term), float(np.sum((q.T @ y) ** 2)), q.shape[1]))
        df2 = space.shape[1] - used.shape[1]
        rss = float(np.sum((y - used @ (used.T @ y)) ** 2))
        for name, ss, df in found:
            row = {"sum_sq": ss, "df": float(df), "mean_sq": ss / df}
            if df2 > 0 and rss > model.zero:
                F = ss / df / (rss / df2)
                row |= {"F": F, "p": float(special.fdtrc(df, df2, F))}
            rows[stratum, name] = row
        if df2 > 0:
            rows[stratum, "residual"] = {"sum_sq": rss, "df": float(df2), "mean_sq": rss / df2}
        base = np.concatenate([base, space], axis=1)
    out = pd.DataFrame.from_dict(rows, orient="index", columns=_COLUMNS)
    out.index = pd.MultiIndex.from_tuples(list(rows), names=["stratum", "term"])
    untested = [":".join(t) for t in tested if not any(":".join(t) == k[1] and "F" in row for k, row in rows.items())]
    notes = [f"{name} is not tested: its stratum has no residual, or no part of it is left." for name in untested]
    out.attrs = {"metric": metric, "notes": model.notes + notes}
    return out


def repeated_measures(frame: pd.DataFrame, metric: str, within: str, subject: str | Sequence[str]) -> pd.DataFrame:
    """One-way repeated measures: each subject (for instance each seed) saw every level of `within` once.

    Runs of one subject and level are averaged; subjects that miss a level are left out and counted. One row, index
    term; columns F, df, df_residual, p, then the sphericity corrections: gg (Greenhouse & Geisser 1959) and hf (Huynh &
    Feldt 1976, at most 1), p_gg, p_hf. gg = tr(S)^2 / ((k - 1) tr(S^2)), S the covariance of k - 1 orthonormal
    contrasts.

    >>> runs = pd.DataFrame({"seed": [0, 0, 1, 1, 2, 2], "g": list("ab") * 3, "y": [1, 2, 3, 5, 5, 6.0]})
    >>> repeated_measures(runs, "y", "g", "seed")[["F", "df", "df_residual"]].round(3).values.tolist()
    [[16.0, 1.0, 2.0]]
    """
    keys = [subject] if isinstance(subject, str) else list(subject)
    model = build(frame, metric, [within, *keys])
    data = frame.iloc[model.rows]
    wide = data.assign(_y=model.response).pivot_table(index=keys, columns=within, values="_y", observed=True)
    whole = wide.dropna()
    notes = list(model.notes)
    if len(whole) < len(wide):
        notes.append(f"{len(wide) - len(whole)} of {len(wide)} subjects miss a level of {within} and are left out.")
    n, k = whole.shape
    row: dict[str, float] = {}
    if n < 2 or k < 2:
        notes.append("Repeated measures need at least two levels and two subjects that saw all of them.")
    else:
        y = whole.to_numpy()
        helmert = np.linalg.qr(np.column_stack([np.ones(k), np.eye(k)[:, 1:]]))[0][:, 1:]
        c = y @ helmert  # (subjects, k - 1)
        S = np.atleast_2d(np.cov(c.T))
        df1, df2 = k - 1, (n - 1) * (k - 1)
        ss, rss = n * float(np.sum(c.mean(axis=0) ** 2)), float(np.trace(S)) * (n - 1)
        if rss <= model.zero:
            notes.append("There is no residual variation, so nothing can be tested.")
        else:
            F = ss / df1 / (rss / df2)
            gg = float(np.trace(S) ** 2 / (df1 * np.sum(S * S)))
            below = df1 * (n - 1 - df1 * gg)
            hf = min(1.0, (n * df1 * gg - 2) / below) if below > 0 else 1.0
            row = {"F": F, "df": df1, "df_residual": df2, "p": float(special.fdtrc(df1, df2, F)), "gg": gg, "hf": hf}
            row |= {f"p_{e}": float(special.fdtrc(df1 * row[e], df2 * row[e], F)) for e in ("gg", "hf")}
    columns = ["F", "df", "df_residual", "p", "gg", "hf", "p_gg", "p_hf"]
    out = pd.DataFrame.from_dict({within: row}, orient="index", columns=columns)
    out.index.name = "term"
    out.attrs = {"metric": metric, "notes": notes}
    return out
