"""The factors of a study with all their levels, and the runs with the levels of each."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from analysis.report.page import Section, TableBlock, Text
from analysis.report.study import Study
from analysis.report.tables import Column, make_table
from analysis.report.words import level_words
from analysis.runs.load import factor_columns
from analysis.runs.names import outer
from analysis.runs.roles import is_of_records

MOST_SHOWN = 12  # levels of a factor on the page; the table's file has all


def settings_section(study: Study, out: Path) -> Section | None:
    """Every key of the config that the study varies; runs.csv has the levels and scores of each run."""
    names = factor_columns(study.runs, seed=True) if is_of_records(study.runs) else []
    if not names:
        return None
    write_runs(study, names, out)
    keys = study.runs.attrs.get("keys", {})
    rows = []
    for name in names:
        levels = sorted(study.runs[name].dropna().unique().tolist(), key=lambda v: (isinstance(v, str), v))
        shown = ", ".join(level_words(name, level) for level in levels[:MOST_SHOWN])
        more = f" and {len(levels) - MOST_SHOWN} more" if len(levels) > MOST_SHOWN else ""
        rows.append((name, keys.get(name, ""), len(levels), shown + more))
    frame = pd.DataFrame(rows, columns=["factor", "key", "levels", "which"])
    table = make_table("settings", "What the runs of this study vary.", frame, {
        "factor": Column("factor", numeric=False), "key": Column("key", numeric=False),
        "levels": Column("levels"), "which": Column("which", numeric=False),
    }, out / "tables", folded=True)  # fmt: skip
    apart = " Scores of one task are not compared with those of another." if "task" in names else ""
    said = f"{len(names)} settings differ between the runs.{apart} runs.csv has the levels and scores of each."
    return Section("settings", "What varies", [Text(said), TableBlock(table)])


def write_runs(study: Study, names: list[str], folder: Path) -> None:
    """Write runs.csv: one row a run with its levels, its scores, their floor and ceiling, and the share of the way."""
    runs = study.runs
    frame = runs[[c for c in ("run_id", "status", *names) if c in runs]].copy()
    for metric in study.metrics:
        if metric not in runs:
            continue
        frame[metric] = runs[metric]
        ends = [f"{metric}_{end}" for end in ("floor", "ceiling")]
        if set(ends) <= set(runs):
            frame[ends] = runs[ends]
            way = runs[ends[1]] - runs[ends[0]]
            frame[f"{metric}_share"] = ((runs[metric] - runs[ends[0]]) / way).where(way != 0)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "runs.csv").write_text(outer(frame.to_csv(index=False)), encoding="utf-8")
