"""Numeric factors: does the score rise or fall with them, and along a straight line?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.comparisons.means import contrasts
from analysis.conclusions.trends import is_numeric, trend_table
from analysis.report.study import Study
from analysis.report.tables import Column, Table, make_table
from analysis.report.words import factor_words, intervals, level_words, number, p_cell
from analysis.variance.verdict import ALPHA, verdicts


def trends_table(study: Study, terms: Sequence[str], out: Path) -> Table | None:
    """The trends of every numeric factor."""
    runs, frames = study.modelled, []
    for factor in (f for f in terms if ":" not in f and is_numeric(runs, f)):
        table, log = trend_table(runs, study.metric, factor, terms, study.block)
        frames.append(table.reset_index().assign(factor=factor, over="logarithm" if log else "value"))
    if not frames:
        return None
    frame = pd.concat(frames, ignore_index=True)
    caption = (
        f"How {study.words.label} goes with the numeric factors: each trend beyond the lower ones; lack of fit is what "
        "the levels show beyond them. The slope is that of the straight line."
    )
    frame["slope"] = frame["slope"].astype(float).replace(0.0, np.nan)
    return make_table("trends", caption, frame, {
        "factor": Column("factor", lambda v: factor_words(str(v)), numeric=False),
        "over": Column("over its", numeric=False),
        "trend": Column("trend", numeric=False),
        "slope": Column("slope", number),
        "df": Column("df", lambda v: number(v, 0)),
        "F": Column("F", lambda v: number(v, 2)),
        "p": Column("p", lambda v: p_cell(float(str(v)))),
    }, out / "tables")  # fmt: skip


def steps_table(study: Study, terms: Sequence[str], out: Path, digits: int, type: int = 2) -> Table | None:
    """Each level of an ordered factor (numbers, or an ordered Categorical) against the one before it.

    Only of factors that are found to matter: where seeds change what levels do, steps alone are found too often.
    """
    runs, frames = study.modelled, []
    ordered = [f for f in terms if ":" not in f and _is_ordered(runs, f)]
    if not ordered:
        return None
    told = verdicts(runs, study.metric, list(terms), study.block, type)["p_claim"]
    for factor in (f for f in ordered if told[f] < ALPHA):
        level = 1 - ALPHA / (runs[factor].nunique() - 1)
        found = contrasts(
            runs, study.metric, factor, "steps", terms, block=study.block, over="component", adjust="bonferroni",
            level=level,
        )  # fmt: skip
        frames.append(found[found["estimable"]].assign(factor=factor))
    if not frames or not len(frame := pd.concat(frames, ignore_index=True)):
        return None
    frame["interval"] = intervals(frame["low"], frame["high"], digits + 1)
    frame["step"] = [
        f"{level_words(f, b)} → {level_words(f, a)}"
        for f, a, b in zip(frame["factor"], frame["a"], frame["b"], strict=True)
    ]
    caption = (
        f"What each step of the ordered factors does to {study.words.label}: a level minus the one before it. p and "
        "the 95% intervals hold for all steps of a factor together (Bonferroni). Only factors found to matter are here."
    )
    return make_table("steps", caption, pd.DataFrame(frame), {
        "factor": Column("factor", lambda v: factor_words(str(v)), numeric=False),
        "step": Column("step", numeric=False),
        "estimate": Column("change", lambda v: number(v, digits + 1)),
        "interval": Column("95% interval"),
        "df": Column("residual df", lambda v: number(v, 0)),
        "p": Column("p, adjusted", lambda v: p_cell(float(str(v)))),
    }, out / "tables", folded=len(frame) > 8)  # fmt: skip


def _is_ordered(runs: pd.DataFrame, factor: str) -> bool:
    kind = runs[factor].dtype
    return is_numeric(runs, factor) or (isinstance(kind, pd.CategoricalDtype) and bool(kind.ordered))
