"""F against the change from block to block, with degrees of freedom for differences that vary unequally."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import special

from analysis.linear_model.design import Terms, build, parse_terms
from analysis.linear_model.hypotheses import run_bases

COLUMNS = ["F", "df", "df_residual", "p", "gg", "hf", "p_gg", "p_hf", "n"]
_FEWEST = 3  # blocks, below which no correction can be estimated


def sphericity(frame: pd.DataFrame, metric: str, terms: Terms, block: str, type: int = 2) -> pd.DataFrame:
    """Each term against its interaction with the block, with the corrections for lack of sphericity.

    Parameters
    ----------
    terms
        Those of the model, of factors that vary within blocks.
    block
        What saw every cell of the factors once or more, such as the seed. Blocks that lack a cell are left out.
    type
        Of the sums of squares, 1, 2 or 3, as in `anova`.

    Returns
    -------
    pandas.DataFrame
        Index term; F of the term against its interaction with the block, df, df_residual, p; gg and hf, the estimates
        of epsilon by Greenhouse & Geisser and by Huynh & Feldt (at most 1); p_gg and p_hf, with both degrees of freedom
        times epsilon; n, the complete blocks. NaN where fewer than three are complete. gg is at most (n - 1) / df, so
        where blocks are fewer than levels p_gg is far too large, and hf is the one to read. attrs notes.

    References
    ----------
    Greenhouse & Geisser, Psychometrika 24 (1959) 95; Huynh & Feldt, J. Educ. Stat. 1 (1976) 69; as R's car::Anova of a
    multivariate linear model.

    >>> runs = pd.DataFrame({"seed": [0, 0, 1, 1, 2, 2], "g": list("ab") * 3, "y": [1, 2, 3, 5, 5, 6.0]})
    >>> sphericity(runs, "y", ["g"], "seed")[["F", "df_residual", "gg"]].round(3).values.tolist()
    [[16.0, 2.0, 1.0]]
    """
    parsed = [t for t in parse_terms(terms, frame.columns) if block not in t]
    names = list(dict.fromkeys(name for term in parsed for name in term))
    model = build(frame, metric, [*names, block])
    data = frame.iloc[model.rows].assign(_y=model.response)
    wide = data.pivot_table(index=block, columns=names, values="_y", observed=True)
    whole, notes = wide.dropna(), list(model.notes)
    if len(whole) < len(wide):
        notes.append(f"{len(wide) - len(whole)} of {len(wide)} levels of {block} miss a cell and are left out.")
    rows: dict[str, dict[str, float]] = {}
    cells = whole.columns.to_frame(index=False).set_axis(names, axis=1).assign(_y=0.0)
    inner = build(cells, "_y", [":".join(t) for t in parsed])
    for term in inner.terms:
        contrasts = run_bases(inner, term, type)[1]  # (cells, df)
        rows[":".join(term)] = _corrected(whole.to_numpy(float) @ contrasts, model.zero)
    out = pd.DataFrame.from_dict(rows, orient="index", columns=COLUMNS)
    out.index.name = "term"
    out.attrs = {"metric": metric, "notes": notes}
    return out


def _corrected(scores: np.ndarray, zero: float) -> dict[str, float]:
    """The row of a term from the scores of its orthonormal contrasts (blocks, df)."""
    n, df = scores.shape
    row = {"df": float(df), "n": float(n)}
    if df == 0 or n < _FEWEST:
        return row
    S = np.atleast_2d(np.cov(scores.T))
    error = float(np.trace(S))
    if error * (n - 1) <= zero:
        return row
    df2 = (n - 1) * df
    F = n * float(np.sum(scores.mean(axis=0) ** 2)) / error
    gg = error**2 / (df * float(np.sum(S * S)))
    below = df * (n - 1 - df * gg)
    hf = min(1.0, (n * df * gg - 2) / below) if below > 1e-12 else 1.0
    row |= {"F": F, "df_residual": float(df2), "p": float(special.fdtrc(df, df2, F)), "gg": gg, "hf": hf}
    return row | {f"p_{name}": float(special.fdtrc(df * e, df2 * e, F)) for name, e in (("gg", gg), ("hf", hf))}
