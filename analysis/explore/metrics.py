"""Several metrics at once: a table for each, agreement of rankings, and the Pareto front of quality against cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from analysis.comparisons.multiplicity import adjust
from analysis.linear_model.design import Terms
from analysis.runs.load import higher_is_better
from analysis.variance.table import anova


def anova_all(
    frame: pd.DataFrame,
    metrics: Sequence[str],
    terms: Terms,
    type: int = 2,
    *,
    block: str | None = None,
    correction: str = "holm",
) -> pd.DataFrame:
    """One `anova` table for each metric, stacked (index metric, term), with p_adjusted over the metrics.

    The p values of one term are adjusted over the metrics (see `adjust`): the more metrics are looked at, the more
    likely one of them is significant by chance.

    >>> import analysis
    >>> heat = analysis.load_paper_heatmap().assign(other=range(20))
    >>> both = anova_all(heat, ["clip_similarity", "other"], ["din"])
    >>> both.loc[("clip_similarity", "din"), ["p", "p_adjusted"]].astype(float).round(4).tolist()
    [0.0003, 0.0006]
    """
    if not len(metrics):
        raise ValueError("Give at least one metric.")
    tables = {metric: anova(frame, metric, terms, type, block=block) for metric in metrics}
    notes = list(dict.fromkeys(f"{m}: {note}" for m, t in tables.items() for note in t.attrs["notes"]))
    for table in tables.values():
        table.attrs = {}
    out = pd.concat(tables, names=["metric", "term"])
    out.insert(5, "p_adjusted", np.nan)
    for term in next(iter(tables.values())).index:
        rows = out.index.get_level_values("term") == term
        out.loc[rows, "p_adjusted"] = adjust(out.loc[rows, "p"].to_numpy(), correction)
    out.attrs = {"notes": notes, "correction": correction}
    return out


def rank_agreement(
    frame: pd.DataFrame, by: str, metrics: Sequence[str] | str, split: str | None = None
) -> pd.DataFrame:
    """How far metrics (or, with `split`, the levels of a column such as task or seed) rank the designs alike.

    by: the designs, such as placement; their means are ranked, best first by each metric's own direction. Columns a,
    b, spearman, kendall, p (of Spearman's rho; exact permutation up to 9 designs), n (designs both have), best_a,
    best_b. With `split` and one metric, a and b are levels of `split`.

    >>> import analysis
    >>> heat = analysis.load_paper_heatmap()
    >>> two = pd.concat([heat.assign(seed=0), heat.assign(seed=1, clip_similarity=-heat["clip_similarity"])])
    >>> float(rank_agreement(two, "placement", "clip_similarity", split="seed")["spearman"].iloc[0].round(6))
    -1.0
    """
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    if split is None:
        columns = {m: frame.groupby(by, observed=True)[m].mean() * (1 if higher_is_better(m) else -1) for m in names}
    else:
        if len(names) != 1:
            raise ValueError("With split, give one metric.")
        sign = 1 if higher_is_better(names[0]) else -1
        columns = {
            v: part.groupby(by, observed=True)[names[0]].mean() * sign
            for v, part in frame.groupby(split, observed=True)
        }
    rows, keys = [], list(columns)
    for i, a in enumerate(keys):
        for b in keys[i + 1 :]:
            both = pd.concat([columns[a], columns[b]], axis=1, keys=["a", "b"]).dropna()
            row = {"a": a, "b": b, "n": len(both)}
            if len(both) > 2 and both["a"].nunique() > 1 and both["b"].nunique() > 1:
                rho, p = _spearman(both["a"].to_numpy(), both["b"].to_numpy())
                row |= {"spearman": rho, "p": p, "kendall": float(stats.kendalltau(both["a"], both["b"]).statistic)}
                row |= {"best_a": both["a"].idxmax(), "best_b": both["b"].idxmax()}
            rows.append(row)
    out = pd.DataFrame(rows, columns=["a", "b", "spearman", "kendall", "p", "n", "best_a", "best_b"])
    missing = int(out["spearman"].isna().sum())
    out.attrs["notes"] = [f"{missing} pair(s) share fewer than three designs or are constant."] if missing else []
    return out


def pareto(
    frame: pd.DataFrame, objectives: Sequence[str] | Mapping[str, str], by: str | Sequence[str] | None = None
) -> pd.DataFrame:
    """Designs with the mean of each objective and whether they are on the Pareto front.

    A design is on the front when no other is at least as good in all objectives and better in one. objectives: metrics
    and costs, each in its own direction, or a mapping to "max" or "min". by: what makes a design (default: each run).
    Columns: the objectives, front, dominated_by (how many designs are better). Best first by the first objective.

    >>> runs = pd.DataFrame({"g": list("abc"), "clip_i": [0.7, 0.8, 0.6], "seconds_total": [1.0, 2.0, 3.0]})
    >>> pareto(runs, ["clip_i", "seconds_total"], by="g")["front"].to_dict()
    {'b': True, 'a': True, 'c': False}
    """
    ends = dict(objectives) if isinstance(objectives, Mapping) else {
        name: "max" if higher_is_better(name) else "min" for name in objectives
    }  # fmt: skip
    if not ends or set(ends.values()) - {"max", "min"}:
        raise ValueError("Give at least one objective, each with the direction max or min.")
    names = list(ends)
    means = frame[names] if by is None else frame.groupby(by, observed=True)[names].mean()
    whole = means.dropna()
    sign = np.array([1.0 if ends[name] == "max" else -1.0 for name in names])
    value = whole.to_numpy(float) * sign
    dominated = np.array(
        [int(np.sum(np.all(value >= row, axis=1) & np.any(value > row, axis=1))) for row in value], dtype=int
    )
    out = whole.assign(front=dominated == 0, dominated_by=dominated)
    out = out.iloc[np.argsort(-value[:, 0], kind="stable")] if len(out) else out
    lost = len(means) - len(whole)
    out.attrs = {"notes": [f"{lost} design(s) lack an objective and are left out."] if lost else []}
    return out


def _spearman(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    rho, p = stats.spearmanr(a, b)
    if len(a) <= 9:  # the t approximation is poor here
        from itertools import permutations

        x, y = stats.rankdata(a), stats.rankdata(b)
        x, y = x - x.mean(), y - y.mean()
        order = np.array(list(permutations(range(len(a)))), dtype=np.int8)
        null = np.abs(y[order] @ x)
        p = float(np.mean(null >= abs(x @ y) - 1e-9))
    return float(rho), float(p)
