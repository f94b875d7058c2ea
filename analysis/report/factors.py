"""Which factor matters: F, p and effect size of each factor, alone and in the additive model."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from analysis.figures.bars import f_bars
from analysis.figures.style import save
from analysis.report.page import Block, FigureBlock, Section, TableBlock, Text
from analysis.report.study import Study
from analysis.report.tables import Column, Table, make_table
from analysis.report.words import factor_words, intervals, listing, number, p_cell, p_words


def factors_section(study: Study, out: Path, type: int = 2) -> Section | None:
    """F bars, the one-way table and the table of the joint model, of the given type of sums of squares."""
    from analysis import anova, oneway

    runs = study.modelled
    tested = [f for f in study.factors if runs[f].nunique() > 1]
    if not tested:
        return None
    alone = oneway(runs, study.metric, tested, block=study.block).reset_index(names="factor")
    terms = [term for term in study.model or study.terms if set(term.split(":")) <= set(tested)]
    together = anova(runs, study.metric, terms, type, block=study.block) if terms else None
    after = f", {study.block} as block" if study.block else ""
    groups = [(f"each factor alone (one-way{after})", _bars(alone, "eta2", "η²"))]
    if together is not None and len(terms) > 1:
        rows = together.loc[terms].reset_index(names="factor")
        model = " + ".join(filter(None, [study.block, *terms]))
        groups.append((f"beyond the others: {model} (type {'I' * type})", _bars(rows, "eta2_partial", "ηₚ²")))
    blocks: list[Block] = [Text(_sentence(alone, study))]
    if any(f == f for _, bars in groups for _, f, _, _ in bars):
        caption = (
            "F of each factor: how much larger the variance between its levels is than the variance within them. "
            "Blue: p < 0.05; pale: not. η² is the share of the variance that goes with the factor, ηₚ² its share "
            "of what the other terms leave."
        )
        drawing = save(f_bars(groups), "factors", out / "figures")
        blocks.append(FigureBlock(drawing, caption, f"F statistic of {listing(tested)}"))
    blocks.append(TableBlock(_oneway_table(study, alone, out)))
    if together is not None:
        blocks.append(TableBlock(_additive_table(study, together, out, type)))
    return Section("factors", "Which factor matters", blocks)


def _sentence(alone: pd.DataFrame, study: Study) -> str:
    known = alone[alone["F"].notna()]
    if not len(known):
        return "No factor can be tested: there are no more runs than levels, so there is no variance within levels."
    first = known.sort_values(["p", "F"], ascending=[True, False]).iloc[0]
    said = (
        f"Taken alone, {factor_words(first['factor'])} has the smallest p: F({first['df']:.0f}, "
        f"{first['df_residual']:.0f}) = {first['F']:.2f}, {p_words(first['p'])}, and it goes with {first['eta2']:.0%} "
        f"of the variance of {study.words.label}."
    )
    if study.has_placements and {"din", "dout"} <= set(study.factors):
        said += (
            " Input and output are not orthogonal, as many pairs cannot exist; the additive model tests each beyond "
            "the other, with degrees of freedom counted by rank."
        )
    if study.references:
        said += f" Not in these tests, as it has no level of the factors: {listing(study.references)}."
    return said


def _bars(rows: pd.DataFrame, effect: str, sign: str) -> list[tuple[str, float, str, bool]]:
    """(factor, F, note, significant) of each row, for the figure."""
    bars = []
    for row in rows.to_dict("records"):
        note = f"{p_words(row['p'])}, {sign} = {row[effect]:.2f}" if row["F"] == row["F"] else "not estimable"
        bars.append((factor_words(row["factor"]), float(row["F"]), note, bool(row["p"] < 0.05)))
    return bars


def _notes(frame: pd.DataFrame, table: pd.DataFrame) -> tuple[str, ...]:
    return tuple(n for n in dict.fromkeys([*frame["note"].dropna(), *table.attrs.get("notes", [])]) if n)


def _tests() -> dict[str, Column]:
    return {
        "F": Column("F", lambda v: number(v, 2)),
        "p": Column("p", lambda v: p_cell(float(str(v)))),
        "eta2_partial": Column("ηₚ²", lambda v: number(v, 3)),
        "interval": Column("95% interval"),
        "omega2_partial": Column("ωₚ²", lambda v: number(v, 3)),
    }


def _oneway_table(study: Study, alone: pd.DataFrame, out: Path) -> Table:
    frame = alone.assign(interval=intervals(alone["eta2_partial_low"], alone["eta2_partial_high"], 2))
    tests = _tests()
    caption = f"One-way ANOVA of {study.words.label}: one factor at a time, the others ignored."
    caption += f" The {study.block} is a block." if study.block else ""
    if not study.block:  # with one term the partial effect sizes are the plain ones
        tests |= {"eta2_partial": Column("η²", tests["eta2_partial"].write)}
        tests |= {"omega2_partial": Column("ω²", tests["omega2_partial"].write)}
    return make_table("oneway", caption, frame, {
        "factor": Column("factor", lambda v: factor_words(str(v)), numeric=False),
        "levels": Column("levels", lambda v: number(v, 0)),
        "df": Column("df", lambda v: number(v, 0)),
        "df_residual": Column("residual df", lambda v: number(v, 0)),
        **tests,
    }, out / "tables", _notes(frame, alone))  # fmt: skip


def _additive_table(study: Study, together: pd.DataFrame, out: Path, type: int) -> Table:
    frame = together.reset_index(names="term")
    frame["interval"] = intervals(frame["eta2_partial_low"], frame["eta2_partial_high"], 2)
    beyond = ("those before it", "all others that do not contain it", "all others")[type - 1]
    caption = (
        f"{'Model' if study.model else 'Additive model'} of {study.words.label}: each term beyond {beyond} "
        f"(type {'I' * type}), degrees of freedom by rank."
    )
    caption += f" The {study.block} is a block." if study.block else ""
    return make_table("additive", caption, frame, {
        "term": Column("term", lambda v: factor_words(str(v)), numeric=False),
        "sum_sq": Column("sum of squares", number),
        "df": Column("df", lambda v: number(v, 0)),
        **_tests(),
    }, out / "tables", _notes(frame, together))  # fmt: skip
