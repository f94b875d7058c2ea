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
    try:
        from analysis import conclude
    except ImportError:
        best = design_means(study).iloc[0]
        return [f"{study.label(best['design'])} is best with {study.words.label} {number(best['mean'])}."]
    said = conclude(study.done, study.metric)
    return [said] if isinstance(said, str) else list(said)


def design_means(study: Study) -> pd.DataFrame:
    """Designs from best to worst: columns design, mean, low, high, n, among_best (bool; all True if nothing is known)."""
    from analysis import marginal_means

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
            from analysis import best_set

            best = best_set(study.done, study.metric, study.design, maximize=study.higher_is_better)
            frame["among_best"] = frame["design"].map(best["among_best"]).fillna(False).astype(bool)
        except (ValueError, ImportError) as error:
            study.notes.append(str(error))
    return frame.sort_values("mean", ascending=not study.higher_is_better, kind="stable").reset_index(drop=True)


def placement_means(study: Study, means: pd.DataFrame) -> pd.Series:
    """Mean score by placement: that of the ranking where designs are placements, else the mean over all forms."""
    if study.design == "placement":
        return means.set_index("design")["mean"]
    return study.done.groupby("placement")[study.metric].mean()


def score_digits(study: Study) -> int:
    """Decimals for scores of this study."""
    return digits_for(study.done[study.metric]) if len(study.done) else 3


def score_sections(study: Study, means: pd.DataFrame, out: Path) -> list[Section | None]:
    """Heatmap, factors, ranking and the other scores, each where there is something to show."""
    if len(means) < 2:
        return [beside_section(study, means, out)] if len(means) else []
    return [
        heatmap_section(study, means, out),
        factors_section(study, out),
        ranking_section(study, means, out),
        beside_section(study, means, out),
    ]


def heatmap_section(study: Study, means: pd.DataFrame, out: Path) -> Section | None:
    """Mean score of every placement as in the paper, or of the two factors with most levels."""
    if study.has_placements:
        return _placement_heatmap(study, means, out)
    crossed = [f for f in study.factors if f != "placement" and study.done[f].nunique() > 1]
    crossed.sort(key=lambda f: -study.done[f].nunique())
    if len(crossed) < 2:
        return None
    across, down = crossed[:2]
    cells = study.done.groupby([across, down])[study.metric].mean()
    columns, rows = _levels(study, across), _levels(study, down)
    values = {(str(a), str(b)): float(v) for (a, b), v in cells.items()}  # type: ignore[misc]
    everything = {(a, b) for a, _ in columns for b, _ in rows}
    best = _best_cell(values, study.higher_is_better)
    drawing = save(heatmap(values, columns, rows, everything, study.words.axis, factor_words(across), factor_words(down),
                           study.higher_is_better, score_digits(study), best), "heatmap", out / "figures")  # fmt: skip
    caption = f"Mean {study.words.label} over all runs of a cell; the best cell is framed."
    return Section("heatmap", f"{factor_words(across).capitalize()} and {factor_words(down)}", [
        FigureBlock(drawing, caption, f"Heatmap of {study.words.label} by {across} and {down}")])  # fmt: skip


def _placement_heatmap(study: Study, means: pd.DataFrame, out: Path) -> Section:
    from sdpet.positions import INPUTS, OUTPUTS, PLACEMENTS, split_placement

    scores = placement_means(study, means)
    values = {split_placement(str(p)): float(v) for p, v in scores.items() if p in PLACEMENTS}
    admissible = {split_placement(p) for p in PLACEMENTS}
    columns, rows = [(p, PAPER_NAME[p]) for p in INPUTS], [(p, PAPER_NAME[p]) for p in OUTPUTS]
    drawing = save(
        heatmap(values, columns, rows, admissible, study.words.axis, "input: where the adapter reads",
                "output: where it writes", study.higher_is_better, score_digits(study), _best_cell(values, study.higher_is_better)),
        "heatmap", out / "figures", wide=True)  # fmt: skip
    missing = sorted(admissible - set(values))
    caption = (
        f"Mean {study.words.label} of each placement, {'bright is better' if study.higher_is_better else 'lower is better and bright'}; "
        "the best is framed. Hatched: no adapter can write before it reads, or across block kinds and token kinds."
    )
    if missing:
        caption += f" Dashed: {len(missing)} of the 20 placements have no scored run."
    frame = study.done.groupby("placement", sort=False)[study.metric].agg(["std", "count"]).reset_index()
    frame["mean"] = frame["placement"].map(scores)
    frame.insert(1, "din", frame["placement"].str.split("-").str[0])
    frame.insert(2, "dout", frame["placement"].str.split("-").str[1])
    digits = score_digits(study)
    table = make_table("heatmap", "The cells of the heatmap as a table.", frame, {
        "din": Column("input", lambda v: f"{PAPER_NAME[str(v)]} ({v})", numeric=False),
        "dout": Column("output", lambda v: f"{PAPER_NAME[str(v)]} ({v})", numeric=False),
        "mean": Column("mean", lambda v: number(v, digits)),
        "std": Column("standard deviation", lambda v: number(v, digits)),
        "count": Column("runs", lambda v: number(v, 0)),
    }, out / "tables", folded=True)  # fmt: skip
    alt = f"Heatmap of {study.words.label} by input and output position"
    return Section("heatmap", "Where to read and where to write", [FigureBlock(drawing, caption, alt), TableBlock(table)])


def factors_section(study: Study, out: Path) -> Section | None:
    """F, p and effect size of every factor, alone and in the additive model."""
    from analysis import anova, oneway

    tested = [f for f in study.factors if study.done[f].nunique() > 1]
    if not tested:
        return None
    blocks: list[Block] = []
    alone = oneway(study.done, study.metric, tested).reset_index(names="factor")
    terms = [f for f in study.terms if study.done[f].nunique() > 1]
    together = anova(study.done, study.metric, terms, 2, block=study.block) if terms else None
    groups = [("each factor alone (one-way)", _bars(alone))]
    if together is not None and len(terms) > 1:
        rows = together.loc[terms].reset_index(names="factor")
        groups.append((f"additive model: {' + '.join(filter(None, [study.block, *terms]))} (type II)", _bars(rows)))
    blocks.append(Text(_factor_sentence(alone, study)))
    if any(f == f for _, bars in groups for _, f, _, _ in bars):
        drawing = save(f_bars(groups), "factors", out / "figures")
        caption = (
            "F of each factor: how much larger the variance between its levels is than the variance within them. "
            "Blue: p < 0.05; pale: not. η² is the share of the variance that goes with the factor, ηₚ² the share of what "
            "the other terms leave."
        )
        blocks.append(FigureBlock(drawing, caption, f"F statistic of {listing(tested)}"))
    blocks.append(TableBlock(_oneway_table(study, alone, out)))
    if together is not None:
        blocks.append(TableBlock(_additive_table(study, together, terms, out)))
    return Section("factors", "Which factor matters", blocks)


def _factor_sentence(alone: pd.DataFrame, study: Study) -> str:
    known = alone[alone["F"].notna()]
    if not len(known):
        return "No factor can be tested: there are no more runs than levels, so there is no variance within levels."
    first = known.sort_values(["p", "F"], ascending=[True, False]).iloc[0]
    said = (
        f"Taken alone, {factor_words(first['factor'])} has the smallest p: F({first['df']:.0f}, {first['df_residual']:.0f}) = "
        f"{first['F']:.2f}, {p_words(first['p'])}, and it goes with {first['eta2']:.0%} of the variance of {study.words.label}."
    )
    if study.has_placements and {"din", "dout"} <= set(study.factors):
        said += (
            " Input and output are not orthogonal, as many pairs cannot exist; the additive model tests each beyond the "
            "other, with degrees of freedom counted by rank."
        )
    return said


def _bars(rows: pd.DataFrame) -> list[tuple[str, float, str, bool]]:
    bars = []
    partial = "df_residual" not in rows
    for row in rows.to_dict("records"):
        effect = row["eta2_partial"] if partial else row["eta2"]
        note = f"{p_words(row['p'])}, {'ηₚ²' if partial else 'η²'} = {effect:.2f}" if row["F"] == row["F"] else "not estimable"
        bars.append((factor_words(row["factor"]), float(row["F"]), note, bool(row["p"] < 0.05)))
    return bars


_EFFECT = {
    "eta2": Column("η²", lambda v: number(v, 3)),
    "eta2_partial": Column("ηₚ²", lambda v: number(v, 3)),
    "interval": Column("95% interval"),
    "omega2_partial": Column("ωₚ²", lambda v: number(v, 3)),
}


def _interval(frame: pd.DataFrame, low: str, high: str, digits: int) -> list[str]:
    return [
        f"{number(a, digits)} to {number(b, digits)}" if a == a and b == b else "–"
        for a, b in zip(frame[low], frame[high], strict=True)
    ]


def _oneway_table(study: Study, alone: pd.DataFrame, out: Path):
    frame = alone.assign(interval=_interval(alone, "eta2_partial_low", "eta2_partial_high", 2))
    notes = [n for n in dict.fromkeys([*alone["note"], *alone.attrs.get("notes", [])]) if n]
    return make_table("oneway", f"One-way ANOVA of {study.words.label}, one factor at a time.", frame, {
        "factor": Column("factor", lambda v: factor_words(str(v)), numeric=False),
        "levels": Column("levels", lambda v: number(v, 0)),
        "df": Column("df", lambda v: number(v, 0)),
        "df_residual": Column("residual df", lambda v: number(v, 0)),
        "F": Column("F", lambda v: number(v, 2)),
        "p": Column("p", lambda v: p_cell(float(v))),  # type: ignore[arg-type]
        "eta2": _EFFECT["eta2"], "interval": _EFFECT["interval"], "omega2_partial": Column("ω²", lambda v: number(v, 3)),
    }, out / "tables", tuple(notes))  # fmt: skip


def _additive_table(study: Study, together: pd.DataFrame, terms: list[str], out: Path):
    frame = together.reset_index(names="term")
    frame = frame.assign(interval=_interval(frame, "eta2_partial_low", "eta2_partial_high", 2))
    notes = [n for n in dict.fromkeys([*frame["note"].dropna(), *together.attrs.get("notes", [])]) if n]
    block = f" {study.block.capitalize()} is a block." if study.block else ""
    caption = f"Additive model of {study.words.label}: each term beyond all others (type II), degrees of freedom by rank.{block}"
    return make_table("additive", caption, frame, {
        "term": Column("term", lambda v: factor_words(str(v)), numeric=False),
        "sum_sq": Column("sum of squares", number),
        "df": Column("df", lambda v: number(v, 0)),
        "F": Column("F", lambda v: number(v, 2)),
        "p": Column("p", lambda v: p_cell(float(v))),  # type: ignore[arg-type]
        "eta2_partial": _EFFECT["eta2_partial"], "interval": _EFFECT["interval"], "omega2_partial": _EFFECT["omega2_partial"],
    }, out / "tables", tuple(notes))  # fmt: skip


def ranking_section(study: Study, means: pd.DataFrame, out: Path) -> Section:
    """Designs from best to worst with intervals, floor and ceiling."""
    digits = score_digits(study)
    points = study.done.groupby(study.design)[study.metric].apply(list)
    rows = [
        Row(study.label(r.design), float(r.mean), float(r.low), float(r.high), points[r.design] if r.n > 1 else (), bool(r.among_best))
        for r in means.itertuples()
    ]
    floor, ceiling = study.mean_anchor("floor"), study.mean_anchor("ceiling")
    drawing = save(ranking(rows, study.words.axis, floor, ceiling), "ranking", out / "figures")
    intervals = means["low"].notna().any()
    replicated = bool((means["n"] > 1).any())
    caption = f"Designs by mean {study.words.label}, best at the top."
    if intervals:
        caption += " Lines: 95% intervals of the mean; small ticks: single runs."
        if study.block and means["n"].nunique() > 1:
            caption += " Means are adjusted for the seeds, as some runs are missing."
        caption += " Filled marks cannot be told from the best (Hsu's test, 95%); open marks are worse." if replicated else ""
    if floor == floor or ceiling == ceiling:
        caption += " Dashed: the floor (base model, untuned)" + (" and the ceiling (real images)." if ceiling == ceiling else ".")
    best = [study.label(d) for d in means.loc[means["among_best"], "design"]]
    if not replicated:
        said = "There is one run a design, so designs are ranked without a test of their differences."
    elif len(best) == 1:
        said = f"{best[0]} is better than every other design beyond the noise of the seeds."
    elif len(best) == len(means):
        said = f"None of the {len(means)} designs can be told from the best."
    else:
        said = f"{listing(best)} cannot be told from the best of the {len(means)} designs; the others are worse."
    frame = means.assign(interval=_interval(means, "low", "high", digits))
    for end in ("floor", "ceiling"):
        frame[end] = study.mean_anchor(end)
    if floor == floor and ceiling == ceiling and ceiling != floor:
        frame["share"] = (frame["mean"] - floor) / (ceiling - floor)
    table = make_table("ranking", "Every design with its interval"
                       + (", and the share of the way from floor to ceiling." if "share" in frame else "."), frame, {
        "design": Column("design", lambda v: study.label(v), numeric=False),
        "mean": Column(study.words.label, lambda v: number(v, digits)),
        "interval": Column("95% interval"),
        "share": Column("of the way", lambda v: f"{v:.0%}"),
        "n": Column("runs", lambda v: number(v, 0)),
        "among_best": Column("may be best", lambda v: "yes" if v and replicated else ""),
    }, out / "tables", folded=len(frame) > 12)  # fmt: skip
    return Section("ranking", "Designs from best to worst", [
        Text(said), FigureBlock(drawing, caption, f"Ranking of {len(means)} designs"), TableBlock(table)])  # fmt: skip


def beside_section(study: Study, means: pd.DataFrame, out: Path) -> Section | None:
    """The other scores of the same designs, in the same order."""
    others = [m for m in study.metrics if m != study.metric and study.done[m].notna().any()]
    if not others:
        return None
    groups = study.done.groupby(study.design)
    order = list(means["design"])
    frame = pd.DataFrame({"design": order, study.metric: means["mean"].to_numpy()})
    columns, shown = [], {
        "design": Column("design", lambda v: study.label(v), numeric=False),
        study.metric: Column(study.words.label, lambda v, d=score_digits(study): number(v, d)),  # type: ignore[misc]
    }  # fmt: skip
    sentences = []
    for name in others:
        words, scores = metric_words(name), groups[name].mean()
        frame[name] = scores.reindex(order).to_numpy()
        singles = groups[name].apply(list)
        floor, ceiling = study.mean_anchor("floor", name), study.mean_anchor("ceiling", name)
        columns.append((words.axis, frame[name].tolist(), [singles[d] if len(singles[d]) > 1 else [] for d in order], floor, ceiling))
        shown[name] = Column(words.label, lambda v, d=digits_for(study.done[name]): number(v, d))  # type: ignore[misc]
        ends = [f"{number(v)} for {what}" for v, what in ((floor, "the base model"), (ceiling, "real images")) if v == v]
        sentences.append(f"{words.label} tells {words.tells}" + (f" ({listing(ends)})" if ends else "") + ".")
    blocks: list[Block] = [Text("One score is not the whole picture. " + " ".join(sentences))]
    if len(order) > 1:
        drawing = save(beside([study.label(d) for d in order], columns[:3]), "beside", out / "figures", wide=len(columns) > 1)
        caption = f"The same designs in the same order as above, by {listing(metric_words(m).label for m in others[:3])}. Ticks: single runs; dashed: floor and ceiling."
        blocks.append(FigureBlock(drawing, caption, "Other scores of each design"))
    table = make_table("metrics", "All scores, mean over runs.", frame, shown, out / "tables", folded=len(order) > 6)
    blocks.append(TableBlock(table))
    return Section("metrics", "The other scores", blocks)


def _levels(study: Study, factor: str) -> list[tuple[str, str]]:
    levels = study.done[factor].dropna().unique().tolist()
    return [(str(level), level_words(factor, level)) for level in (sorted(levels) if not isinstance(levels[0], str) else levels)]


def _best_cell(values: dict[tuple[str, str], float], higher: bool) -> tuple[str, str] | None:
    finite = {cell: v for cell, v in values.items() if math.isfinite(v)}
    return (max if higher else min)(finite, key=lambda cell: finite[cell]) if len(finite) > 1 else None
