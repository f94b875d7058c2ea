"""Every claim of the conclusion with its numbers, and the scores beside the one that was analysed."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from analysis.conclusions.claims import Conclusion
from analysis.report.page import Block, Section, TableBlock, Text
from analysis.report.study import Study
from analysis.report.tables import Column, Table, make_table
from analysis.report.words import factor_words, intervals, metric_words, number, p_cell, readable

_UNITS = {
    "matters": "omega squared",
    "acts together": "omega squared",
    "best set": "levels in the set",
    "best mean": "the score",
    "best within d": "the score, behind the best at most",
    "confirmed mean": "the score, on fresh seeds",
    "equivalent": "the score, against the best other level",
    "above floor": "the score, above the floor",
    "trend": "the score, for a unit of the factor",
}


def claims_section(study: Study, said: Conclusion, out: Path, type: int = 2) -> Section | None:
    """The claims of the conclusion as a table, and which terms show in the other scores."""
    frame = said.table()
    if not len(frame):
        return None
    frame["interval"] = intervals(frame["low"], frame["high"], 3)
    frame["unit"] = frame["kind"].map(_UNITS)
    log = (frame["kind"] == "trend") & frame["text"].str.contains("the logarithm of ", regex=False)
    frame.loc[log, "unit"] = "the score, for a unit of the factor's logarithm"
    # How many levels are in a set is a whole number.
    frame["estimate"] = [
        number(v, 0 if kind == "best set" else 3) for v, kind in zip(frame["estimate"], frame["kind"], strict=True)
    ]
    table = make_table("claims", "What the conclusion claims, and on what grounds.", frame, {
        "kind": Column("claim", numeric=False),
        "subject": Column("about", lambda v: readable(factor_words(str(v))), numeric=False),
        "verdict": Column("verdict", numeric=False),
        "estimate": Column("estimate"),
        "interval": Column("interval"),
        "level": Column("level", lambda v: "–" if v != v else f"{float(str(v)):.0%}"),
        "unit": Column("in", numeric=False),
        "p": Column("largest p, adjusted", lambda v: p_cell(float(str(v)))),
        "units": Column("runs", lambda v: number(v, 0)),
        "method": Column("method", numeric=False),
    }, out / "tables", folded=len(frame) > 8)  # fmt: skip
    text = (
        "Each claim has a method and an error rate that was measured by simulation: see the explanation of the "
        "statistics in the documentation. Undecided means that no test tells, not that there is no difference."
    )
    blocks: list[Block] = [Text(text), TableBlock(table)]
    scores = _scores_table(study, out, type)
    blocks += [TableBlock(scores)] if scores else []
    return Section("claims", "What is claimed, and how", blocks)


def _scores_table(study: Study, out: Path, type: int) -> Table | None:
    """Each term in every score, with p adjusted over the scores: the more are looked at, the more show by chance."""
    from analysis import anova_all

    runs = study.modelled
    metrics = [m for m in study.metrics if runs[m].notna().sum() > 2 and runs[m].nunique() > 1]
    terms = [t for t in study.model_terms if all(runs[f].nunique() > 1 for f in t.split(":"))]
    if len(metrics) < 2 or not terms:
        return None
    whole = anova_all(runs, metrics, terms, type, block=study.block)
    frame = whole[whole["F"].notna()].reset_index()
    frame = frame[frame["term"].isin(terms)]
    if not len(frame):
        return None
    caption = (
        f"The same terms in all {len(metrics)} scores; Holm's adjustment is over the scores, term by term. Tests are F "
        "alone: a score that is to decide belongs in --metric."
    )
    return make_table("scores", caption, pd.DataFrame(frame), {
        "metric": Column("score", lambda v: metric_words(str(v)).label, numeric=False),
        "term": Column("term", lambda v: factor_words(str(v)), numeric=False),
        "F": Column("F", lambda v: number(v, 2)),
        "df": Column("df", lambda v: number(v, 0)),
        "df_residual": Column("residual df", lambda v: number(v, 0)),
        "p": Column("p", lambda v: p_cell(float(str(v)))),
        "p_adjusted": Column("Holm", lambda v: p_cell(float(str(v)))),
        "omega2_partial": Column("ωₚ²", lambda v: number(v, 3)),
    }, out / "tables", folded=len(frame) > 6)  # fmt: skip
