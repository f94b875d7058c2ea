"""Does a factor matter? The F test, and two companions that assume less; a claim takes all of them.

F is too large where the variances of the levels differ, and where runs of one seed and level share noise beyond what
all runs of the seed share (seeds interact with the factor). So next to F stand the wild bootstrap, which holds for
unequal variances, and, where seeds visibly interact with the factor, F against that interaction. What is claimed is
claimed by the largest of these p values, after Holm's adjustment over the terms that are shown together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import special

from analysis.comparisons.family import over_family
from analysis.linear_model.blocks import SEED
from analysis.linear_model.design import build, parse_terms
from analysis.linear_model.solve import left_over
from analysis.linear_model.units import UNIT, Stratum, strata_of
from analysis.variance.signs import SPARE_SIGNS, wild_bootstrap
from analysis.variance.table import anova

ALPHA = 0.05
LEVEL = 0.90  # of intervals of effect sizes: they leave out 0 exactly where F finds something at 5 %
_POOL = 0.25  # p above which the interaction with the seed is taken as noise (Bancroft, Biometrics 20 (1964) 427)
_LARGEST = 3000  # runs; above, F is not in need of a bootstrap that costs minutes
COLUMNS = (
    "F", "df", "df_residual", "units", "p", "p_holm", "p_wild", "p_seed", "p_claim", "omega2_partial", "omega2_low",
    "omega2_high", "eta2_partial", "note",
)  # fmt: skip


def verdicts(
    frame: pd.DataFrame, metric: str, terms: Sequence[str], block: str | None = None, type: int = 2
) -> pd.DataFrame:
    """Whether each term of a model matters, by F and by tests that assume less.

    Parameters
    ----------
    terms
        Those of the model; they are also the family of Holm's adjustment, unless `analysis.comparisons.family` sets
        another.
    block
        The seed, where it is one. Rows of one unit count as one, as in `anova`.
    type
        Of the sums of squares, 1, 2 or 3, as in `anova`; every test is of that hypothesis.

    Returns
    -------
    pandas.DataFrame
        Index term. F, df, df_residual, units (rows or units tested on) and p as in `anova`; p_holm, p adjusted over the
        terms; p_wild (`wild_bootstrap`, signs common to the runs of one seed and level); p_seed (F against the
        interaction of the term with the seed, in place of the residual, where that interaction has p below 0.25; else
        NaN); p_claim, the largest of p, p_wild and p_seed, adjusted over the terms; omega2_partial with its 90 %
        interval; eta2_partial; note.

    >>> import analysis
    >>> runs = analysis.load_paper_heatmap().rename(columns={"clip_similarity": "y"})
    >>> analysis.verdicts(runs, "y", ["din"])[["F", "p"]].round(4).values.tolist()
    [[11.9746, 0.0003]]
    """
    table = anova(frame, metric, list(terms), type, block=block, level=LEVEL)
    rows: dict[str, dict[str, float | str]] = {}
    for stratum in strata_of(frame, metric, list(terms), block):
        rows |= _of_stratum(stratum, metric, table, type)
    out = pd.DataFrame.from_dict(rows, orient="index", columns=list(COLUMNS))
    out = out.loc[[t for t in table.index if t in rows]]
    out.index.name = "term"
    out["p_holm"] = over_family(out["p"].to_numpy(float))
    out["p_claim"] = over_family(out[["p", "p_wild", "p_seed"]].astype(float).max(axis=1).to_numpy())
    out.attrs = {k: table.attrs[k] for k in ("metric", "n", "components", "aliased", "notes")}
    return out


def _of_stratum(stratum: Stratum, metric: str, table: pd.DataFrame, type: int) -> dict[str, dict[str, float | str]]:
    frame, terms, block = stratum.frame, stratum.terms, stratum.block
    seed = SEED if block == UNIT else block
    shared = seed if seed is not None and seed in frame and frame[seed].nunique() > 1 else None
    groups = {term: _sharing(frame, term, shared) for term in terms}
    tested = [t for t in terms if table.loc[t, "F"] >= 0]
    wild = (
        wild_bootstrap(
            frame, metric, terms, block=block, groups={t: g for t, g in groups.items() if g is not None}, type=type
        )
        if tested and len(frame) <= _LARGEST
        else None
    )
    rows: dict[str, dict[str, float | str]] = {}
    for term in terms:
        row = table.loc[term]
        rows[term] = {
            c: row[c] for c in ("F", "df", "df_residual", "units", "p", "omega2_partial", "eta2_partial", "note")
        }
        rows[term] |= {"omega2_low": row["omega2_partial_low"], "omega2_high": row["omega2_partial_high"]}
        if term not in tested or np.isinf(row["F"]):
            continue
        if wild is not None:
            rows[term]["p_wild"] = wild.loc[term, "p"]
        if shared and len(frame) <= _LARGEST:
            rows[term]["p_seed"] = _against_seeds(frame, metric, terms, block, row, shared)
    return rows


def _parts(frame: pd.DataFrame, term: str) -> list[str]:
    """The factors by which runs of a seed may share noise; of a placement it is the input that many share."""
    names = parse_terms([term], frame.columns)[0]
    coarse = "din" in frame and frame["din"].nunique() > 1 and not frame["din"].isna().any()
    return ["din" if name == "placement" and coarse else name for name in names]


def _sharing(frame: pd.DataFrame, term: str, shared: str | None) -> pd.Series | None:
    """Groups of runs of one seed and level, if they are enough for signs of their own; None: each run by itself."""
    if shared is None:
        return None
    names = [shared, *_parts(frame, term)]
    ids = frame.groupby(names, dropna=False).ngroup()
    levels = len(frame.groupby(list(parse_terms([term], frame.columns)[0]), dropna=False))
    return ids if ids.nunique() - levels >= SPARE_SIGNS else None


def _against_seeds(
    frame: pd.DataFrame, metric: str, terms: Sequence[str], block: str | None, own: pd.Series, seed: str
) -> float:
    """p of F against the interaction of the term with the seed; NaN where that is not more than noise."""
    parts = _parts(frame, str(own.name))
    if any(":" in name for name in [seed, *parts]):  # a name that no term can hold
        return float("nan")
    inner = ":".join([seed, *parts])
    # No other term contains the interaction with the seed, so it is tested beyond all of them: two fits say all.
    (outside, df_outside), (rest, df_rest) = (
        left_over(build(frame.dropna(subset=[seed, *parts]), metric, t, block=block)) for t in (terms, [*terms, inner])
    )
    df, sum_sq = df_outside - df_rest, outside - rest
    if not (df > 0 and df_rest > 0):
        return float("nan")
    ratio = sum_sq / df / (rest / df_rest) if rest > 0 else np.inf
    if not special.fdtrc(df, df_rest, ratio) < _POOL or not sum_sq > 0:
        return float("nan")
    return float(special.fdtrc(own["df"], df, float(own["mean_sq"]) / (sum_sq / df)))
