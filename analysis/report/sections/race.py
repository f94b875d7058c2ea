"""The section on a race: its looks, who left and why, the bounds that hold together, and F on complete seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.report.page import Block, Section, TableBlock, Text
from analysis.report.raced import Raced
from analysis.report.study import Study
from analysis.report.tables import Column, Table, make_table
from analysis.report.words import factor_words, intervals, number, p_cell
from analysis.sequential.factors import factor_tests

NAMED = 3  # designs that left at one look and are named in its row


def race_tests(study: Study) -> pd.DataFrame:
    """F of the study's factors on the seeds that every design of its race has."""
    assert study.raced is not None
    race = study.raced
    runs = study.done.dropna(subset=[race.stored.score])
    whole = runs.groupby(study.design)["seed"].nunique()
    runs = runs[runs[study.design].isin(whole.index[whole >= 2])] if study.design in runs else runs
    parts = ("din", "dout") if "placement" in study.factors else ()
    terms = [name for name in study.factors if name not in parts and runs[name].nunique() > 1]
    if not terms or len(race.seeds) < 2:
        return factor_tests(runs, race.stored.score, [], "seed", [])
    return factor_tests(runs, race.stored.score, terms, "seed", race.seeds[:2])


def race_section(study: Study, tests: pd.DataFrame, out: Path) -> Section | None:
    """None where the study was no race."""
    race = study.raced
    if race is None:
        return None
    stored, result = race.stored, race.result
    d = f"{stored.asked} of floor to ceiling, {result.d:.3g}" if isinstance(stored.asked, str) else f"{result.d:g}"
    whole = len(result.bounds) * (int(result.looks.index[-1]) if len(result.looks) else 0)
    text = (
        f"Seeds were added only to designs that could still be the best by {stored.score}. At each look a design is "
        f"out if it is worse than some other, and parked if it cannot beat the leader by more than d = {d}. Two "
        f"promises hold with {1 - result.alpha:.0%} confidence, wherever a race stops: the best design is never out, "
        f"and the leader of a decided race is worse than the best by d at most. This race used {result.runs_used} "
        f"runs; all designs with all its seeds would have been {whole}."
    )
    blocks: list[Block] = [Text(text), TableBlock(_looks(race, out)), TableBlock(_bounds(race, out))]
    if len(tests):
        blocks.append(TableBlock(_tests(tests, out)))
    return Section("race", "The race", blocks)


def _looks(race: Raced, out: Path) -> Table:
    frame = race.result.looks.reset_index()
    by = {look["seeds"]: look["out"] for look in race.stored.looks}
    frame["out"] = [_out(by.get(seeds, [])) for seeds in frame["seeds"]]
    for name in ("parked", "back"):
        frame[name] = frame[name].map(lambda levels: ", ".join(map(str, levels)))
    caption = (
        "Looks: who left (worse than which, and the bound of the difference) and who was parked. Where many left, the "
        "next table names them."
    )
    return make_table("race_looks", caption, frame, {
        "seeds": Column("seeds"),
        "spent": Column("alpha spent", lambda v: number(v, 3)),
        "compared": Column("compared"),
        "leader": Column("leader", numeric=False),
        "out": Column("out", numeric=False),
        "parked": Column("parked", numeric=False),
        "back": Column("back", numeric=False),
        "undecided": Column("undecided"),
        "regret": Column("leader behind by at most", lambda v: number(v, 3)),
        "sd": Column("residual SD", lambda v: number(v, 3)),
    }, out / "tables")  # fmt: skip


def _out(left: Sequence[Mapping[str, Any]]) -> str:
    """Who left at a look; of many only their number."""
    if len(left) > NAMED:
        return f"{len(left)} designs"
    return "; ".join(
        f"{one['design']} (diverged)"
        if one["bound"] is None
        else f"{one['design']} (by {one['by']}, {one['bound']:.3f})"
        for one in left
    )


def _bounds(race: Raced, out: Path) -> Table:
    frame = race.result.bounds.reset_index()
    found = {one["design"]: one["bound"] for look in race.stored.looks for one in look["out"]}
    frame["least"] = [-found[level] if found.get(level) is not None else float("nan") for level in frame["level"]]
    frame["with_best"] = intervals(frame["low"], frame["high"], 3)
    frame["left"] = frame["look"].map(lambda v: "–" if pd.isna(v) else str(v))
    caption = (
        "Designs at the end. Better than the best of the others by: bounds that hold for all designs together, "
        "wherever the race stopped. Means of designs with few seeds say little; the leader's is too high on average."
    )
    return make_table("race_bounds", caption, frame, {
        "level": Column("design", numeric=False),
        "state": Column("state", numeric=False),
        "n": Column("seeds"),
        "mean": Column("mean", lambda v: number(v, 3)),
        "to_leader": Column("better than the leader by at most", lambda v: number(v, 3)),
        "with_best": Column("better than the best of the others by"),
        "left": Column("left at"),
        "by": Column("worse than", lambda v: "–" if v is None or v != v else str(v), numeric=False),
        "least": Column("by at least", lambda v: number(v, 3)),
    }, out / "tables", folded=len(frame) > 12)  # fmt: skip


def _tests(tests: pd.DataFrame, out: Path) -> Table:
    caption = (
        "F on the seeds that every design has, seeds as blocks; Holm's adjustment over the factors. A factor is said "
        "to matter where that p is below the level of the look. Greenhouse and Geisser's p beside it has almost no "
        "power with two seeds."
    )
    frame = tests.assign(verdict=tests["matters"].map({True: "matters", False: "–"}))
    return make_table("race_factors", caption, frame, {
        "look": Column("complete seeds"),
        "term": Column("factor", lambda v: factor_words(str(v)), numeric=False),
        "F": Column("F", lambda v: number(v, 2)),
        "df": Column("df", lambda v: number(v, 0)),
        "df_residual": Column("residual df", lambda v: number(v, 0)),
        "p": Column("p", lambda v: p_cell(float(str(v)))),
        "p_holm": Column("Holm", lambda v: p_cell(float(str(v)))),
        "p_gg": Column("Greenhouse-Geisser", lambda v: p_cell(float(str(v)))),
        "level": Column("level", lambda v: number(v, 3)),
        "verdict": Column("verdict", numeric=False),
    }, out / "tables")  # fmt: skip
