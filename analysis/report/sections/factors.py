"""Which factor matters: the share each explains, F, the p values of tests that assume less, and Holm's adjustment."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pandas as pd

from analysis.comparisons.family import current
from analysis.figures.shares import Share, shares
from analysis.figures.style import save
from analysis.report.page import Block, FigureBlock, Section, TableBlock, Text
from analysis.report.study import Study
from analysis.report.tables import Column, Table, make_table
from analysis.report.words import factor_words, intervals, listing, number, p_cell, p_words
from analysis.variance.verdict import ALPHA, LEVEL

_TESTS = ("p_holm", "p_wild", "p_seed", "p_claim")
_ADJUSTED = {
    "terms": "Holm's adjustment over the rows that are tested together",
    "scores": "Holm's adjustment over the rows that are tested together, times the number of scores",
    "none": "the same again, as no adjustment was asked for",
}
_PAIRS = {
    "terms": "Holm's adjustment is over the pairs.",
    "scores": "Holm's adjustment is over the pairs, times the number of scores.",
    "none": "No p is adjusted.",
}
_MEANING = (
    "p is that of F. Beside it: {adjusted}. Wild: by residuals with flipped signs, "
    "which does not need equal variances. Against seeds: F against the factor's own change from seed to seed, where "
    "that is more than noise. A factor is said to matter where the largest of these, adjusted, is below 0.05."
)


def factors_section(study: Study, out: Path, type: int = 2) -> Section | None:
    """Shares with intervals, the table of the joint model, the pairs of factors, and each factor alone.

    type: of the sums of squares of the joint model, for all its tests.
    """
    from analysis import oneway, verdicts

    runs = study.modelled
    told = [
        f for f in study.factors if f in study.terms or f == "placement"
    ]  # din and dout only where both can be told
    tested = [f for f in told if runs[f].nunique() > 1]
    if not tested:
        return None
    terms = [term for term in study.model_terms if set(term.split(":")) <= set(tested)]
    alone = oneway(runs, study.metric, tested, block=study.block, level=LEVEL).reset_index(names="factor")
    single = pd.concat([verdicts(runs, study.metric, [f], study.block) for f in tested])
    alone = alone.merge(single[[*_TESTS]].reset_index(names="factor").drop(columns="p_holm"), on="factor")
    together = _joint(study, runs, terms, type) if terms else None
    groups = [(f"each factor alone{f', {study.block} as block' if study.block else ''}", _shares(alone))]
    if together is not None and len(terms) > 1:
        rows = together[together["term"].isin(terms)].rename(columns={"term": "factor"})
        model = " + ".join(filter(None, [study.block, *terms]))
        groups.append((f"beyond the others: {model} (type {'I' * type})", _shares(rows)))
    blocks: list[Block] = [Text(_sentence(study, together))]
    if any(row.share == row.share for _, rows in groups for row in rows):
        caption = (
            "Estimated share of each factor in the variance that the other terms leave, for runs like these (omega "
            "squared), with its 90% interval, which leaves out 0 where F has p below 0.05. Filled: the factor is "
            "found to matter."
        )
        data = pd.concat([
            pd.DataFrame(map(asdict, rows)).assign(tested=title) for title, rows in groups if rows
        ])  # fmt: skip
        drawing = save(shares(groups), "factors", out / "figures", data)
        blocks.append(FigureBlock(drawing, caption, f"Share of the variance that goes with {listing(tested)}"))
    if together is not None:
        blocks.append(TableBlock(_additive_table(study, together, out, type)))
    pairs = _pairs_table(study, runs, out)
    if pairs is not None:
        blocks.append(TableBlock(pairs))
    ignoring = _oneway_table(study, alone, out)
    blocks += [TableBlock(ignoring)] if len(tested) > 1 or together is None else []  # else it says the same again
    return Section("factors", "Which factor matters", blocks)


def _joint(study: Study, runs: pd.DataFrame, terms: list[str], type: int) -> pd.DataFrame:
    """The table of the joint model with the p values of all tests, a row a term, and the residual."""
    from analysis import anova, verdicts

    table = anova(runs, study.metric, terms, type, block=study.block, level=LEVEL)
    more = verdicts(runs, study.metric, terms, study.block, type)[[*_TESTS]]
    out = table.join(more).reset_index(names="term")
    out.attrs = table.attrs
    return out


def _sentence(study: Study, together: pd.DataFrame | None) -> str:
    said = "One factor varies."
    if len(study.factors) > 1:
        said = "Each factor beyond the others, and alone, when what it explains may be due to one that goes with it."
    if study.has_placements and study.terms[:1] == ["din"]:
        said += (
            " Input and output are not orthogonal, as many pairs cannot exist; the additive model tests each beyond "
            "the other, with degrees of freedom counted by rank."
        )
    elif study.has_placements and {"din", "dout"} <= set(study.factors):
        said += " The placement is one factor here: input and output go together too closely to be told apart."
    if together is not None and (together["units"] < len(study.modelled)).any():
        units = together[together["F"].notna() & (together["term"] != study.block)][["term", "units"]]
        counts = [f"{factor_words(row['term'])} on {row['units']:.0f}" for row in units.to_dict("records")]
        said += f" Rows that share a training or a run are one unit of what it decides; tested are {listing(counts)}."
    if study.references:
        said += f" Not in these tests, as it has no level of the factors: {listing(study.references)}."
    return said


def _shares(rows: pd.DataFrame) -> list[Share]:
    found = []
    for row in rows.to_dict("records"):
        note = f"F = {row['F']:.2f}, {p_words(row['p'])}" if row["F"] == row["F"] else "cannot be tested"
        low, high = row["omega2_partial_low"], row["omega2_partial_high"]
        found.append(Share(factor_words(row["factor"]), row["omega2_partial"], low, high, note, row["p_claim"] < ALPHA))
    return found


def _notes(frame: pd.DataFrame, table: pd.DataFrame) -> tuple[str, ...]:
    return tuple(n for n in dict.fromkeys([*frame["note"].dropna(), *table.attrs.get("notes", [])]) if n)


def _tests() -> dict[str, Column]:
    def p(head: str) -> Column:
        return Column(head, lambda v: p_cell(float(str(v))))

    return {
        "F": Column("F", lambda v: number(v, 2)),
        "p": p("p"), "p_holm": p(current().head), "p_wild": p("wild"), "p_seed": p("against seeds"),
        "omega2_partial": Column("ωₚ²", lambda v: number(v, 3)),
        "interval": Column("90% interval"),
        "eta2_partial": Column("ηₚ²", lambda v: number(v, 3)),
    }  # fmt: skip


def _oneway_table(study: Study, alone: pd.DataFrame, out: Path) -> Table:
    frame = alone.assign(interval=intervals(alone["omega2_partial_low"], alone["omega2_partial_high"], 2))
    caption = f"One-way ANOVA of {study.words.label}: one factor at a time, the others ignored."
    caption += f" The {study.block} is a block." if study.block else ""
    return make_table("oneway", caption, frame, {
        "factor": Column("factor", lambda v: factor_words(str(v)), numeric=False),
        "levels": Column("levels", lambda v: number(v, 0)),
        "df": Column("df", lambda v: number(v, 0)),
        "df_residual": Column("residual df", lambda v: number(v, 0)),
        **{k: v for k, v in _tests().items() if k not in ("p_wild", "p_seed")},
    }, out / "tables", _notes(frame, alone))  # fmt: skip


def _additive_table(study: Study, together: pd.DataFrame, out: Path, type: int) -> Table:
    frame = together.assign(interval=intervals(together["omega2_partial_low"], together["omega2_partial_high"], 2))
    beyond = ("those before it", "all others that do not contain it", "all others")[type - 1]
    caption = (
        f"{'Model' if study.model else 'Joint model'} of {study.words.label}: each term beyond {beyond} "
        f"(type {'I' * type}), degrees of freedom by rank."
        if together["F"].notna().sum() > 2 or not study.block
        else f"Model of {study.words.label}."
    )
    meaning = _MEANING.format(adjusted=_ADJUSTED[current().kind])
    caption += f" The {study.block} is a block. {meaning}" if study.block else f" {meaning}"
    return make_table("additive", caption, frame, {
        "term": Column("term", lambda v: factor_words(str(v)), numeric=False),
        "sum_sq": Column("sum of squares", number),
        "df": Column("df", lambda v: number(v, 0)),
        "df_residual": Column("residual df", lambda v: number(v, 0)),
        **_tests(),
    }, out / "tables", _notes(frame, together))  # fmt: skip


def _pairs_table(study: Study, runs: pd.DataFrame, out: Path) -> Table | None:
    """Tests of every pair of factors for an interaction, where replicates allow them."""
    from analysis.conclusions.joint import acting_together

    factors = [f for f in study.terms if runs[f].nunique() > 1]
    pairs = acting_together(runs, study.metric, factors, study.block)
    if pairs is None:
        return None
    frame = pairs.reset_index(names="term")
    frame["interval"] = intervals(frame["omega2_low"], frame["omega2_high"], 2)
    caption = (
        "Do factors act together? Each pair beyond all main effects and other pairs, against the spread of replicates; "
        f"{_PAIRS[current().kind]} Pairs found here are terms of the joint model."
    )
    return make_table("pairs", caption, frame, {
        "term": Column("pair", lambda v: factor_words(str(v)), numeric=False),
        "df": Column("df", lambda v: number(v, 0)),
        "df_residual": Column("residual df", lambda v: number(v, 0)),
        **{k: v for k, v in _tests().items() if k != "eta2_partial"},
    }, out / "tables", tuple(n for n in frame["note"] if n))  # fmt: skip
