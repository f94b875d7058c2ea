"""Designs from best to worst, by the score of the report and by the others."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from analysis.conclusions.floor import own_floors, shares_of_way
from analysis.conclusions.joint import mostly_repeated
from analysis.conclusions.words import named
from analysis.figures.ranking import Panel, Row, beside, ranking
from analysis.figures.style import save
from analysis.report.page import Block, FigureBlock, Section, TableBlock, Text
from analysis.report.sections.means import score_digits
from analysis.report.study import Study
from analysis.report.tables import Column, make_table
from analysis.report.words import digits_for, intervals, listing, mark_words, number, p_cell

MOST_DESIGNS = 20  # of which all pairs are shown
DRAWN = 40  # designs in a figure; the tables have all
PANELS = 3  # other scores drawn beside each other; the table has all of them


def ranking_section(study: Study, means: pd.DataFrame, out: Path) -> Section:
    """Designs from best to worst with intervals, floor and ceiling."""
    label, digits = study.words.label, score_digits(study)
    singles = study.done.groupby(study.design)[study.metric].apply(list)
    rows = []
    for r in means.to_dict("records"):
        points = singles[r["design"]] if r["n"] > 1 else ()
        name = study.label(r["design"])
        tip = mark_words(name, label, r["mean"], digits, r["low"], r["high"], singles[r["design"]])
        rows.append(Row(name, r["mean"], r["low"], r["high"], points, r["among_best"], tip))
    floor, ceiling = study.mean_anchor("floor"), study.mean_anchor("ceiling")
    own = own_floors(study.done, study.metric, study.design, study.block)
    data = means.assign(runs=[" ".join(map(str, singles[d])) for d in means["design"]], floor=floor, ceiling=ceiling)
    drawing = save(ranking(rows[:DRAWN], study.words.axis, floor, ceiling), "ranking", out / "figures", data)
    caption = f"{_drawn(len(rows))} by mean {label}, best at the top."
    if means["low"].notna().any():
        caption += " Lines: 95% intervals of each mean by itself" + (", for these seeds" if study.block else "")
        caption += "; small ticks: single runs."
    if study.block and means["n"].nunique() > 1:
        caption += " Means are adjusted for the seeds, as some runs are missing."
    tested = bool(means.attrs.get("tested"))
    if tested and not means["among_best"].all():
        caption += " Filled marks: with 95% confidence the best is among these (Hsu)."
    if floor == floor or ceiling == ceiling:
        caption += f" Dashed: the {'mean ' if own else ''}floor (base model, untuned)"
        caption += " and the ceiling (real images)." if ceiling == ceiling else "."
    frame = means.assign(interval=intervals(means["low"], means["high"], digits))
    for end in ("floor", "ceiling"):
        frame[end] = frame["design"].map(study.anchors_of(end))
    shares = shares_of_way(study.done, study.metric, study.design, study.block)
    if len(shares):
        frame["share"] = frame["design"].map(shares)
    whose = "its own floor to its own ceiling" if own else "floor to ceiling"
    what = f", and the share of the way from {whose}." if "share" in frame else "."
    table = make_table("ranking", f"Every design with its interval{what}", frame, {
        "design": Column("design", study.label, numeric=False),
        "mean": Column(label, lambda v: number(v, digits)),
        "interval": Column("95% interval of each mean"),
        "share": Column("of the way", lambda v: f"{v:.0%}"),
        "n": Column("runs", lambda v: number(v, 0)),
        "among_best": Column("may be best", lambda v: "yes" if v and tested else ""),
    }, out / "tables", tuple(means.attrs.get("notes", [])), folded=len(frame) > 12)  # fmt: skip
    blocks: list[Block] = [
        Text(_best(study, means)),
        FigureBlock(drawing, caption, f"Ranking of {min(len(means), DRAWN)} designs"),
        TableBlock(table),
    ]
    blocks += _pairs(study, means, out, digits)
    return Section("ranking", "Designs from best to worst", blocks)


def _drawn(count: int, all_of_them: str = "Designs") -> str:
    """The designs of a figure, in words."""
    return all_of_them if count <= DRAWN else f"The best {DRAWN} of {count} designs"


def _pairs(study: Study, means: pd.DataFrame, out: Path, digits: int) -> list[Block]:
    """All pairs of designs, where a test says that designs differ and the pairs are not too many to read."""
    from analysis import tukey

    if not means.attrs.get("tested") or not 2 < len(means) <= MOST_DESIGNS:
        return []
    frame = tukey(study.done, study.metric, study.design, block=study.block, variances="moderated").reset_index()
    frame = frame[frame["p"].notna()].sort_values("p", kind="stable")
    if not len(frame):
        return []
    frame["interval"] = intervals(frame["low"], frame["high"], digits)
    caption = (
        f"Every pair of designs: p and the 95% intervals hold for all {len(frame)} pairs together (Tukey), with "
        "variances between that of the pair and that of all (moderated), as few runs tell little of a pair's own."
    )
    return [TableBlock(make_table("pairs_of_designs", caption, frame, {
        "a": Column("design", study.label, numeric=False),
        "b": Column("minus", study.label, numeric=False),
        "estimate": Column("difference", lambda v: number(v, digits)),
        "interval": Column("95% interval"),
        "df": Column("df", lambda v: number(v, 0)),
        "p": Column("p, of all pairs", lambda v: p_cell(float(str(v)))),
    }, out / "tables", folded=True))]  # fmt: skip


def _best(study: Study, means: pd.DataFrame) -> str:
    """Which designs may be the best."""
    best = [study.label(d) for d in means.loc[means["among_best"], "design"]]
    if not (means["n"] > 1).any():
        return "There is one run a design, so designs are ranked without a test of their differences."
    if study.shares_trainings:
        return "Designs that share trainings are ranked without a test: what decides them is tested factor by factor."
    if not mostly_repeated(study.done, study.design):
        return "Most designs were run once, so designs are ranked without a test of their differences."
    if not means.attrs.get("tested"):
        return f"No test says that the {len(means)} designs differ, so their order may be chance."
    if len(best) == len(means):
        return f"Designs differ, but none of the {len(means)} can be excluded as the best."
    if len(best) == 1:
        return f"With 95% confidence {best[0]} is the best of the {len(means)} designs."
    return f"With 95% confidence the best of the {len(means)} designs is among these {len(best)}: {named(best)}."


def beside_section(study: Study, means: pd.DataFrame, out: Path) -> Section | None:
    """The other scores of the same designs, in the same order."""
    others = [m for m in study.metrics if m != study.metric and study.done[m].notna().any()]
    if not others:
        return None
    groups, order = study.done.groupby(study.design), list(means["design"])
    frame = pd.DataFrame({"design": order, study.metric: means["mean"].to_numpy()})
    shown = {"design": Column("design", study.label, numeric=False)}
    shown[study.metric] = _score_column(study, study.metric)
    panels, sentences = [], []
    for name in others:
        words, singles = study.words_of(name), groups[name].apply(list)
        frame[name] = groups[name].mean().reindex(order).to_numpy()
        shown[name] = _score_column(study, name)
        floor, ceiling = study.mean_anchor("floor", name), study.mean_anchor("ceiling", name)
        points = [singles[d] if len(singles[d]) > 1 else [] for d in order]
        digits = digits_for(study.done[name])
        tips = [
            mark_words(study.label(d), words.label, m, digits, runs=singles[d])
            for d, m in zip(order, frame[name], strict=True)
        ]
        panels.append(Panel(words.axis, frame[name].tolist()[:DRAWN], points[:DRAWN], floor, ceiling, tips[:DRAWN]))
        ends = [
            f"{number(v)} for {what}" for v, what in ((floor, "the base model"), (ceiling, "real images")) if v == v
        ]
        sentences.append(f"{words.label} tells {words.tells}" + (f" ({listing(ends)})" if ends else "") + ".")
    blocks: list[Block] = [Text("One score is not the whole picture. " + " ".join(sentences))]
    if len(order) > 1:
        figure = beside([study.label(d) for d in order[:DRAWN]], panels[:PANELS])
        drawing = save(figure, "beside", out / "figures", frame, wide=len(panels) > 1)
        names = listing(study.words_of(m).label for m in others[:PANELS])
        caption = (
            f"{_drawn(len(order), 'The same designs')} in the same order as above, by {names}. "
            "Ticks: single runs; dashed: floor and ceiling."
        )
        blocks.append(FigureBlock(drawing, caption, f"{names} of each design"))
    table = make_table("metrics", "All scores, mean over runs.", frame, shown, out / "tables", folded=len(order) > 6)
    blocks.append(TableBlock(table))
    return Section("metrics", "The other scores" if len(order) > 1 else "The scores", blocks)


def _score_column(study: Study, metric: str) -> Column:
    digits = digits_for(study.done[metric])
    return Column(study.words_of(metric).label, lambda v: number(v, digits))
