"""The heatmap: mean score of every placement as in the paper, or of two factors of the form."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.figures.heatmap import heatmap
from analysis.figures.style import save
from analysis.report.page import Block, FigureBlock, Section, TableBlock
from analysis.report.sections.means import placement_means, score_digits
from analysis.report.study import Study
from analysis.report.tables import Column, make_table
from analysis.report.words import PAPER_NAME, factor_words, level_words, number
from sdpet.adapters.positions import INPUTS, OUTPUTS, PLACEMENTS, all_positions, split_placement, valid_outputs

LEAST_PLACEMENTS = 6  # below, and beside other factors, the grid of placements is all but empty

Cells = dict[tuple[str, str], float]


def heatmap_section(study: Study, means: pd.DataFrame, out: Path) -> Section | None:
    """Mean score of every placement as in the paper, or of the two other factors with most levels."""
    if study.has_placements and (study.is_of_placements or study.done["placement"].nunique() >= LEAST_PLACEMENTS):
        return _placements(study, means, out)
    parts = ("din", "dout") if study.has_placements else ("placement",)
    crossed = [f for f in study.factors if f not in parts and study.done[f].nunique() > 1]
    crossed.sort(key=lambda f: -study.done[f].nunique())
    if len(crossed) < 2:
        return None
    across, down = crossed[:2]
    groups = study.done.groupby([across, down])[study.metric].mean()
    cells = {(str(a), str(b)): float(v) for (a, b), v in groups.items()}  # type: ignore[misc]
    columns, rows = _levels(study, across), _levels(study, down)
    everything = {(a, b) for a, _ in columns for b, _ in rows}
    figure = heatmap(
        cells, columns, rows, everything, study.words.axis, factor_words(across), factor_words(down),
        study.higher_is_better, score_digits(study), best_cell(cells, study.higher_is_better),
    )  # fmt: skip
    drawing = save(figure, "heatmap", out / "figures")
    caption = f"Mean {study.words.label} over all runs of a cell; the best cell is framed."
    alt = f"Heatmap of {study.words.label} by {across} and {down}"
    title = f"{factor_words(across)} and {factor_words(down)}"
    title = title[0].upper() + title[1:]
    return Section("heatmap", title, [FigureBlock(drawing, caption, alt)])


def _placements(study: Study, means: pd.DataFrame, out: Path) -> Section:
    scores, digits = placement_means(study, means), score_digits(study)
    grid = _grid(map(str, scores.index))
    cells = {grid.pairs[str(p)]: float(v) for p, v in scores.items() if p in grid.pairs}
    admissible = set(grid.pairs.values())
    columns, rows = [(p, PAPER_NAME[p]) for p in grid.inputs], [(p, PAPER_NAME[p]) for p in grid.outputs]
    figure = heatmap(
        cells, columns, rows, admissible, study.words.axis, "input: where the adapter reads", "output: where it writes",
        study.higher_is_better, digits, best_cell(cells, study.higher_is_better),
    )  # fmt: skip
    drawing = save(figure, "heatmap", out / "figures", wide=True)
    better = "bright is better" if study.higher_is_better else "lower is better, and bright"
    caption = (
        f"Mean {study.words.label} of each placement, {better}; the best is framed. Hatched: cannot be, as an adapter "
        "writes no earlier than it reads and joins only positions of one kind."
    )
    missing = admissible - set(cells)
    if missing:
        caption += f" Dashed: {len(missing)} of the {len(admissible)} placements have no scored run."
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
    alt = f"Heatmap of {study.words.label} by input and output position"
    blocks: list[Block] = [FigureBlock(drawing, caption, alt), TableBlock(table)]
    return Section("heatmap", "Where to read and where to write", blocks)


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
