"""Is the model adequate: residuals, leverage, and tests of the assumptions with what each means for the conclusion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from analysis.linear_model.design import Model, Terms, build
from analysis.linear_model.solve import orthonormal, run_columns
from analysis.variance.table import anova

FEWEST = 6  # runs in a cell below which tests of variances are not worth their error rate


def residuals(
    frame: pd.DataFrame, metric: str, terms: Terms, *, block: str | Sequence[str] | None = None
) -> pd.DataFrame:
    """Residuals of `metric ~ block + terms`, one row for each used run, with the index of the frame.

    Columns fitted, residual, leverage h, standardized e / (s sqrt(1 - h)), studentized (with s from the other runs),
    cook = standardized^2 h / ((1 - h) rank), quantile (normal quantile of the standardised residual's rank, for a Q-Q
    plot). Runs that are fitted exactly have leverage 1 and no standardised residual. Reference: Belsley, Kuh & Welsch,
    Regression Diagnostics (1980), ch. 2.

    >>> frame = pd.DataFrame({"g": list("aabb"), "y": [1, 2, 5, 8.0]})
    >>> residuals(frame, "y", ["g"])["residual"].round(9).tolist()
    [-0.5, 0.5, -1.5, 1.5]
    """
    return _residuals(frame, build(frame, metric, terms, block=block))


def check_assumptions(
    frame: pd.DataFrame, metric: str, terms: Terms, *, block: str | Sequence[str] | None = None, alpha: float = 0.05
) -> pd.DataFrame:
    """Tests of equal variances, normal residuals, outliers and influence, each with a sentence on what it means.

    Index check: "equal variances" (Brown-Forsythe: Levene's test about medians), "equal variances (means)" (Levene
    1960), "normal residuals" (Shapiro-Wilk; above 5,000 runs D'Agostino-Pearson), "outlier" (largest studentised
    residual, Bonferroni), "influence" (largest Cook distance; does leaving that run out change a verdict). Columns
    statistic, p, ok (True, False, or None where it cannot be told: of variances with fewer than six runs in a cell),
    sentence. Groups are the cells of the terms without the block.

    >>> frame = pd.DataFrame({"g": list("aaaabbbb"), "y": [1, 2, 3, 4, 5, 7, 8, 6.5]})
    >>> check_assumptions(frame, "y", ["g"])["ok"].tolist()  # no test of variances in cells of four
    [None, None, True, True, True]
    """
    model = build(frame, metric, terms, block=block)
    out = _residuals(frame, model)
    rows = {
        "equal variances": _levene(model, out, "median", alpha, block),
        "equal variances (means)": _levene(model, out, "mean", alpha, block),
        "normal residuals": _normal(out, alpha),
        "outlier": _outlier(model, out, alpha),
        "influence": _influence(frame, model, out, metric, terms, block, alpha),
    }
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["statistic", "p", "ok", "sentence"])
    table.index.name = "check"
    table.attrs = {"metric": metric, "notes": model.notes}
    return table


def _residuals(frame: pd.DataFrame, model: Model) -> pd.DataFrame:
    q = orthonormal(np.concatenate([run_columns(model, t) for t in [(), *model.terms]], axis=1))
    y, rank = model.response, q.shape[1]
    fitted = q @ (q.T @ y)
    e, h = y - fitted, np.minimum(np.sum(q * q, axis=1), 1.0)
    df, rss = model.n - rank, float(e @ e)
    free = np.where(1 - h > 1e-10, 1 - h, np.nan)
    s2 = rss / df if df > 0 and rss > model.zero else np.nan
    standardized = e / np.sqrt(s2 * free)
    left_out = (rss - e**2 / free) / (df - 1) if df > 1 else np.full(len(e), np.nan)
    out = pd.DataFrame(
        {
            "fitted": fitted + model.offset, "residual": e, "leverage": h, "standardized": standardized,
            "studentized": e / np.sqrt(np.where(left_out > 0, left_out, np.nan) * free),
            "cook": standardized**2 * h / (free * rank),
        },
        index=frame.index[model.rows],
    )  # fmt: skip
    known = out["standardized"].notna()
    rank_of = out.loc[known, "standardized"].rank(method="first")
    out["quantile"] = pd.Series(stats.norm.ppf((rank_of - 0.375) / (known.sum() + 0.25)), index=rank_of.index)
    out.attrs = {"metric": model.metric, "df_residual": df, "notes": model.notes}
    return out


def _row(statistic: float, p: float, ok: bool | None, sentence: str) -> dict[str, object]:
    return {"statistic": statistic, "p": p, "ok": ok, "sentence": sentence}


def _levene(model: Model, out: pd.DataFrame, center: str, alpha: float, block) -> dict[str, object]:
    blocks = [block] if isinstance(block, str) else list(block or [])
    names = [f.name for f in model.factors.values() if f.name not in blocks]
    group = pd.DataFrame({n: model.factors[n].codes[model.cell_of_run] for n in names}, index=out.index)
    groups = [g.to_numpy() for _, g in out["residual"].groupby([group[n] for n in names])] if names else []
    tested = [g for g in groups if len(g) > 2]  # two runs are always equally far from their median
    smallest = min((len(g) for g in tested), default=0)
    if len(tested) < 2 or all(np.ptp(g) <= np.sqrt(model.zero) for g in tested):
        return _row(np.nan, np.nan, None, "Equal variances cannot be checked: too few runs in a cell, or none varies.")
    W, p = stats.levene(*tested, center=center)
    if not np.isfinite(W):
        return _row(np.nan, np.nan, None, "Equal variances cannot be checked: no deviation varies within the cells.")
    if smallest < FEWEST:
        return _row(float(W), float(p), None, f"{smallest} runs in a cell are too few for a test of equal variances: "
                    "about means it rejects far too often (with 3 runs in half of all studies without cause), about "
                    "medians hardly ever. The wild bootstrap does without equal variances.")  # fmt: skip
    if p < alpha:
        text = f"The variances differ between cells (p = {p:.2g}): trust Welch, Games-Howell and hc3 more than F."
    else:
        text = f"No sign of unequal variances (p = {p:.2g}): F and Tukey can be trusted in this respect."
    return _row(float(W), float(p), bool(p >= alpha), text)


def _normal(out: pd.DataFrame, alpha: float) -> dict[str, object]:
    e, df = out["residual"].to_numpy(), int(out.attrs["df_residual"])
    if len(e) < 3 or df < 3 or out["standardized"].notna().sum() < 3:
        return _row(np.nan, np.nan, None, "Normal residuals cannot be checked: too few residual degrees of freedom.")
    statistic, p = stats.shapiro(e) if len(e) <= 5000 else stats.normaltest(e)
    if p < alpha:
        text = (
            f"The residuals are not normal (p = {p:.2g}): with {len(e)} runs F is little affected unless the tails are "
            "heavy, but compare the permutation p and look at the Q-Q plot."
        )
    else:
        text = f"No sign that the residuals are not normal (p = {p:.2g})."
    return _row(float(statistic), float(p), bool(p >= alpha), text)


def _outlier(model: Model, out: pd.DataFrame, alpha: float) -> dict[str, object]:
    t, df = out["studentized"].abs(), int(out.attrs["df_residual"]) - 1
    if df < 1 or t.notna().sum() == 0:
        return _row(np.nan, np.nan, None, "Outliers cannot be looked for: no residual degrees of freedom to spare.")
    p = min(1.0, 2 * float(stats.t.sf(t.max(), df)) * int(t.notna().sum()))
    who = t.idxmax()
    if p < alpha:
        text = f"Run {who} is an outlier (studentised residual {t.max():.1f}, Bonferroni p = {p:.2g}): look at it."
    else:
        text = f"No outlier (largest studentised residual {t.max():.1f}, run {who}, Bonferroni p = {p:.2g})."
    return _row(float(t.max()), p, p >= alpha, text)


def _influence(frame, model: Model, out: pd.DataFrame, metric, terms, block, alpha) -> dict[str, object]:
    if out["cook"].notna().sum() == 0:
        return _row(np.nan, np.nan, None, "Influence cannot be judged: no run can be spared.")
    at = int(np.nanargmax(out["cook"].to_numpy()))
    keep = np.delete(model.rows, at)
    before = anova(frame, metric, terms, block=block)["p"]
    after = anova(frame.iloc[keep], metric, terms, block=block)["p"]
    who, cook = out.index[at], float(out["cook"].iloc[at])
    changed = [t for t in before.index if (before[t] < alpha) != (after.get(t, np.nan) < alpha)]
    if changed:
        t = changed[0]
        text = (
            f"Without run {who} (Cook distance {cook:.2g}) the verdict on {t} changes: "
            f"p = {before[t]:.2g} with it, {after[t]:.2g} without."
        )
    else:
        text = f"No verdict hangs on the most influential run ({who}, Cook distance {cook:.2g})."
    return _row(cook, np.nan, not changed, text)
