"""The heatmap: mean score of every placement as in the paper, or of two factors of the form."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.figures.heatmap import heatmap
from analysis.figures.style import save
from analysis.report.page import Block, Choice, FigureBlock, Section, TableBlock
from analysis.report.sections.means import placement_means, score_digits
from analysis.report.study import Study
from analysis.report.tables import Column, make_table
from analysis.report.words import PAPER_NAME, digits_for, factor_words, level_words, mark_words, number
from analysis.runs.names import outer
from sdpet.adapters.positions import INPUTS, OUTPUTS, PLACEMENTS, all_positions, split_placement, valid_outputs

MOST_SCORES = 6  # that one can choose from
MOST_PAIRS = 6  # of factors
LEAST_PLACEMENTS = 6  # below, and beside other factors, the grid of placements is all but empty

Cells = dict[tuple[str, str], float]


def heatmap_section(study: Study, means: pd.DataFrame, out: Path) -> Section | None:
    """Mean score of every placement as in the paper, or of two other factors: each score, and each pair of factors."""
    if study.has_placements and (study.is_of_placements or study.done["placement"].nunique() >= LEAST_PLACEMENTS):
        return _placements(study, means, out)
    parts = ("din", "dout") if study.has_placements else ("placement",)
    crossed = [f for f in study.factors if f not in parts and study.done[f].nunique() > 1]
    crossed.sort(key=lambda f: -study.done[f].nunique())
    if len(crossed) < 2:
        return None
    pairs = list(combinations(crossed, 2))[:MOST_PAIRS]
    first = pairs[0]
    scores = [(study.words_of(m).label, _crossed(study, m, first, out)) for m in _shown(study)]
    by_score = Choice("heatmap-score", "Score", scores)
    others = [(_pair_words(pair), _crossed(study, study.metric, pair, out, named=True)) for pair in pairs[1:]]
    blocks: list[Block] = [
        Choice("heatmap-pair", "Factors", [(_pair_words(first), by_score), *others]) if others else by_score
    ]
    title = f"{factor_words(first[0])} and {factor_words(first[1])}"
    return Section("heatmap", title[0].upper() + title[1:], blocks)


def _pair_words(pair: tuple[str, str]) -> str:
    return " × ".join(pair)


def _shown(study: Study) -> list[str]:
    """The score of the page, and the others that there are."""
    others = [m for m in study.metrics if m != study.metric and study.done[m].notna().any()]
    return [study.metric, *others][:MOST_SCORES]


def _name(study: Study, metric: str, pair: Sequence[str] = ()) -> str:
    """The file of a heatmap: plain for the score of the page, else with what is shown instead."""
    parts = ["heatmap", *pair, *([] if metric == study.metric else [metric])]
    return "-".join(re.sub(r"[^\w.-]+", "_", outer(part)) for part in parts)


def _crossed(study: Study, metric: str, pair: tuple[str, str], out: Path, named: bool = False) -> FigureBlock:
    """The means of a score over two factors. named: whether the file is named by them."""
    across, down = pair
    words, digits = study.words_of(metric), digits_for(study.done[metric])
    groups = study.done.dropna(subset=[metric]).groupby([across, down])[metric].apply(list)
    runs = {(str(a), str(b)): values for (a, b), values in groups.items()}  # type: ignore[misc]
    cells = {cell: float(np.mean(values)) for cell, values in runs.items()}
    columns, rows = _levels(study, across), _levels(study, down)
    everything = {(a, b) for a, _ in columns for b, _ in rows}
    texts = [dict(columns), dict(rows)]
    tips = {
        (a, b): mark_words(
            f"{across} {texts[0][a]}, {down} {texts[1][b]}", words.label, cells[a, b], digits, runs=values
        )
        for (a, b), values in runs.items()
        if a in texts[0] and b in texts[1]
    }
    upward = words.higher_is_better
    figure = heatmap(
        cells, columns, rows, everything, words.axis, factor_words(across), factor_words(down), upward is not False,
        digits, None if upward is None else best_cell(cells, upward), tips,
    )  # fmt: skip
    data = pd.DataFrame([{across: a, down: b, "mean": cells[a, b], "n": len(v)} for (a, b), v in runs.items()])
    drawing = save(figure, _name(study, metric, pair if named else ()), out / "figures", data, wide=len(columns) > 5)
    caption = f"Mean {words.label} over all runs of a cell" + (
        "; the best cell is framed." if upward is not None else "."
    )
    return FigureBlock(drawing, caption + _untested(study, metric), f"Heatmap of {words.label} by {across} and {down}")


def _untested(study: Study, metric: str) -> str:
    return "" if metric == study.metric else " The tests of this page are about another score; --metric chooses it."


def _placements(study: Study, means: pd.DataFrame, out: Path) -> Section:
    scores, digits = placement_means(study, means), score_digits(study)
    grid = _grid(map(str, scores.index))
    options = [(study.words_of(m).label, _placement_map(study, m, means, grid, out)) for m in _shown(study)]
    frame = study.done.groupby("placement", sort=False)[study.metric].agg(["std", "count"]).reset_index()
    order = {p: i for i, p in enumerate(grid.pairs)}
    frame = frame.sort_values("placement", key=lambda names: names.map(order))  # as data flow
    frame["mean"] = frame["placement"].map(scores)
    frame.insert(1, "din", frame["placement"].str.split("-").str[0])
    frame.insert(2, "dout", frame["placement"].str.split("-").str[1])
    table = make_table("heatmap", "The cells of the heatmap as a table.", frame, {
        "din": Column("input", _both_names, numeric=False),
        "dout": Column("output", _both_names, numeric=False),
        "mean": Column("mean", lambda v: number(v, digits)),
        "std": Column("standard deviation of runs", lambda v: number(v, digits)),
        "count": Column("runs", lambda v: number(v, 0)),
    }, out / "tables", folded=True)  # fmt: skip
    blocks: list[Block] = [Choice("heatmap-score", "Score", options), TableBlock(table)]
    return Section("heatmap", "Where to read and where to write", blocks)


def _placement_map(study: Study, metric: str, means: pd.DataFrame, grid: _Grid, out: Path) -> FigureBlock:
    """The grid of placements in one score: the means of the ranking for the page's own, plain means for the others."""
    words, main = study.words_of(metric), metric == study.metric
    digits = score_digits(study) if main else digits_for(study.done[metric])
    runs = study.done.dropna(subset=[metric]).groupby("placement")[metric].apply(list)
    scores = placement_means(study, means) if main else runs.map(np.mean)
    cells = {grid.pairs[str(p)]: float(v) for p, v in scores.items() if p in grid.pairs}
    ends = means.set_index("design")[["low", "high"]] if main else pd.DataFrame()
    tips = {}
    for placement, mean in scores.items():
        low, high = ends.loc[placement] if placement in ends.index else (math.nan, math.nan)
        if placement in grid.pairs:
            tips[grid.pairs[str(placement)]] = mark_words(
                level_words("placement", placement), words.label, float(mean), digits, low, high, runs[placement]
            )
    admissible, upward = set(grid.pairs.values()), words.higher_is_better
    columns, rows = [(p, PAPER_NAME[p]) for p in grid.inputs], [(p, PAPER_NAME[p]) for p in grid.outputs]
    figure = heatmap(
        cells, columns, rows, admissible, words.axis, "input: where the adapter reads", "output: where it writes",
        upward is not False, digits, None if upward is None else best_cell(cells, upward), tips,
    )  # fmt: skip
    data = pd.DataFrame([
        {"placement": p, "din": din, "dout": dout, "mean": cells.get((din, dout), math.nan), "n": len(runs.get(p, []))}
        for p, (din, dout) in grid.pairs.items()
    ])  # fmt: skip
    drawing = save(figure, _name(study, metric), out / "figures", data, wide=True)
    better = {True: ", bright is better", False: ", lower is better, and bright", None: ""}[upward]
    framed = "; the best is framed" if upward is not None else ""
    caption = (
        f"Mean {words.label} of each placement{better}{framed}. Hatched: cannot be, as an adapter "
        "writes no earlier than it reads and joins only positions of one kind."
    )
    missing = admissible - set(cells)
    if missing:
        caption += f" Dashed: {len(missing)} of the {len(admissible)} placements have no scored run."
    alt = f"Heatmap of {words.label} by input and output position"
    return FigureBlock(drawing, caption + _untested(study, metric), alt)


@dataclass(frozen=True)
class _Grid:
    """Inputs and outputs in datapath order, and the placements that can be, as pairs by their name."""

    inputs: Sequence[str]
    outputs: Sequence[str]
    pairs: Mapping[str, tuple[str, str]]


def _grid(placements: Iterable[str]) -> _Grid:
    """The paper's grid; of other placements, such as those of a transformer's streams, the grid of their positions."""
    shown = list(placements)
    if set(shown) <= set(PLACEMENTS):
        return _Grid(INPUTS, OUTPUTS, {p: split_placement(p) for p in PLACEMENTS})
    datapath = list(all_positions())
    found = [p.split("-") for p in shown if p.count("-") == 1]
    inputs, outputs = (
        sorted({pair[side] for pair in found} & set(datapath), key=datapath.index) for side in (0, 1)
    )  # streams one after another, as in the tables
    pairs = {f"{a}-{b}": (a, b) for a in inputs for b in valid_outputs(a) if b in outputs}
    return _Grid(inputs, outputs, pairs)


def _both_names(position: object) -> str:
    return f"{PAPER_NAME.get(str(position), str(position))} ({position})"


def _levels(study: Study, factor: str) -> list[tuple[str, str]]:
    """(name, text) of each level: numbers and words in order, those of an ordered column in theirs."""
    levels = study.done[factor].dropna().unique().tolist()
    if isinstance(study.done[factor].dtype, pd.CategoricalDtype):
        levels = [v for v in study.done[factor].cat.categories if v in levels]
    else:
        levels = sorted(levels)
    return [(str(level), level_words(factor, level)) for level in levels]


def best_cell(cells: Cells, higher: bool) -> tuple[str, str] | None:
    """The cell with the best score, if there are two or more to choose from."""
    finite = {cell: v for cell, v in cells.items() if math.isfinite(v)}
    return (max if higher else min)(finite, key=lambda cell: finite[cell]) if len(finite) > 1 else None
