"""The later sections: how training went, what failed, what was matched, how scores were made, how to do it again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures.curves import loss_curves
from analysis.figures.scatter import cost_panels
from analysis.figures.style import save
from analysis.report.page import Block, Code, FigureBlock, Section, TableBlock, Text
from analysis.report.study import Study
from analysis.report.tables import Column, make_table
from analysis.report.words import counted, level_words, listing, number
from analysis.runs.statuses import has_status

MAX_CURVES = 400  # single runs drawn; more would be a grey band and megabytes
SAME = 1.05  # costs that differ by less are taken as the same: what is left is measurement noise

# Costs of a run: column -> (text, factor to the unit shown). Kept where they are recorded.
COSTS = {
    "trainable_params": ("trained parameters (thousand)", 1e-3),
    "seconds_train": ("training time (s)", 1.0),
    "peak_memory": ("peak memory (MiB)", 2.0**-20),
}


def costs_section(study: Study, out: Path, means: pd.DataFrame) -> Section | None:
    """Quality against parameters, time and memory. `means`: frame of designs with columns design and mean."""
    from analysis import pareto

    panels, sentences, alike = [], [], []
    for column, (text, factor) in COSTS.items():
        if column not in study.done:
            continue
        cost = means["design"].map(study.done.groupby(study.design)[column].mean()) * factor
        if not cost.min() > 0:
            continue
        if cost.max() < SAME * cost.min():
            alike.append(f"{text.split(' (')[0]} ({number(cost.mean())} {text.split('(')[1]}")
            continue
        directions = {"mean": "max" if study.higher_is_better else "min", column: "min"}
        designs = pareto(means.assign(**{column: cost}), directions, "design")
        front = [study.label(d) for d in designs.index[designs["front"]]]
        panels.append((text, [(study.label(d), r[column], r["mean"]) for d, r in designs.iterrows()], set(front)))
        if len(front) <= 5:
            sentences.append(f"for {text.split(' (')[0]} {listing(front)}")
    if not panels:
        return None
    drawing = save(cost_panels(panels, study.words.axis, study.higher_is_better), "pareto", out / "figures", wide=True)
    caption = (
        f"Each mark is a design (mean over its runs): {study.words.label} against what it costs. Red: on the Pareto "
        f"front, where no other design is both better and cheaper{'; ' + '; '.join(sentences) if sentences else ''}."
    )
    if alike:
        caption += f" Not drawn, as it differs by less than {SAME - 1:.0%} between designs: {listing(alike)}."
    block = FigureBlock(drawing, caption, f"{study.words.label} against cost")
    return Section("cost", "Quality against cost", [block])


def sizes_section(study: Study, out: Path) -> Section | None:
    """Parameters of each design: what was matched and what was not."""
    if "trainable_params" not in study.done or study.done["trainable_params"].isna().all():
        return None
    keep = [c for c in ("mid_dim", "adapters", "trainable_params", "lr", "steps", "seconds_train", "peak_memory")
            if c in study.done and pd.api.types.is_numeric_dtype(study.done[c])]  # fmt: skip
    frame = study.done.groupby(study.design, sort=False)[keep].mean().reset_index()
    frame = frame.sort_values("trainable_params").rename(columns={study.design: "design"})
    base = next((r["sizes"].get("base_params") for r in study.records.values() if r.get("sizes")), None)
    if base:
        frame["share_of_base"] = frame["trainable_params"] / base
    low, high = frame["trainable_params"].min(), frame["trainable_params"].max()
    if len(frame) == 1:
        said = f"The design trains {number(int(low))} parameters"
        said += f", {low / base:.2%} of the base model's {number(int(base))}." if base else "."
    elif high <= 1.02 * low:
        said = f"All designs train the same number of parameters, {number(round(high))}, within {high / low - 1:.1%}."
    elif high <= 1.1 * low:
        said = (
            f"Widths are matched: the designs train {number(round(low))} to {number(round(high))} parameters, "
            f"which differ by at most {high / low - 1:.0%} as widths are whole numbers."
        )
    else:
        said = (
            f"Parameters are not matched: the designs train {number(round(low))} to {number(round(high))} parameters "
            f"({high / low:.2g} times), so a difference between designs is also a difference in size."
        )
    same = []
    for column, name in (("lr", "learning rate"), ("steps", "number of training steps")):
        if column in frame and study.done[column].nunique() == 1:
            same.append(f"{name} ({level_words(column, study.done[column].iloc[0])})")
        elif column in frame and study.done[column].nunique() > 1:
            said += f" The {name} differs between runs."
    if same:
        said += f" The same for all runs, and not tuned for each design: {listing(same)}."
    table = make_table("sizes", "Size and cost of each design, mean over its runs.", frame, {
        "design": Column("design", lambda v: study.label(v), numeric=False),
        "mid_dim": Column("mid_dim", lambda v: number(v, 0)),
        "adapters": Column("adapters", lambda v: number(v, 0)),
        "trainable_params": Column("parameters", lambda v: number(round(float(str(v))))),
        "share_of_base": Column("of base", lambda v: f"{v:.2%}"),
        "seconds_train": Column("training (s)", number),
        "peak_memory": Column("memory (MiB)", lambda v: number(float(str(v)) / 2**20, 0)),
    }, out / "tables", folded=len(frame) > 6)  # fmt: skip
    return Section("sizes", "Parameters: what was matched", [Text(said), TableBlock(table)])


def training_section(study: Study, out: Path, order: list[object]) -> Section | None:
    """Loss curves of all runs. `order`: designs from best to worst."""
    curves: dict[str, list[list[tuple[float, float]]]] = {}
    by_id = dict(zip(study.done["run_id"], study.done[study.design], strict=True)) if "run_id" in study.done else {}
    drawn = 0
    for run_id, record in study.records.items():
        points = [(float(s), float(v)) for s, v in record.get("loss") or [] if v is not None and math.isfinite(v)]
        if len(points) < 2 or drawn >= MAX_CURVES:
            continue
        drawn += 1
        name = study.label(by_id[run_id]) if run_id in by_id else f"{record.get('status')} runs"
        curves.setdefault(name, []).append(points)
    if not curves:
        return None
    labels = [study.label(d) for d in order]
    named = list(dict.fromkeys([*labels[:2], *labels[-1:]])) if len(labels) > 1 else labels
    named += [name for name in ("diverged runs", "failed runs") if name in curves]
    top = max(v for name, runs in curves.items() if not name.endswith(" runs") for run in runs for _, v in run) \
        if any(not name.endswith(" runs") for name in curves) else None  # fmt: skip
    drawing = save(loss_curves(curves, [n for n in named if n in curves], top), "loss", out / "figures")
    caption = f"Training loss of {counted(drawn, 'run')}, smoothed over steps. "
    if len(labels) > 3:
        caption += "In colour the two best designs and the worst; the others are grey. "
    caption += "A low loss alone does not make a good design: compare with the scores above."
    return Section("training", "Training", [FigureBlock(drawing, caption, "Training loss against step for every run")])


def failures_section(study: Study, out: Path) -> Section | None:
    """Runs that diverged or failed, with their reasons."""
    ended = study.runs["status"] if has_status(study.runs) else pd.Series("finished", index=study.runs.index)
    bad = study.runs[ended != "finished"]
    without = study.runs[(ended == "finished") & ~np.isfinite(study.runs[study.metric].astype(float))]
    if not len(bad) and not len(without):
        return None
    shown = [c for c in ("placement", *study.factors, "seed", "status", "reason", "run_id") if c in bad]
    frame = pd.concat([bad, without])[list(dict.fromkeys(shown))]
    columns = {"placement": Column("placement", lambda v: level_words("placement", v), numeric=False)}
    columns |= {f: Column(f, lambda v, f=f: level_words(f, v), numeric=False)  # type: ignore[misc]
                for f in study.factors if f not in ("placement", "din", "dout")}  # fmt: skip
    columns |= {
        "seed": Column("seed"),
        "status": Column("ended", numeric=False),
        "reason": Column("reason", lambda v: "finished without this score" if pd.isna(v) else str(v), numeric=False),  # type: ignore[call-overload]
    }
    counts = listing(f"{n} {status}" for status, n in ended[frame.index].value_counts().items())
    table = make_table("failures", "Runs that are not in the analysis.", frame, columns, out / "tables")
    text = (
        f"{len(frame)} of {len(study.runs)} runs have no score ({counts}). They are left out of every number above; "
        "if some designs fail more than others, that is a result too."
    )
    return Section("failures", "Runs without a score", [Text(text), TableBlock(table)])


def protocol_section(study: Study, out: Path) -> Section | None:
    """How the scores were made."""
    records = [study.records[r] for r in study.done.get("run_id", []) if r in study.records]
    if not records:
        return None
    first = records[0]
    rows: list[tuple[str, str]] = []
    for group in ("task", "protocol", "versions"):
        values = [_flat(r.get(group) or {}) for r in records]
        for key in dict.fromkeys(k for v in values for k in v):
            seen = list(dict.fromkeys(str(v.get(key)) for v in values if key in v))
            shown = ", ".join(seen[:4]) + (f", … ({len(seen)} values)" if len(seen) > 4 else "")
            rows.append((f"{group}: {key}", shown))
    shas = sorted({str(r["git_sha"])[:12] for r in records if r.get("git_sha")})
    if shas:
        rows.append(("code (git)", ", ".join(shas)))
    frame = pd.DataFrame(rows, columns=["what", "value"])
    table = make_table("protocol", "Task, scoring and software, as recorded in every run.", frame, {
        "what": Column("what", numeric=False), "value": Column("value", numeric=False),
    }, out / "tables", folded=True)  # fmt: skip
    task = first.get("task") or {}
    said = f"The task is {task.get('name', 'unnamed')}"
    if task.get("prompt"):
        said += f" with the prompt “{task['prompt']}”"
    if task.get("class_prompt"):
        said += f" and the prior “{task['class_prompt']}”"
    said += ". "
    if study.block:
        said += (
            "Designs of one seed saw the same data in the same order, and their samples start from the same noise; "
            "the seed is therefore a block in every test. "
        )
    if not math.isnan(study.mean_anchor("floor")):
        said += (
            "The floor is the base model, untuned, scored with the same prompts and noise; the ceiling, where there is "
            "one, is what real images score. "
        )
    return Section("protocol", "Protocol", [Text(said.strip()), TableBlock(table)])


def reproduce_section(study: Study, command: str) -> Section:
    """The commands that make this report again."""
    blocks: list[Block] = []
    lines = []
    if study.records:
        lines.append(f"python train.py -m +sweeps={study.name}     # trains what is missing")
        blocks.append(Text(
            "Every run has a folder with the resolved configuration (config.yaml), its adapters, its samples and its "
            "record. Finished runs are not trained again. If the study was not started from a file in sweeps/, use "
            "the command that started it in place of the first line."
        ))  # fmt: skip
    lines.append(command)
    blocks.append(Code("\n".join(lines)))
    return Section("reproduce", "How to reproduce this", blocks)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level of dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value) if isinstance(value, list) else value
    return flat
