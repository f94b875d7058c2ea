"""The wild bootstrap: F tests by residuals with flipped signs, for errors whose variances differ from run to run."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from analysis.linear_model.design import Model, Terms, build
from analysis.linear_model.hypotheses import run_bases

# Signs beyond the levels below which no effect, however large, would get a p well below 0.05: an effect without noise
# is matched by every set of signs that is the same in all runs of a level, of which there are 2^levels among 2^signs.
SPARE_SIGNS = 8


def wild_bootstrap(
    frame: pd.DataFrame,
    metric: str,
    terms: Terms,
    *,
    block: str | None = None,
    groups: Mapping[str, pd.Series] | None = None,
    flips: int = 1999,
    seed: int = 0,
    type: int = 2,
) -> pd.DataFrame:
    """F tests whose p values come from residuals with flipped signs: variances may differ from run to run.

    For each term the residuals of the model without it keep their sizes and get random signs, and F is computed anew;
    p = (1 + number of F* >= F) / (1 + flips). Where errors are symmetric about zero this holds at any size of study,
    up to the few parameters of the model without the term.

    Parameters
    ----------
    block
        A factor that is taken out first.
    groups
        For a term the group of each row of the frame whose residuals get one common sign, because they may share noise
        (one seed and one level of a factor, say). Default: each run by itself.
    flips, seed
        How many sets of signs, and the seed they are drawn with: the same seed gives the same p.
    type
        Of the sums of squares, 1, 2 or 3, as in `anova`.

    Returns
    -------
    pandas.DataFrame
        Index term; columns F, df, df_residual, p, groups (how many signs), note. p is NaN where there are so few signs
        beyond the levels (less than 8) that even an effect without noise would not get a small p.

    References
    ----------
    Liu, Ann. Stat. 16 (1988) 1696; Cameron, Gelbach & Miller, Rev. Econ. Stat. 90 (2008) 414.

    >>> frame = pd.DataFrame({"g": list("aaaabbbbcccc"), "y": [1, 2, 3, 2, 2, 3, 5, 4, 8, 9, 13.0, 10]})
    >>> float(wild_bootstrap(frame, "y", ["g"], flips=999).loc["g", "p"]) < 0.02
    True
    """
    if flips < 1:
        raise ValueError(f"flips is {flips}; it must be at least 1.")
    model = build(frame, metric, terms, block=block)
    rows = {}
    for term in (t for t in model.terms if t != (block,)):
        name = ":".join(term)
        given = (groups or {}).get(name)
        of_run = np.arange(model.n) if given is None else pd.factorize(given.iloc[model.rows])[0]
        rows[name] = _flipped(model, term, of_run, flips, seed, type)
    out = pd.DataFrame.from_dict(rows, orient="index", columns=["F", "df", "df_residual", "p", "groups", "note"])
    out.index.name = "term"
    out.attrs = {"metric": metric, "flips": flips, "notes": model.notes}
    return out


def _flipped(
    model: Model, term: tuple[str, ...], group: np.ndarray, flips: int, seed: int, type: int
) -> dict[str, float | str]:
    base, added, rest = run_bases(model, term, type)
    df, df2 = added.shape[1], model.n - base.shape[1] - added.shape[1] - rest.shape[1]
    count = int(group.max()) + 1
    row: dict[str, float | str] = {"df": float(df), "df_residual": float(df2), "groups": float(count), "note": ""}
    e = model.response - base @ (base.T @ model.response)
    full = np.concatenate([base, rest], axis=1)

    def ratio(x: np.ndarray) -> np.ndarray:  # x (n, B): B responses
        ss = np.sum((added.T @ x) ** 2, axis=0)
        rss = np.sum(x * x, axis=0) - ss - np.sum((full.T @ x) ** 2, axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(rss > 1e-13 * np.sum(x * x, axis=0), (ss / df) / (rss / df2), np.inf)

    if df == 0 or df2 == 0 or e @ e <= model.zero:
        row["note"] = f"{':'.join(term)} cannot be tested."
        return row
    row["F"] = F = float(ratio(e[:, None])[0])
    if count - (df + 1) < SPARE_SIGNS:
        row["note"] = f"Signs of {count} groups of runs say too little for a p value."
        return row
    rng, hits, left, batch = np.random.default_rng(seed), 0, flips, max(1, int(4e6 // model.n))
    while left:
        size = min(batch, left)
        signs = rng.integers(0, 2, (count, size)) * 2.0 - 1.0
        hits += int(np.sum(ratio(e[:, None] * signs[group]) >= F * (1 - 1e-9)))
        left -= size
    row["p"] = (1 + hits) / (1 + flips)
    return row
