"""Numeric factors: does the score rise or fall with them, and along a straight line?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.conclusions.trends import is_numeric, trend_table
from analysis.report.study import Study
from analysis.report.tables import Column, Table, make_table
from analysis.report.words import factor_words, number, p_cell


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
