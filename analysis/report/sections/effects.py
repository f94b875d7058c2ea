"""What each level does: marginal means with intervals, interactions, and whether the tests' assumptions hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from analysis.conclusions.trends import is_numeric
from analysis.figures.effects import Level, diagnostics, interaction_lines, means_panels
from analysis.figures.style import save
from analysis.linear_model.units import strata_of
from analysis.report.page import Block, FigureBlock, Section, TableBlock
from analysis.report.sections.means import score_digits
from analysis.report.sections.robustness import robust_table
from analysis.report.sections.surfaces import surface_blocks
from analysis.report.sections.trends import steps_table, trends_table
from analysis.report.study import Study
from analysis.report.tables import Column, make_table
from analysis.report.words import factor_words, intervals, level_words, listing, mark_words, number, p_cell, readable
from sdpet.adapters.positions import all_positions

SPARE = 5  # runs beyond the levels below which residuals show nothing


def levels_section(study: Study, out: Path, type: int = 2) -> Section | None:
    """Marginal means of every factor in the additive model, and the lines of the two factors with most levels."""
    from analysis import components, marginal_means

    runs = study.modelled
    terms = [f for f in study.terms if runs[f].nunique() > 1]
    if not terms or len(runs) <= sum(runs[f].nunique() for f in terms):
        return None
    joint = _joint(study, terms)
    part = components(runs, terms) if len(terms) > 1 else pd.Series(0, index=runs.index)  # one factor is one part
    apart = part.nunique() > 1
    panels, frames, notes = [], [], []
    for factor in terms:
        means = marginal_means(runs, study.metric, factor, joint, block=study.block, over="component")
        means = means.loc[_in_order(means.index, factor)]
        of_level = part.groupby(runs[factor]).first()
        panels.append((factor_words(factor), [
            Level(level_words(factor, level), row["mean"], row["low"], row["high"], int(of_level[level]),
                  _tip(study, factor, level, row))
            for level, row in means.to_dict("index").items()
        ]))  # fmt: skip
        frames.append(means.reset_index(names="level").assign(factor=factor))
        frames[-1]["level"] = frames[-1]["level"].astype(str)
        notes += [note for note in means.attrs.get("notes", []) if note not in notes]
    frame, digits = pd.concat(frames, ignore_index=True), score_digits(study)
    frame["interval"] = intervals(frame["low"], frame["high"], digits)
    drawing = save(means_panels(panels, study.words.axis), "levels", out / "figures", frame)
    caption = (
        f"Marginal mean of {study.words.label} for each level with its 95% interval: what the model "
        f"({' + '.join(filter(None, [study.block, *joint]))}) gives"
    )
    caption += ", averaged evenly over the other factors' levels." if len(terms) > 1 else "."
    caption += " Intervals are of each mean by itself" + (", for these seeds." if study.block else ".")
    if (frame["mean"].notna() & frame["low"].isna()).any():
        caption += " A mark without a line has no runs to spare for an interval."
    if apart:
        caption += (
            " The design falls into unconnected parts (colour and mark): each mean is over the levels of its own part, "
            "so only marks of one kind can be compared."
        )
    table = make_table("levels", "Marginal means of the levels.", frame, {
        "factor": Column("factor", lambda v: factor_words(str(v)), numeric=False),
        "level": Column("level", numeric=False),
        "mean": Column("mean", lambda v: number(v, digits)),
        "interval": Column("95% interval"),
        "n": Column("runs", lambda v: number(v, 0)),
    }, out / "tables", tuple(notes), folded=True)  # fmt: skip
    blocks: list[Block] = [FigureBlock(drawing, caption, f"Marginal means of {listing(terms)}"), TableBlock(table)]
    rising = trends_table(study, joint, out)
    steps = steps_table(study, joint, out, digits, type)
    blocks += [TableBlock(table) for table in (rising, steps) if table]
    blocks += surface_blocks(study, joint, out)
    if len(terms) > 1:
        blocks += _interaction(study, terms, out)
    return Section("levels", "What each level does", blocks)


def _tip(study: Study, factor: str, level: object, row: Mapping[str, float]) -> str:
    runs = study.modelled.loc[study.modelled[factor] == level, study.metric].tolist()
    name = f"{factor_words(factor)}: {level_words(factor, level)}"
    return mark_words(name, study.words.label, row["mean"], score_digits(study), row["low"], row["high"], runs)


def _joint(study: Study, terms: list[str]) -> list[str]:
    """The terms of the joint model, or the factors alone where beside its interactions some mean cannot be told."""
    from analysis import marginal_means

    runs = study.modelled
    joint = [t for t in study.model_terms if set(t.split(":")) <= set(terms)]
    if not set(terms) <= set(joint) or joint == terms:
        return terms
    told = all(
        marginal_means(runs, study.metric, f, joint, block=study.block, over="component")["estimable"].all()
        for f in terms
    )
    return joint if told else terms


def _interaction(study: Study, terms: list[str], out: Path) -> list[Block]:
    """Lines of two terms, those found to act together or with most levels, if a level of one meets two of the other."""
    found = next((term.split(":") for term in study.model_terms if term.count(":") == 1), None)
    across, lines = found or sorted(terms, key=lambda f: -study.modelled[f].nunique())[:2]
    if is_numeric(study.modelled, lines) and not is_numeric(study.modelled, across):
        across, lines = lines, across
    cells = study.modelled.groupby([lines, across])[study.metric].mean().unstack(across)
    cells = cells[_in_order(cells.columns, across)].loc[_in_order(cells.index, lines)]
    cells = cells[cells.notna().sum(axis=1) > 1].dropna(axis=1, how="all")
    if len(cells) < 2 or cells.shape[1] < 2:
        return []
    figure = interaction_lines(
        [level_words(across, level) for level in cells.columns],
        [(level_words(lines, level), [float(v) for v in row]) for level, row in cells.iterrows()],
        factor_words(across), factor_words(lines), study.words.axis,
    )  # fmt: skip
    drawing = save(figure, "interaction", out / "figures", cells.reset_index(), wide=True)
    caption = (
        f"Mean {study.words.label} by {factor_words(across)}, one line for each {factor_words(lines)}. Where lines run "
        f"parallel, {factor_words(across)} does the same whatever {factor_words(lines)} is; where they do "
        "not, the two may act together, which a test of the pair decides."
    )
    if study.has_placements and {across, lines} == {"din", "dout"}:
        caption += " Only outputs that two or more inputs share have a line."
    return [FigureBlock(drawing, caption, f"{study.words.label} by {across} and {lines}")]


def _in_order(levels: pd.Index, factor: str) -> list:
    """Positions in datapath order, numbers in order, words as they come."""
    datapath = list(all_positions())
    if factor in ("din", "dout") and set(levels) <= set(datapath):
        return sorted(levels, key=datapath.index)
    return sorted(levels) if pd.api.types.is_numeric_dtype(levels) else list(levels)


def assumptions_section(study: Study, out: Path, type: int = 2) -> Section | None:
    """Residuals of the joint model and what the checks of the tests' assumptions say."""
    from analysis import check_assumptions, residuals

    runs = study.modelled
    factors = [f for f in study.terms if runs[f].nunique() > 1]
    if not factors or len(runs) < sum(runs[f].nunique() for f in factors) + SPARE:
        return None
    terms = [t for t in study.model_terms if all(runs[f].nunique() > 1 for f in t.split(":"))] or factors
    runs = runs.set_axis(_run_names(study, runs))
    within = [s for s in strata_of(runs, study.metric, terms, study.block) if s.within]
    data, own, block = (within[0].frame, within[0].terms, within[0].block) if within else (runs, terms, study.block)
    left = residuals(data, study.metric, own, block=block)
    checks = check_assumptions(data, study.metric, own, block=block).reset_index(names="check")
    checks = checks[~(checks["check"].eq("equal variances (means)") & checks["ok"].isna())]
    checks = checks.assign(sentence=checks["sentence"].map(readable), p=checks["p"].where(checks["ok"].notna()))
    drawing = save(
        diagnostics(left, study.words.label), "residuals", out / "figures", left.reset_index(names="run"), wide=True
    )
    caption = (
        f"What the model ({' + '.join(filter(None, ['training' if within else block, *own]))}) leaves over: on the "
        "left it should scatter evenly about zero, on the right follow the line, as normal residuals do."
    )
    table = make_table("assumptions", "Checks of the assumptions of F.", checks, {
        "check": Column("check", numeric=False),
        "p": Column("p", lambda v: p_cell(float(str(v)))),
        "sentence": Column("what it says", numeric=False),
    }, out / "tables")  # fmt: skip
    robust = robust_table(study, terms, out, type)
    blocks: list[Block] = [TableBlock(robust), FigureBlock(drawing, caption, "Residuals of the model")]
    blocks.append(TableBlock(table))
    return Section("assumptions", "Can the tests be trusted", blocks)


def _run_names(study: Study, runs: pd.DataFrame) -> list[str]:
    """A name a run that a reader can find again; the row number where that is not unique."""
    names = [study.label(design) for design in runs[study.design]]
    if "seed" in runs:
        names = [f"{name}, seed {seed}" for name, seed in zip(names, runs["seed"], strict=True)]
    return names if len(set(names)) == len(names) else [str(i) for i in range(len(names))]
