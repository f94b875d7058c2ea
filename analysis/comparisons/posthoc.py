"""After the test: all pairs (Tukey, Games-Howell), against a baseline (Dunnett), and with the best (Hsu)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats

from analysis.comparisons.means import Means, contrasts, fit_means
from analysis.comparisons.moderated import moderated_differences
from analysis.linear_model.design import Terms, build
from analysis.linear_model.quadrature import (
    one_factor_loadings,
    one_factor_ppf,
    one_factor_sf,
    studentized_range_ppf,
    studentized_range_sf,
)
from analysis.runs.load import higher_is_better

_PAIR = ["a", "b", "estimate", "se", "df", "t", "p", "low", "high", "estimable", "note"]


def tukey(
    frame: pd.DataFrame,
    metric: str,
    factor: str,
    terms: Terms | None = None,
    *,
    block: str | Sequence[str] | None = None,
    over: str = "grid",
    level: float = 0.95,
    variances: str = "pooled",
) -> pd.DataFrame:
    """All pairwise differences with Tukey's honest significant difference (Tukey-Kramer where unbalanced).

    Layout as in `contrasts`; p and the intervals hold for all pairs together: p = P(Q > sqrt(2) |t|), Q the studentised
    range of as many means as the factor has levels. variances: "pooled", one for all levels, as in Tukey's test;
    "moderated", for each pair between that and its own (see `analysis.comparisons.moderated`), for levels that differ
    in variance and have too few runs for `games_howell`; models with further terms than the factor and a block have the
    pooled one. Reference: Kramer, Biometrics 12 (1956) 307; Hayter, Ann. Stat. 12 (1984) 61; Smyth, Stat. Appl. Genet.
    Mol. Biol. 3 (2004) 1. Pairs that are not estimable stay empty.

    >>> frame = pd.DataFrame({"g": list("aaabbbccc"), "y": [1, 2, 3, 2, 3, 4, 8, 9, 10.0]})
    >>> tukey(frame, "y", "g")["p"].round(4).tolist()
    [0.4827, 0.0003, 0.0008]
    """
    _known(variances)
    out = contrasts(frame, metric, factor, "pairwise", terms, block=block, over=over, level=level)
    if variances == "moderated":
        _moderate(out, fit_means(frame, metric, factor, terms, block, over=over), level)
        return out
    k, df = len(set(out["a"]) | set(out["b"])), float(out["df"].max())
    ok = out["estimable"] & (out["df"] > 0)
    if ok.any():
        out.loc[ok, "p"] = studentized_range_sf(np.sqrt(2) * out.loc[ok, "t"].abs().fillna(0.0).to_numpy(), k, df)
        half = studentized_range_ppf(level, k, df) / np.sqrt(2) * out.loc[ok, "se"]
        out.loc[ok, "low"], out.loc[ok, "high"] = out["estimate"] - half, out["estimate"] + half
    out.attrs["adjust"] = "tukey"
    return out


def _known(variances: str) -> None:
    if variances not in ("pooled", "moderated"):
        raise ValueError(f"variances is {variances!r}; choose pooled or moderated.")


def _moderate(out: pd.DataFrame, m: Means, level: float) -> None:
    """Tukey's p and intervals with a variance and degrees of freedom of each pair."""
    ratio, df_of_level = moderated_differences(m)
    at, k = {v: i for i, v in enumerate(m.factor.levels)}, len(m.value)
    rows, columns = (np.array([at[v] for v in out[end]]) for end in ("a", "b"))
    ok = out["estimable"].to_numpy() & (out["df"] > 0).to_numpy()
    out["se"] *= np.sqrt(ratio[rows, columns])
    out["df"] = np.where(ok, np.minimum(df_of_level[rows], df_of_level[columns]), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        out["t"] = out["estimate"] / out["se"]
    for df in np.unique(out.loc[ok, "df"]):
        here = ok & (out["df"] == df).to_numpy()
        out.loc[here, "p"] = studentized_range_sf(np.sqrt(2) * out.loc[here, "t"].abs().fillna(0.0).to_numpy(), k, df)
        half = studentized_range_ppf(level, k, float(df)) / np.sqrt(2) * out.loc[here, "se"]
        out.loc[here, "low"], out.loc[here, "high"] = out["estimate"] - half, out["estimate"] + half
    out.attrs["adjust"], out.attrs["variances"] = "tukey", "moderated"


def games_howell(frame: pd.DataFrame, metric: str, factor: str, *, level: float = 0.95) -> pd.DataFrame:
    """All pairwise differences without assuming equal variances.

    Layout as in `contrasts`. t = (m_i - m_j) / sqrt(s_i^2/n_i + s_j^2/n_j) with Welch's degrees of freedom,
    p = P(Q > sqrt(2) |t|). Pairs with a level that has one run have no variance and stay empty. Reference: Games &
    Howell, J. Educ. Stat. 1 (1976) 113.

    >>> frame = pd.DataFrame({"g": list("aaabbbccc"), "y": [1, 2, 3, 2, 3, 4, 8, 9, 10.0]})
    >>> games_howell(frame, "y", "g")["p"].round(4).tolist()
    [0.5015, 0.0023, 0.004]
    """
    model = build(frame, metric, [factor])
    f = model.factors[factor]
    groups = [model.response[f.codes[model.cell_of_run] == i] for i in range(len(f.levels))]
    rows = []
    for i, j in combinations(range(len(groups)), 2):
        x, y = groups[i], groups[j]
        row = {"a": f.levels[i], "b": f.levels[j], "estimate": x.mean() - y.mean(), "estimable": True, "note": ""}
        if min(len(x), len(y)) < 2:
            row["note"] = "a level has one run, hence no variance"
        else:
            u, v = x.var(ddof=1) / len(x), y.var(ddof=1) / len(y)
            if u + v <= model.zero:
                row["note"] = "neither level varies, so there is no error to test against"
            else:
                df = (u + v) ** 2 / (u**2 / (len(x) - 1) + v**2 / (len(y) - 1))
                t, se = row["estimate"] / np.sqrt(u + v), np.sqrt(u + v)
                p = float(studentized_range_sf(np.array(np.sqrt(2) * abs(t)), len(groups), df))
                half = studentized_range_ppf(level, len(groups), df) / np.sqrt(2) * se
                row |= {"se": se, "df": df, "t": t, "p": p}
                row |= {"low": row["estimate"] - half, "high": row["estimate"] + half}
        rows.append(row)
    names = [f"{row['a']} - {row['b']}" for row in rows]
    out = pd.DataFrame(rows, columns=_PAIR, index=pd.Index(names, name="contrast"))
    empty = int(out["p"].isna().sum())
    notes = [f"{empty} of {len(out)} pairs have no variance to be tested with."] if empty else []
    out.attrs = {"metric": metric, "adjust": "games-howell", "notes": model.notes + notes}
    return out


def dunnett(
    frame: pd.DataFrame,
    metric: str,
    factor: str,
    baseline: object,
    terms: Terms | None = None,
    *,
    block: str | Sequence[str] | None = None,
    alternative: str = "two-sided",
    level: float = 0.95,
) -> pd.DataFrame:
    """Each level against a baseline, with p and intervals that hold for all comparisons together (Dunnett 1955).

    Layout as in `contrasts`. alternative: two-sided, greater or less (than the baseline). The multivariate t
    probabilities are computed by quadrature, exact to about 1e-9, where the estimates of the levels are independent
    (the factor alone, or a complete block design); otherwise the nearest correlations of that form (Hsu, J. Am.
    Stat. Assoc. 87 (1992) 151), which a note says.

    >>> frame = pd.DataFrame({"g": list("aaabbbccc"), "y": [1, 2, 3, 2, 3, 4, 8, 9, 10.0]})
    >>> dunnett(frame, "y", "g", baseline="a")["p"].round(4).tolist()
    [0.4179, 0.0003]
    """
    if alternative not in ("two-sided", "greater", "less"):
        raise ValueError(f"alternative is {alternative!r}; choose two-sided, greater or less.")
    out = contrasts(frame, metric, factor, "baseline", terms, baseline=baseline, block=block, level=level)
    m = fit_means(frame, metric, factor, terms, block)
    ok = (out["estimable"] & (out["df"] > 0) & (out["se"] > 0)).to_numpy()
    b = m.factor.levels.index(baseline)
    if ok.any():
        others = [m.factor.levels.index(v) for v in out["a"][ok]]
        loading, exact = _loadings(m, b, others)
        sign, two = (-1 if alternative == "less" else 1), alternative == "two-sided"
        t = out.loc[ok, "t"].to_numpy()
        out.loc[ok, "p"] = one_factor_sf(np.abs(t) if two else sign * t, loading, m.df, two)
        half = one_factor_ppf(level, loading, m.df, two) * out.loc[ok, "se"]
        out.loc[ok, "low"] = out["estimate"] - half if alternative != "less" else -np.inf
        out.loc[ok, "high"] = out["estimate"] + half if alternative != "greater" else np.inf
        if not exact:
            out.attrs["notes"].append("The joint probabilities are Hsu's one-factor approximation, not exact.")
    out.attrs["adjust"] = "dunnett"
    return out


def equivalence(
    frame: pd.DataFrame,
    metric: str,
    factor: str,
    within: float,
    terms: Terms | None = None,
    *,
    block: str | Sequence[str] | None = None,
    adjust: str = "holm",
    alpha: float = 0.05,
) -> pd.DataFrame:
    """Which pairs of levels differ by less than `within`: two one-sided t tests of each pair (TOST).

    Layout as in `contrasts`, with p (of a difference) and p_equal, the larger of the p of "less than -within" and "more
    than within", both adjusted over the pairs; verdict: "equal" (within the margin), "different", or "undecided", which
    is what most pairs of a small study are. Both tests can succeed: then the difference is real and small, and verdict
    is "equal". Reference: Schuirmann, J. Pharmacokinet. Biopharm. 15 (1987) 657.

    >>> frame = pd.DataFrame({"g": list("aaabbbccc"), "y": [1, 2, 3, 2, 3, 4, 8, 9, 10.0]})
    >>> equivalence(frame, "y", "g", within=4.0)["verdict"].tolist()
    ['equal', 'different', 'different']
    """
    from analysis.comparisons.multiplicity import adjust as adjust_p

    if not within > 0:
        raise ValueError(f"within is {within!r}; it must be above 0.")
    out = contrasts(frame, metric, factor, "pairwise", terms, block=block)
    ok = out["estimable"] & (out["df"] > 0) & (out["se"] > 0)
    d, df = out.loc[ok], out.loc[ok, "df"].to_numpy()
    sides = [stats.t.sf((sign * d["estimate"] + within) / d["se"], df) for sign in (1, -1)]
    out["p_equal"] = np.nan
    out.loc[ok, "p_equal"] = np.maximum(*sides)
    if adjust != "none" and ok.any():
        for column in ("p", "p_equal"):
            out.loc[ok, column] = adjust_p(out.loc[ok, column].to_numpy(float), adjust)
    verdict = np.where(out["p_equal"] < alpha, "equal", np.where(out["p"] < alpha, "different", "undecided"))
    out["verdict"] = verdict
    out.attrs["within"] = within
    return out


def best_set(
    frame: pd.DataFrame,
    metric: str,
    factor: str,
    maximize: bool | None = None,
    terms: Terms | None = None,
    *,
    block: str | Sequence[str] | None = None,
    level: float = 0.95,
    variances: str = "pooled",
) -> pd.DataFrame:
    """Hsu's multiple comparisons with the best: the levels that cannot be told from the best one.

    With confidence `level`, the truly best level is among those with `in_set`. Returns, best first and indexed by
    level: mean, n; gap (how much better it is than the best of the others; negative: worse) with simultaneous interval
    low, high; p (that it is as good as the best: one-sided Dunnett test with this level as the baseline); in_set (p at
    least 1 - level). maximize: whether large values are good; default: by the metric's name. Reference: Hsu, Multiple
    Comparisons (1996), section 4.1; Ann. Stat. 12 (1984) 1136. attrs notes say when the joint
    probabilities are approximate. variances: "pooled", one for all levels, as in Hsu's book, which loses the noisiest
    of equally good levels too often where variances differ; or "moderated" (see `analysis.moderated`), which keeps it.

    >>> frame = pd.DataFrame({"g": list("aaabbbccc"), "y": [1, 2, 3, 2, 3, 4, 8, 9, 10.0]})
    >>> best_set(frame, "y", "g")["in_set"].to_dict()
    {'c': True, 'b': False, 'a': False}
    """
    _known(variances)
    maximize = higher_is_better(metric) if maximize is None else maximize
    m = fit_means(frame, metric, factor, terms, block)
    k, notes = len(m.value), list(m.model.notes)
    if k < 2:
        raise ValueError(f"{factor} has one level, so there is nothing to compare.")
    pairs = np.array([np.eye(k)[i] - np.eye(k)[0] for i in range(1, k)])
    if not m.estimable(pairs).all():
        hint = "; take the placement as one factor, or one component of the design" if factor in ("din", "dout") else ""
        which = f"{factor.strip('()')}s" if factor.startswith("(") else f"levels of {factor}"
        what = f", with {block} taken out as a block," if isinstance(block, str) else ""
        raise ValueError(
            f"Not all {which} can be compared with each other in these runs{what} as too few are shared{hint}."
        )
    value = m.value if maximize else -m.value
    out = pd.DataFrame({"mean": m.value, "n": m.counts}, index=pd.Index(m.factor.levels, name=factor))
    out["gap"] = [value[i] - np.delete(value, i).max() for i in range(k)]
    # Without an error estimate nothing can be excluded.
    out["low"], out["high"], out["p"], out["in_set"] = -np.inf, np.inf, np.nan, True
    if m.df <= 0 or m.variance <= 0:
        notes.append("There is no residual variation to compare with, so no level can be excluded.")
    else:
        if variances == "moderated":
            ratio, df = moderated_differences(m)
        else:
            ratio, df = np.ones((k, k)), np.full(k, float(m.df))
        low, high, p, exact = _with_the_best(m, value, level, ratio, df)
        out["low"], out["high"], out["p"], out["in_set"] = low, high, p, p >= 1 - level
        if not exact:
            notes.append("The joint probabilities are Hsu's one-factor approximation, not exact.")
    out = out.iloc[np.argsort(-value, kind="stable")]
    out.attrs = {"metric": metric, "maximize": maximize, "level": level, "notes": notes}
    return out


def _with_the_best(
    m: Means, value: np.ndarray, level: float, ratio: np.ndarray, df: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, bool]:
    """Hsu's intervals and p; ratio (k, k): variances of differences over the pooled one, df (k,) for each baseline."""
    k, exact = len(value), True
    gram = m.root @ m.root.T * m.variance
    se = np.sqrt(np.maximum(np.diag(gram)[:, None] + np.diag(gram)[None, :] - 2 * gram, 0.0) * ratio)
    d, p, high = np.empty(k), np.empty(k), np.empty(k)
    for i in range(k):
        others = [j for j in range(k) if j != i]
        loading, fits = _loadings(m, i, others)
        exact &= fits
        d[i] = one_factor_ppf(level, loading, df[i], False)
        worse = (value[others] - value[i]) / se[i, others]
        p[i] = float(one_factor_sf(np.array(worse.max()), loading, df[i], False))
        high[i] = max(0.0, float(np.min(value[i] - value[others] + d[i] * se[i, others])))
    best = np.flatnonzero(high > 0)
    low = np.zeros(k)
    for i in range(k):
        rivals = best[best != i]
        if len(rivals):
            low[i] = min(0.0, float(np.min(value[i] - value[rivals] - d[rivals] * se[i, rivals])))
    return low, high, p, exact


def _loadings(m: Means, baseline: int, others: list[int]) -> tuple[np.ndarray, bool]:
    """One-factor loadings of the differences from a level, and whether they give the correlations exactly."""
    difference = m.root[others] - m.root[baseline]
    unit = difference / np.linalg.norm(difference, axis=1, keepdims=True)
    correlation = unit @ unit.T
    gram = m.root[[baseline, *others]] @ m.root[[baseline, *others]].T
    # Independent means with one common part (blocks): the differences' correlations are products of loadings.
    common = gram[0, 1]
    if np.allclose(gram - np.diag(np.diag(gram)), common * (1 - np.eye(len(gram))), atol=1e-9 * gram.max()):
        first = gram[0, 0] - common
        own = np.diag(gram)[1:] - common
        return np.sqrt(first / (first + own)), True
    loading = one_factor_loadings(correlation)
    product = np.outer(loading, loading)
    np.fill_diagonal(product, 1.0)
    return loading, bool(np.abs(product - correlation).max() < 1e-7)
