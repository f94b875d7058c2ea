"""Companions of the F test that assume less: Welch, Kruskal-Wallis, permutation, robust covariance, aligned ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import special, stats

from analysis.linear_model.design import Model, Terms, build, interactions
from analysis.linear_model.hypotheses import run_bases
from analysis.variance.table import anova


def welch(frame: pd.DataFrame, metric: str, factor: str) -> pd.DataFrame:
    """Welch's one-way test: are the means equal when the variances need not be.

    One row, index factor, columns F, df, df_residual, p, n, note. Empty with a note where a level has one run or does
    not vary: then it has no variance of its own. Reference: Welch, Biometrika 38 (1951) 330; as R's oneway.test.

    >>> frame = pd.DataFrame({"g": list("aaabbbccc"), "y": [1, 2, 3, 2, 3, 5, 8, 9, 13.0]})
    >>> welch(frame, "y", "g")[["F", "df", "df_residual", "p"]].astype(float).round(3).values.tolist()
    [[10.162, 2.0, 3.585, 0.033]]
    """
    model, groups = _groups(frame, metric, factor)
    note = _too_small(model, factor, groups)
    row: dict[str, float | str] = {"n": model.n, "note": note}
    if not note:
        k, n = len(groups), np.array([len(g) for g in groups])
        w = n / np.array([g.var(ddof=1) for g in groups])
        mean = np.array([g.mean() for g in groups])
        center = float(w @ mean / w.sum())
        spread = float(np.sum((1 - w / w.sum()) ** 2 / (n - 1)))
        F = float(w @ (mean - center) ** 2) / (k - 1) / (1 + 2 * (k - 2) / (k**2 - 1) * spread)
        df2 = (k**2 - 1) / (3 * spread)
        row |= {"F": F, "df": float(k - 1), "df_residual": df2, "p": float(special.fdtrc(k - 1, df2, F))}
    return _one_row(row, factor, ["F", "df", "df_residual", "p", "n", "note"], metric, model)


def kruskal(frame: pd.DataFrame, metric: str, factor: str) -> pd.DataFrame:
    """Kruskal-Wallis rank test, corrected for ties; one row, columns H, df, p, epsilon2, n, note.

    epsilon2 = H / (n - 1) is the share of the ranks' variance between the levels. The p value is the chi-square
    approximation, rough below five runs a level. Reference: Kruskal & Wallis, J. Am. Stat. Assoc. 47 (1952) 583.

    >>> frame = pd.DataFrame({"g": list("aaabbbccc"), "y": [1, 2, 3, 2, 3, 5, 8, 9, 13.0]})
    >>> kruskal(frame, "y", "g")[["H", "p"]].astype(float).round(3).values.tolist()
    [[6.056, 0.048]]
    """
    model, groups = _groups(frame, metric, factor)
    row: dict[str, float | str] = {"n": model.n, "note": ""}
    if len(groups) < 2:
        row["note"] = f"{factor} has only one level."
    elif len(np.unique(model.response)) == 1:
        row["note"] = f"{metric} is constant."
    else:
        H, p = stats.kruskal(*groups)
        row |= {"H": float(H), "df": float(len(groups) - 1), "p": float(p), "epsilon2": float(H) / (model.n - 1)}
        if min(len(g) for g in groups) < 5:
            row["note"] = "The p value is rough: some levels have fewer than five runs."
    return _one_row(row, factor, ["H", "df", "p", "epsilon2", "n", "note"], metric, model)


def permutation(
    frame: pd.DataFrame,
    metric: str,
    terms: Terms,
    *,
    block: str | None = None,
    numeric: Sequence[str] | Mapping[str, int] = (),
    n_permutations: int = 9999,
    seed: int = 0,
    type: int = 2,
) -> pd.DataFrame:
    """F tests whose p values come from permuted residuals (Freedman & Lane, J. Bus. Econ. Stat. 1 (1983) 292).

    For each term the residuals of the model without it are permuted, within the blocks where a block is given (the
    block is kept in the model), and F is computed anew: p = (1 + number of F* >= F) / (1 + n_permutations), so it is
    never below 1 / (1 + n_permutations). type: of the sums of squares, 1, 2 or 3, as in `anova`. Index term; columns F,
    df, df_residual, p (permutation), p_f (from the F distribution), note. The same seed gives the same p.

    >>> frame = pd.DataFrame({"g": list("aaabbbccc"), "y": [1, 2, 3, 2, 3, 5, 8, 9, 13.0]})
    >>> float(permutation(frame, "y", ["g"], n_permutations=999).loc["g", "p"]) < 0.02
    True
    """
    if n_permutations < 1:
        raise ValueError(f"n_permutations is {n_permutations}; it must be at least 1.")
    model = build(frame, metric, terms, numeric, block)
    strata = None if block is None else model.factors[block].codes[model.cell_of_run]
    y, rows = model.response, {}
    for term in (t for t in model.terms if t != (block,)):
        base, added, rest = run_bases(model, term, type)
        df, df2 = added.shape[1], model.n - base.shape[1] - added.shape[1] - rest.shape[1]
        row: dict[str, float | str] = {"df": float(df), "df_residual": float(df2), "note": ""}
        rows[":".join(term)] = row
        e = y - base @ (base.T @ y)
        full = np.concatenate([base, rest], axis=1)
        if df == 0 or df2 == 0 or e @ e <= model.zero:
            row["note"] = f"{':'.join(term)} cannot be tested: " + (
                "it is not estimable." if df == 0 else "no residual is left." if df2 == 0 else "nothing varies."
            )
            continue

        def ratio(x: np.ndarray, added=added, full=full, df=df, df2=df2) -> np.ndarray:  # x (n, B): B responses
            ss = np.sum((added.T @ x) ** 2, axis=0)
            rss = np.sum(x * x, axis=0) - ss - np.sum((full.T @ x) ** 2, axis=0)
            with np.errstate(divide="ignore", invalid="ignore"):
                return np.where(rss > 1e-13 * np.sum(x * x, axis=0), (ss / df) / (rss / df2), np.inf)

        F = float(ratio(e[:, None])[0])
        rng, hits, left = np.random.default_rng(seed), 0, n_permutations
        batch = max(1, int(4e6 // model.n))
        while left:
            size = min(batch, left)
            hits += int(np.sum(ratio(e[_permuted(rng, model.n, size, strata)]) >= F * (1 - 1e-9)))
            left -= size
        p_f = float(special.fdtrc(df, df2, F)) if np.isfinite(F) else 0.0
        row |= {"F": F, "p": (1 + hits) / (1 + n_permutations), "p_f": p_f}
    out = pd.DataFrame.from_dict(rows, orient="index", columns=["F", "df", "df_residual", "p", "p_f", "note"])
    out.index.name = "term"
    out.attrs = {"metric": metric, "n_permutations": n_permutations, "notes": model.notes}
    return out


def friedman(frame: pd.DataFrame, metric: str, factor: str, block: str = "seed") -> pd.DataFrame:
    """Friedman's rank test of a factor with seeds as complete blocks; one row, columns Q, df, p, blocks, note.

    Runs of one block and level are averaged; blocks that miss a level are left out and counted. Ties get mean ranks and
    the statistic is corrected for them; p is the chi-square approximation, rough for few blocks. Reference: Friedman,
    J. Am. Stat. Assoc. 32 (1937) 675; as R's friedman.test.

    >>> frame = pd.DataFrame({"seed": [0, 0, 0, 1, 1, 1, 2, 2, 2], "g": list("abc") * 3})
    >>> frame["y"] = [1, 2, 3, 2, 4, 5, 0, 3, 1]
    >>> friedman(frame, "y", "g")[["Q", "p"]].astype(float).round(3).values.tolist()
    [[4.667, 0.097]]
    """
    model = build(frame, metric, [factor, block])
    used = frame.iloc[model.rows]
    wide = used.assign(_y=model.response).pivot_table(index=block, columns=factor, values="_y", observed=True)
    whole = wide.dropna()
    row: dict[str, float | str] = {"blocks": float(len(whole)), "note": ""}
    k = whole.shape[1]
    if len(whole) < 2 or k < 2:
        row["note"] = f"Friedman's test needs two levels and two blocks ({block}) that hold all of them."
    else:
        ranks = np.apply_along_axis(stats.rankdata, 1, whole.to_numpy())
        spread = float(np.sum((ranks - (k + 1) / 2) ** 2))
        if spread == 0:
            row["note"] = f"{metric} does not vary within any block."
        else:
            Q = (k - 1) * float(np.sum((ranks.sum(axis=0) - len(whole) * (k + 1) / 2) ** 2)) / spread
            row |= {"Q": Q, "df": float(k - 1), "p": float(special.chdtrc(k - 1, Q))}
    out = _one_row(row, factor, ["Q", "df", "p", "blocks", "note"], metric, model)
    if len(whole) < len(wide):
        out.attrs["notes"].append(f"{len(wide) - len(whole)} of {len(wide)} blocks miss a level and are left out.")
    return out


def robust_anova(
    frame: pd.DataFrame,
    metric: str,
    terms: Terms,
    *,
    block: str | Sequence[str] | None = None,
    numeric: Sequence[str] | Mapping[str, int] = (),
    covariance: str = "hc3",
    type: int = 2,
) -> pd.DataFrame:
    """Wald F tests with a heteroscedasticity-consistent covariance (White 1980; Long & Ervin 2000).

    covariance: hc0 (squared residuals e^2), hc1 (times n / (n - rank)), hc2 (e^2 / (1 - h)) or hc3 (e^2 / (1 - h)^2)
    with leverage h. A term that others contain is tested free of their coefficients in the metric of that covariance,
    as R's car::Anova(type = 2, white.adjust = "hc3"). type: 2 or 3, as in `anova`. Index term; columns F, df,
    df_residual, p, note; hc2 and hc3 are refused where a run is fitted exactly (alone in its cell).

    >>> frame = pd.DataFrame({"g": list("aaabbbccc"), "y": [1, 2, 3, 2, 3, 5, 8, 9, 13.0]})
    >>> robust_anova(frame, "y", ["g"])[["F", "p"]].astype(float).round(3).values.tolist()
    [[8.035, 0.02]]
    """
    if covariance not in ("hc0", "hc1", "hc2", "hc3"):
        raise ValueError(f"The covariance {covariance!r} is unknown; choose hc0, hc1, hc2 or hc3.")
    if type not in (2, 3):
        raise ValueError(f"type is {type!r}; choose 2 or 3.")
    model = build(frame, metric, terms, numeric, block)
    y, rows = model.response, {}
    for term in model.terms:
        base, added, rest = run_bases(model, term, type)
        q = np.concatenate([base, added, rest], axis=1)
        df, df2 = added.shape[1], model.n - q.shape[1]
        row: dict[str, float | str] = {"df": float(df), "df_residual": float(df2), "note": ""}
        rows[":".join(term)] = row
        e, free = y - q @ (q.T @ y), 1 - np.sum(q * q, axis=1)
        if df == 0 or df2 == 0 or e @ e <= model.zero:
            row["note"] = "not estimable" if df == 0 else "no residual is left to estimate the covariance"
            continue
        if covariance in ("hc2", "hc3") and free.min() < 1e-10:
            row["note"] = f"{covariance} needs at least two runs in every cell: a run alone is fitted exactly"
            continue
        weight = {"hc0": 1.0, "hc1": model.n / df2, "hc2": 1 / free, "hc3": 1 / free**2}[covariance] * e**2
        t, r = slice(base.shape[1], base.shape[1] + df), slice(base.shape[1] + df, None)
        b, V = q.T @ y, (q * weight[:, None]).T @ q
        project = V[t, r] @ np.linalg.pinv(V[r, r]) if rest.shape[1] else np.zeros((df, 0))
        effect, cov = b[t] - project @ b[r], V[t, t] - project @ V[r, t]
        if np.linalg.matrix_rank(cov) < df:
            row["note"] = "the robust covariance is singular: some levels do not vary"
            continue
        F = float(effect @ np.linalg.solve(cov, effect)) / df
        row |= {"F": F, "p": float(special.fdtrc(df, df2, F))}
    out = pd.DataFrame.from_dict(rows, orient="index", columns=["F", "df", "df_residual", "p", "note"])
    out.index.name = "term"
    out.attrs = {"metric": metric, "covariance": covariance, "notes": model.notes}
    return out


def aligned_ranks(frame: pd.DataFrame, metric: str, factors: Sequence[str]) -> pd.DataFrame:
    """Aligned rank transform: a rank test of every main effect and interaction of a complete factorial.

    For each term the response is stripped of all other effects (cell means; the effect by inclusion and exclusion of
    marginal means), ranked, and put through the full factorial type II table, of which only that term counts.
    Reference: Wobbrock, Findlater, Gergle & Higgins, CHI 2011, 143. Every combination must occur: a placement
    grid with impossible cells is refused (use placement as one factor and `kruskal`). Index term; columns F, df,
    df_residual, p.

    >>> frame = pd.DataFrame({"a": list("xxyy") * 3, "b": list("uvuv") * 3})
    >>> frame["y"] = [1, 2, 5, 9, 2, 1, 6, 8, 1, 3, 4, 9.5]
    >>> (aligned_ranks(frame, "y", ["a", "b"])["p"] < 0.05).tolist()
    [True, True, True]
    """
    model = build(frame, metric, list(factors))
    codes = {f: model.factors[f].codes[model.cell_of_run] for f in factors}
    if len(model.weight) < np.prod([len(model.factors[f].levels) for f in factors]):
        raise ValueError(
            f"The aligned rank transform needs every combination of {', '.join(factors)}, and some do not occur."
        )
    notes = list(model.notes)
    if len(model.weight) == model.n:
        notes.append("There is one run in each cell, so no residual is left and no term can be tested.")
    data = pd.DataFrame(codes)
    y = pd.Series(model.response)
    means = {
        s: y.groupby([data[f] for f in s]).transform("mean") if s else pd.Series(0.0, index=y.index)
        for k in range(len(factors) + 1)
        for s in combinations(factors, k)
    }
    rows = {}
    for name in interactions(factors, len(factors)):
        term = tuple(name.split(":"))
        effect = sum((-1) ** (len(term) - k) * means[s] for k in range(len(term) + 1) for s in combinations(term, k))
        aligned = y - means[tuple(factors)] + effect
        # Ties must stay ties after the subtractions: round to well above their rounding error.
        digits = 9 - int(np.floor(np.log10(float(y.abs().max()) or 1.0)))
        data["rank"] = stats.rankdata(np.round(aligned, digits))
        table = anova(data, "rank", interactions(factors, len(factors)))
        rows[name] = {**table.loc[name, ["F", "df", "p"]], "df_residual": table.loc["residual", "df"]}
    out = pd.DataFrame.from_dict(rows, orient="index")[["F", "df", "df_residual", "p"]]
    out.index.name = "term"
    if out["F"].isna().any() and not notes:
        notes.append("Some terms cannot be tested: a factor has one level, or the aligned ranks do not vary.")
    out.attrs = {"metric": metric, "notes": notes}
    return out


def _groups(frame: pd.DataFrame, metric: str, factor: str) -> tuple[Model, list[np.ndarray]]:
    model = build(frame, metric, [factor])
    f = model.factors[factor]
    return model, [model.response[f.codes[model.cell_of_run] == i] for i in range(len(f.levels))]


def _too_small(model: Model, factor: str, groups: list[np.ndarray]) -> str:
    if len(groups) < 2:
        return f"{factor} has only one level."
    single = sum(len(g) < 2 for g in groups)
    if single:
        return f"{single} of {len(groups)} levels have one run and so no variance: Welch's test is not possible."
    flat = sum(float(g.var()) * len(g) <= model.zero for g in groups)
    return f"{flat} of {len(groups)} levels do not vary: Welch's test is not possible." if flat else ""


def _one_row(row: dict, factor: str, columns: list[str], metric: str, model: Model) -> pd.DataFrame:
    out = pd.DataFrame.from_dict({factor: row}, orient="index", columns=columns)
    out.index.name = "factor"
    out.attrs = {"metric": metric, "notes": model.notes + ([row["note"]] if row["note"] else [])}
    return out


def _permuted(rng: np.random.Generator, n: int, size: int, strata: np.ndarray | None) -> np.ndarray:
    """(n, size) indices; each column a permutation, within the strata where given."""
    keys = rng.random((n, size))
    if strata is None:
        return np.argsort(keys, axis=0)
    # Sorting by stratum first keeps each run's residual within its stratum.
    order = np.argsort(strata, kind="stable")
    inside = np.argsort(keys[order] + strata[order][:, None], axis=0)
    out = np.empty((n, size), np.int64)
    out[order] = order[inside]
    return out
