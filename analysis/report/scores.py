"""The first sections: what is best, which factor matters and how sure that is."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd

from analysis.figures.bars import f_bars
from analysis.figures.heatmap import heatmap
from analysis.figures.ranking import Row, beside, ranking
from analysis.figures.style import save
from analysis.report.page import Block, FigureBlock, Section, TableBlock, Text
from analysis.report.study import Study
from analysis.report.tables import Column, make_table
from analysis.report.words import (
    PAPER_NAME,
    digits_for,
    factor_words,
    level_words,
    listing,
    metric_words,
    number,
    p_cell,
    p_words,
)


def conclusion(study: Study) -> list[str]:
    """The sentences that open the page: what is best and what matters, with numbers, or that nothing can be said."""
    if len(study.done) == 0:
        return [f"Nothing can be said: none of the {len(study.runs)} runs has a {study.words.label} score."]
    if len(study.done) == 1:
        score = float(study.done[study.metric].iloc[0])
        floor, ceiling = study.mean_anchor("floor"), study.mean_anchor("ceiling")
        between = f", between a floor of {number(floor)} and a ceiling of {number(ceiling)}" if floor == floor and ceiling == ceiling else ""
        design = study.label(study.done[study.design].iloc[0]) if study.design in study.done else "The run"
        return [
            f"Nothing can be said about factors from one run: {design} reached {study.words.label} {number(score)}{between}.",
            "Which factor matters takes runs that differ in it, and several seeds to know how sure that is.",
        ]
    from analysis import conclude

    said = conclude(study.done, study.metric)
    return [said] if isinstance(said, str) else list(said)


def design_means(study: Study) -> pd.DataFrame:
    """Designs from best to worst: columns design, mean, low, high, n, among_best (bool; all True if nothing is known)."""
    from analysis import best_set, marginal_means

    if len(study.done) == 0 or study.design not in study.done:
        return pd.DataFrame(columns=["design", "mean", "low", "high", "n", "among_best"])
    if study.done[study.design].nunique() == 1:
        scores = study.done[study.metric]
        frame = pd.DataFrame({"design": [study.done[study.design].iloc[0]], "mean": [scores.mean()], "n": [len(scores)]})
        return frame.assign(low=math.nan, high=math.nan, among_best=True)
    means = marginal_means(study.done, study.metric, study.design, block=study.block)
    frame = means.reset_index(names="design")
    frame["among_best"] = True
    if len(study.done) > study.done[study.design].nunique():
        try:
            best = best_set(study.done, study.metric, study.design, maximize=study.higher_is_better)
            frame["among_best"] = frame["design"].map(best["among_best"]).fillna(False).astype(bool)
        except ValueError as error:
            study.notes.append(str(error))
    return frame.sort_values("mean", ascending=not study.higher_is_better, kind="stable").reset_index(drop=True)
