"""Estimated marginal means and contrasts of a factor, each with an explicit check that it is estimable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from analysis.comparisons.weights import weights_of
from analysis.linear_model.design import Factor, Model, Terms, build, components, parse_terms, trend_values
from analysis.linear_model.solve import Coefficients, Reduced
from analysis.linear_model.units import strata_of


@dataclass
class Means:
    """Marginal means of the levels of a factor: the linear functions, their values and A with A @ A.T s^2 = cov."""

    model: Model
    factor: Factor
    value: np.ndarray  # (levels,)
    root: np.ndarray  # (levels, rank)
    variance: float  # residual mean square
    df: int
    L: np.ndarray  # (levels, columns)
    solution: Coefficients
    possible: np.ndarray  # (levels,) whether the model knows every combination the mean is over
    counts: np.ndarray  # (levels,) runs

    def estimable(self, C: np.ndarray) -> np.ndarray:
        """For each row of C (k, levels) whether this combination of means is estimable."""
        known = ~np.any((C != 0) & ~self.possible, axis=1)
        return known & self.solution.estimable(C @ self.L) if len(C) else known


def marginal_means(
    frame: pd.DataFrame,
    metric: str,
    factor: str,
    terms: Terms | None = None,
    *,
    block: str | Sequence[str] | None = None,
    numeric: Sequence[str] | Mapping[str, int] = (),
    over: str = "grid",
    level: float = 0.95,
    units: bool = True,
) -> pd.DataFrame:
    """Estimated marginal mean of each level of a factor under `metric ~ block + terms` (default: the factor alone).

    The mean of a level is the model's prediction averaged with equal weight over the combinations of the other
    factors' levels. over: "grid", all combinations, as R's emmeans; "component", only the levels that occur in the
    level's own connected part of the design, where a mean over the whole grid is not estimable; "cells", the
    combinations that occur together with the level. Trends are held at the mean of the runs. units: whether rows of one
    unit count as one, as in `anova`. Intervals hold for the levels of the block that were run (these seeds).

    Returns a frame indexed by level, columns mean, se, df, low, high, n (runs), estimable, note; NaN and a note where
    the mean is not estimable. With the factor alone this is the mean of its runs with the pooled standard deviation.
    mean = L b, se = s sqrt(L (X'X)^- L'), interval by Student's t. Reference: Searle, Speed & Milliken,
    Am. Stat. 34 (1980) 216; estimability: L must lie in the row space of X.

    >>> import analysis
    >>> heat = analysis.load_paper_heatmap()
    >>> int(analysis.marginal_means(heat, "clip_similarity", "din", ["din", "dout"])["estimable"].sum())
    0
    >>> means = analysis.marginal_means(heat, "clip_similarity", "din", ["din", "dout"], over="component")
    >>> means.loc["attn2o", ["mean", "se"]].astype(float).round(3).tolist()
    [0.861, 0.021]
    """
    m = fit_means(frame, metric, factor, terms, block, numeric, over, units)
    ok = m.estimable(np.eye(len(m.value)))
    se = np.sqrt(m.variance * np.sum(m.root**2, axis=1))
    half = stats.t.ppf((1 + level) / 2, m.df) * se if m.df > 0 else np.full(len(se), np.nan)
    out = pd.DataFrame(
        {"mean": m.value, "se": se, "df": float(m.df), "low": m.value - half, "high": m.value + half},
        index=pd.Index(m.factor.levels, name=factor),
    )
    out.loc[~ok, ["mean", "se", "df", "low", "high"]] = np.nan
    out["n"] = m.counts
    out["estimable"] = ok
    if m.df <= 0:
        out["se"] = np.nan
    reason = "a combination it is the mean over is empty or lies in an unconnected part of the design"
    out["note"] = np.where(ok, "" if m.df > 0 else "no residual degrees of freedom, hence no interval", reason)
    out["note"] = out["note"].where(ok, "not estimable: " + out["note"])
    out.attrs = {"metric": metric, "notes": m.model.notes + _notes(out, factor, m.df)}
    return out


def contrasts(
    frame: pd.DataFrame,
    metric: str,
    factor: str,
    method: str | Mapping[str, Mapping[object, float]] = "pairwise",
    terms: Terms | None = None,
    *,
    baseline: object = None,
    block: str | Sequence[str] | None = None,
    numeric: Sequence[str] | Mapping[str, int] = (),
    over: str = "grid",
    adjust: str = "none",
    level: float = 0.95,
) -> pd.DataFrame:
    """Differences between marginal means that the data can estimate; the others are listed and marked.

    method: "pairwise"; "baseline" (each level minus `baseline`); "mean" (each level minus the mean of all); or a
    mapping from a name to the weights of levels, such as {"ffn - attn": {"ffni": 1, "attn1i": -1}}. For levels in order
    (numbers, or an ordered pandas Categorical): "steps" (each level minus the one before), "cuts" (the mean of the
    levels from one on minus that of the levels before it: from where on does it change) and "helmert" (each level minus
    the mean of those before it). adjust: none,
    bonferroni, holm or bh over the estimable contrasts (p only). Pairs of levels: a contrast is formed from the same
    grid for both levels, so it may be estimable where the means are not.

    Returns columns a, b (levels, where it is a pair), estimate, se, df, t, p, low, high, estimable, note, indexed by
    contrast. estimate = c L b, se = s sqrt(c L (X'X)^- L' c'), t with the residual degrees of freedom.

    >>> import analysis
    >>> pairs = analysis.contrasts(analysis.load_paper_heatmap(), "clip_similarity", "din", terms=["din", "dout"])
    >>> int(pairs["estimable"].sum()), len(pairs)
    (22, 45)
    """
    from analysis.comparisons.multiplicity import adjust as adjust_p

    m = fit_means(frame, metric, factor, terms, block, numeric, over)
    levels = m.factor.levels
    names, ends, C = weights_of(levels, method, baseline, factor)
    ok = m.estimable(C)
    estimate = C @ m.value
    se = np.sqrt(m.variance * np.sum((C @ m.root) ** 2, axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(se > 0, estimate / se, np.where(estimate == 0, np.nan, np.sign(estimate) * np.inf))
    if m.df > 0:
        p, half = 2 * stats.t.sf(np.abs(t), m.df), stats.t.ppf((1 + level) / 2, m.df) * se
    else:
        t = p = half = np.full(len(C), np.nan)
    out = pd.DataFrame(
        {
            "a": [a for a, _ in ends], "b": [b for _, b in ends], "estimate": estimate, "se": se, "df": float(m.df),
            "t": t, "p": p, "low": estimate - half, "high": estimate + half,
        },
        index=pd.Index(names, name="contrast"),
    )  # fmt: skip
    out.loc[~ok, ["estimate", "se", "df", "t", "p", "low", "high"]] = np.nan
    out["estimable"] = ok
    out["note"] = np.where(ok, "", "not estimable: the levels are not connected by the design")
    if m.df <= 0:
        out["se"] = np.nan
        out.loc[ok, "note"] = "no residual degrees of freedom, hence no test"
    elif m.variance == 0:
        out.loc[ok, "note"] = "the runs of a cell do not vary, so the difference has no error"
    if adjust != "none" and ok.any():
        out.loc[ok, "p"] = adjust_p(out.loc[ok, "p"], adjust)
    out.attrs = {"metric": metric, "adjust": adjust, "notes": m.model.notes + _notes(out, factor, m.df)}
    return out


def fit_means(
    frame: pd.DataFrame,
    metric: str,
    factor: str,
    terms: Terms | None = None,
    block: str | Sequence[str] | None = None,
    numeric: Sequence[str] | Mapping[str, int] = (),
    over: str = "grid",
    units: bool = True,
) -> Means:
    """The linear functions of the marginal means of a factor and the fit they are evaluated with.

    units: whether rows of one unit count as one, as in `anova`.
    """
    if units and isinstance(block, str | None):
        given = [":".join(t) for t in parse_terms([factor] if terms is None else terms, frame.columns) if t != (block,)]
        strata = strata_of(frame, metric, given, block)
        own = next((s for s in strata if factor in s.terms), None)
        if own is not None and own.frame is not frame:
            return fit_means(own.frame, metric, factor, own.terms, own.block, numeric, over, units=False)
    if over not in ("grid", "component", "cells"):
        raise ValueError(f"over is {over!r}; choose grid, component or cells.")
    model = build(frame, metric, [factor] if terms is None else terms, numeric, block)
    if factor not in model.factors or model.factors[factor].degree:
        raise ValueError(f"The model has no term with the levels of {factor}; add {factor} to terms.")
    reduced = Reduced(model)
    solution = Coefficients(reduced.R, reduced.z)
    rest = reduced.z - reduced.R @ solution.beta
    rss, df = float(rest @ rest) + reduced.extra, model.n - solution.rank
    L, possible = _functions(model, reduced, factor, over)
    f = model.factors[factor]
    variance = 0.0 if rss <= model.zero or df <= 0 else rss / df
    return Means(
        model, f, solution.value(L) + model.offset, solution.root(L), variance, df, L, solution, possible,
        np.bincount(f.codes, model.weight, len(f.levels)).astype(int),
    )  # fmt: skip


def tied_by(block: str | None, frame: pd.DataFrame, metric: str, factor: str) -> str | None:
    """The block if it ties all levels together, so that means can be adjusted for it; else None.

    In a fraction of a factorial each design may have one run, on one seed: then no design can be told from its seed,
    and its mean is that of its run as it is.
    """
    if block is None:
        return None
    means = fit_means(frame, metric, factor, block=block)
    return block if means.estimable(np.eye(len(means.value))).all() else None


def _functions(model: Model, reduced: Reduced, factor: str, over: str) -> tuple[np.ndarray, np.ndarray]:
    """(levels, columns) the average of the model's rows over the combinations a level is averaged over, and for each
    level whether the model has a column for all of them.

    Averages factorise: on a grid the share of a term's column is the product of the shares of its factors' levels.
    """
    f = model.factors[factor]
    out, possible = np.zeros((len(f.levels), reduced.width)), np.ones(len(f.levels), bool)
    shares = _shares(model, factor, over)
    for level in range(len(f.levels)):
        for term in [(), *model.terms]:
            cols = reduced.columns[term]
            if over == "cells":
                group, groups, values, _ = model.columns(term)
                here = f.codes == level
                row = np.stack([np.bincount(group[here], v[here], groups) for v in values.T], 1) / here.sum()
                out[level, cols] = row.reshape(-1)
                continue
            row = np.ones(len(reduced.levels[term]))
            trend = np.ones(1)
            j = 0
            for name in term:
                g = model.factors[name]
                if g.degree:
                    mean = float(np.average(np.asarray(g.levels, float)[g.codes], weights=model.weight))
                    trend = np.kron(trend, trend_values(g, at=mean)[0])
                    continue
                row *= shares[name][level][reduced.levels[term][:, j]]
                j += 1
            # A combination that the grid holds and the data do not has no column: mark the function not estimable.
            if abs(row.sum() - 1) > 1e-9:
                possible[level] = False
                break
            out[level, cols] = np.kron(row, trend)
    return out, possible


def _shares(model: Model, factor: str, over: str) -> dict[str, np.ndarray]:
    """For each factor the weights (levels of `factor`, its levels) with which its levels enter a level's mean."""
    f = model.factors[factor]
    categorical = [g for g in model.factors.values() if not g.degree]
    part = None
    crossed = [g for g in categorical if g.name not in model.blocks or g is f]  # blocks are averaged over in all parts
    if over == "component" and len(crossed) > 1:
        cells = pd.DataFrame({g.name: g.codes for g in crossed})
        part = components(cells, list(cells)).to_numpy()
    shares = {}
    for g in categorical:
        if g is f:
            shares[g.name] = np.eye(len(f.levels))
        elif part is None or g not in crossed:
            shares[g.name] = np.full((len(f.levels), len(g.levels)), 1 / len(g.levels))
        else:
            seen = np.zeros((int(part.max()) + 1, len(g.levels)))
            seen[part, g.codes] = 1
            of_level = np.zeros(len(f.levels), int)
            of_level[f.codes] = part
            shares[g.name] = (seen / seen.sum(axis=1, keepdims=True))[of_level]
    return shares


def _notes(out: pd.DataFrame, factor: str, df: int) -> list[str]:
    notes = []
    missing = int((~out["estimable"]).sum())
    if missing:
        notes.append(f"{missing} of {len(out)} {out.index.name} rows of {factor} are not estimable and left empty.")
    if df <= 0:
        notes.append("There are as many parameters as runs: no residual is left for standard errors.")
    return notes
