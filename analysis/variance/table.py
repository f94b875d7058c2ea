"""Analysis of variance of any factorial study, complete or not: type I, II and III tables, and one factor at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import special

from analysis.linear_model.design import Model, Term, Terms, build, components, parse_terms
from analysis.linear_model.hypotheses import sum_coding
from analysis.linear_model.solve import Reduced, orthonormal
from analysis.linear_model.units import Stratum, strata_of
from analysis.variance.effect_size import effect_interval, effect_sizes
from analysis.variance.split_plot import split_table

EFFECTS = (
    "eta2", "eta2_partial", "eta2_partial_low", "eta2_partial_high", "omega2_partial", "omega2_partial_low",
    "omega2_partial_high", "epsilon2_partial", "cohen_f",
)  # fmt: skip
COLUMNS = ("sum_sq", "df", "mean_sq", "F", "p", *EFFECTS, "note", "df_residual", "units")


def anova(
    frame: pd.DataFrame,
    metric: str,
    terms: Terms,
    type: int | str = 2,
    *,
    block: str | Sequence[str] | None = None,
    numeric: Sequence[str] | Mapping[str, int] = (),
    level: float = 0.95,
    units: bool = True,
) -> pd.DataFrame:
    """Analysis of variance table of `metric ~ block + terms`, with degrees of freedom from ranks.

    terms: factor names; "din:dout" is an interaction, "din*dout" both main effects and it; also "din + dout".
    type 1: each term after those before it. Type 2: each term after all that do not contain it. Type 3: each term after
    all others, in sum-to-zero coding; where empty cells make that hypothesis not estimable the row is NaN and says so.
    block: a factor (such as the seed) that is taken out first. numeric: factors that enter as a trend (or a mapping to
    the degree of their polynomial) instead of as levels.

    units: whether rows that share a training (column trained_in) or a run (columns run_id, unit, ...) are one unit:
    terms that are the same in all rows of a unit are tested on the means of units, the others within units, each
    against its own residual (`analysis.split_plot`).

    Returns a frame indexed by term, last row "residual"; columns sum_sq, df, mean_sq, F, p; eta2 = sum_sq / total;
    eta2_partial, omega2_partial with intervals `_low`, `_high` (see `effect_interval`: the first on its own scale, the
    second Steiger's for the population), epsilon2_partial, cohen_f; note, a sentence wherever a term is not or only
    partly estimable; df_residual of the error the term is tested against, and units, on how many it is. attrs: metric,
    type, n, rank, r2, components (number of unconnected parts), aliased (term -> missing degrees of freedom), notes.

    SS(term) = |Q' y|^2 with Q an orthonormal basis of what the term adds to the terms it is adjusted for. Reference:
    Searle, Linear Models for Unbalanced Data (1987), ch. 4-5; Fox, Applied Regression Analysis (2016), ch. 8.

    >>> import analysis
    >>> table = analysis.anova(analysis.load_paper_heatmap(), "clip_similarity", ["din", "dout"])
    >>> table[["df", "F", "p"]].round(3)
                df      F      p
    term
    din        7.0  9.932  0.006
    dout       4.0  0.671  0.635
    residual   6.0    NaN    NaN
    """
    kind = {"1": 1, "2": 2, "3": 3, "I": 1, "II": 2, "III": 3}.get(str(type))
    if kind is None:
        raise ValueError(f"type is {type!r}; choose 1, 2 or 3.")
    if units and isinstance(block, str | None):
        strata = strata_of(
            frame, metric, [":".join(t) for t in parse_terms(terms, frame.columns) if t != (block,)], block
        )
        if len(strata) > 1 or strata[0].frame is not frame:
            degrees = dict(numeric) if isinstance(numeric, Mapping) else dict.fromkeys(numeric, 1)

            def of(s: Stratum) -> pd.DataFrame:
                used = {name for term in parse_terms(s.terms, s.frame.columns) for name in term}
                own = {name: degree for name, degree in degrees.items() if name in used}
                return anova(s.frame, metric, s.terms, type, block=s.block, numeric=own, level=level, units=False)

            return split_table(strata, of)
    model = build(frame, metric, terms, numeric, block)
    if not model.terms:
        raise ValueError("The model has no terms; give at least one factor.")
    if ("residual",) in model.terms:
        raise ValueError("A factor cannot be called residual, as the table's last row is; rename that column.")
    reduced = Reduced(model, raw_trends=kind == 3)
    base, added = _sequential(reduced)
    rank, rss, total = base.shape[1], reduced.residual(base), reduced.total
    df_residual = model.n - rank
    parts = _parts(model)
    rows, aliased = {}, {}
    for term in model.terms:
        name = ":".join(term)
        q, note = added[term], ""
        if kind == 2 or (kind == 3 and not _containing(model, term)):
            others = [()] + [t for t in model.terms if t != term and not set(term) < set(t)]
            q = orthonormal(reduced.of([term]), orthonormal(reduced.of(others)))
        elif kind == 3:
            q, note = _type3(reduced, term)
        df, expected = q.shape[1], model.expected_df(term)
        if not note:
            note = _missing(model, term, df, expected, parts)
        if df < expected:
            aliased[name] = expected - df
        ss = float(np.sum((q.T @ reduced.z) ** 2))
        if not note and df_residual == 0:
            note = f"{name} cannot be tested: no residual degrees of freedom are left."
        rows[name] = _row(0.0 if ss <= model.zero else ss, df, rss, df_residual, total, model.n, level, note)
    rows["residual"] = {"sum_sq": rss, "df": float(df_residual), "note": ""}
    if df_residual > 0:
        rows["residual"]["mean_sq"] = rss / df_residual
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(COLUMNS))
    table.index.name = "term"
    tested = table.index != "residual"
    table.loc[tested, "df_residual"], table.loc[tested, "units"] = float(df_residual), float(model.n)
    partly = [note for note in table["note"] if note and "cannot be tested" not in note]
    table.attrs = {
        "metric": metric, "type": kind, "n": model.n, "rank": rank, "components": parts, "aliased": aliased,
        "r2": 1 - rss / total if total > 0 else float("nan"), "total_sum_sq": total,
        "notes": model.notes + _sentences(model, parts, rss, total, df_residual) + partly,
    }  # fmt: skip
    return table


def oneway(
    frame: pd.DataFrame, metric: str, factors: str | Sequence[str], *, block: str | None = None, level: float = 0.95
) -> pd.DataFrame:
    """One-way analysis of variance of each factor by itself, as in the paper; one row a factor, largest F first.

    Columns F, df, df_residual, p, then effect sizes as in `anova`, levels, n, note. Each factor ignores the others, so
    what a factor explains here may be due to another one that goes with it.

    >>> import analysis
    >>> analysis.oneway(analysis.load_paper_heatmap(), "clip_similarity", ["din", "dout"])[["F", "df", "p"]].round(4)
                  F   df       p
    factor
    din     11.9746  9.0  0.0003
    dout     0.7677  6.0  0.6084
    """
    rows, notes = {}, []
    for factor in [factors] if isinstance(factors, str) else list(factors):
        table = anova(frame, metric, [factor], 1, block=block, level=level)
        row = table.loc[factor]
        rows[factor] = {
            "F": row["F"], "df": row["df"], "df_residual": row["df_residual"], "p": row["p"],
            **{name: row[name] for name in EFFECTS}, "levels": frame[factor].nunique(), "n": row["units"],
            "note": row["note"],
        }  # fmt: skip
        notes += [note for note in table.attrs["notes"] if note not in notes]
    if not rows:
        raise ValueError("Give at least one factor.")
    out = pd.DataFrame.from_dict(rows, orient="index").sort_values("F", ascending=False, kind="stable")
    out.index.name = "factor"
    out.attrs = {"metric": metric, "notes": notes}
    return out


def _sequential(reduced: Reduced) -> tuple[np.ndarray, dict[Term, np.ndarray]]:
    base = orthonormal(reduced.of([()]))
    added = {}
    for term in reduced.model.terms:
        added[term] = orthonormal(reduced.of([term]), base)
        base = np.concatenate([base, added[term]], axis=1)
    return base, added


def _containing(model: Model, term: Term) -> bool:
    return any(set(term) < set(t) for t in model.terms)


def _type3(reduced: Reduced, term: Term) -> tuple[np.ndarray, str]:
    """Basis of the type III hypothesis of a term that others contain, or why it is not estimable."""
    model = reduced.model
    coded = {t: reduced.of([t]) @ sum_coding(model, t, reduced.levels[t]) for t in model.terms}
    others = [reduced.of([()])] + [x for t, x in coded.items() if t != term]
    q = orthonormal(coded[term], orthonormal(np.concatenate(others, axis=1)))
    if q.shape[1] < coded[term].shape[1]:
        text = f"The type III test of {':'.join(term)} is not estimable: an interaction with it has empty cells."
        return q[:, :0], text
    return q, ""


def _row(
    ss: float, df: int, rss: float, df_residual: int, total: float, n: int, level: float, note: str
) -> dict[str, float | str]:
    if df == 0:
        return {"df": 0.0, "note": note}
    row: dict[str, float | str] = {"sum_sq": ss, "df": float(df), "mean_sq": ss / df, "note": note}
    if total > 0:
        row["eta2"] = ss / total
    if df_residual > 0 and (ss > 0 or rss > 0):
        F = (ss / df) / (rss / df_residual) if rss > 0 else float("inf")
        row |= {"F": F, "p": float(special.fdtrc(df, df_residual, F)) if rss > 0 else 0.0}
        row |= effect_sizes(F, df, df_residual, n)
        row["eta2_partial_low"], row["eta2_partial_high"] = effect_interval(F, df, df_residual, None, level)
        row["omega2_partial_low"], row["omega2_partial_high"] = effect_interval(F, df, df_residual, n, level)
    return row


def _parts(model: Model) -> int:
    """Unconnected parts of the design in its categorical factors; a block, which all parts share, joins none."""
    names = [f.name for f in model.factors.values() if not f.degree and f.name not in model.blocks]
    if len(names) < 2:
        return 1
    cells = pd.DataFrame({name: model.factors[name].codes for name in names})
    return int(components(cells, names).max()) + 1


def _missing(model: Model, term: Term, df: int, expected: int, parts: int) -> str:
    name = ":".join(term)
    if expected == 0:
        return f"{name} has only one level."
    if df == expected:
        return ""
    categorical = [model.factors[f] for f in term if not model.factors[f].degree]
    exist = len({tuple(row) for row in np.stack([f.codes for f in categorical], 1)}) if categorical else 0
    combos = int(np.prod([len(f.levels) for f in categorical] or [0]))
    twin = next((o for o in model.factors.values() if o.name not in term and _determines(o, categorical)), None)
    if twin is not None and df == 0:
        reason = f"{twin.name} determines {name}"
    elif len(term) > 1 and exist < combos:
        reason = f"only {exist} of {combos} combinations occur"
    elif parts > 1:
        reason = f"the design falls into {parts} parts that share no level"
    else:
        reason = "the rest is aliased with other terms"
    if df == 0:
        return f"{name} is not estimable: {reason}."
    return f"{name} has {df} of {expected} degrees of freedom: {reason}."


def _determines(factor, others: list) -> bool:
    """Whether each level of the factor goes with one combination of the others' levels."""
    if not others or factor.degree:
        return False
    pairs = {
        (int(a), *map(int, b)) for a, b in zip(factor.codes, zip(*(o.codes for o in others), strict=True), strict=True)
    }
    return len(pairs) == len(factor.levels)


def _sentences(model: Model, parts: int, rss: float, total: float, df_residual: int) -> list[str]:
    notes = []
    if parts > 1:
        notes.append(
            f"The design falls into {parts} parts that share no level of "
            f"{' or '.join(f.name for f in model.factors.values() if not f.degree and f.name not in model.blocks)}; "
            "levels of different parts are not compared by the additive model."
        )
    if total == 0:
        notes.append(f"{model.metric} is constant in these {model.n} runs: nothing can be explained.")
    elif df_residual == 0:
        notes.append("There are as many parameters as runs: no residual is left, so no term can be tested.")
    elif rss == 0:
        notes.append("The model fits without any residual: F is infinite, and p is 0 only as far as the data go.")
    return notes
