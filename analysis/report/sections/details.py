"""The later sections: how training went, what failed, how scores were made, how to do it again."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.figures.curves import loss_panels
from analysis.figures.style import save
from analysis.report.page import Block, Code, FigureBlock, Section, TableBlock, Text
from analysis.report.pictures import thinned
from analysis.report.study import Study
from analysis.report.tables import Column, make_table
from analysis.report.words import level_words, listing
from analysis.runs.roles import is_of_records
from analysis.runs.statuses import has_status
from sdpet.files.project import here
from sdpet.files.terminal import counted
from sdpet.study.manifest import read_manifest

MAX_CURVES = 400  # single runs drawn; more would be a grey band and megabytes


def training_section(study: Study, out: Path, order: list[object]) -> Section | None:
    """Loss curves of all runs. `order`: designs from best to worst."""
    by_id = dict(zip(study.done["run_id"], study.done[study.design], strict=True)) if "run_id" in study.done else {}
    runs: list[tuple[str, object, list[tuple[float, float]]]] = []
    bad: list[str] = []
    for run_id, record in study.records.items():
        points = [(float(s), float(v)) for s, v in record.get("loss") or [] if v is not None and math.isfinite(v)]
        if len(points) < 2 or len(runs) >= MAX_CURVES or (record["status"] == "finished" and run_id not in by_id):
            continue  # a run that ended well and is not compared: of another task, or set aside
        name = study.label(by_id[run_id]) if run_id in by_id else f"{record.get('status')} runs"
        bad += [name] if run_id not in by_id and name not in bad else []
        runs.append((name, (record.get("factors") or {}).get("seed"), points))
    if not runs:
        return None
    shared = _shared_losses([run for run in runs if run[0] not in bad])
    curves: dict[str, list[list[tuple[float, float]]]] = {}
    for name, seed, points in runs:
        less = [(s, v - shared[seed, s]) for s, v in points if (seed, s) in shared] if shared else points
        if len(less) > 1:
            curves.setdefault(name, []).append(less)
    labels = [study.label(design) for design, _ in thinned([(d, 0.0) for d in order])]
    panels = {name: curves[name] for name in (*labels, *bad) if name in curves}
    if not panels:
        return None
    data = pd.DataFrame([
        {"design": name, "seed": seed, "step": step, "loss": loss, "mean_of_seed": shared.get((seed, step), math.nan)}
        for name, seed, points in runs for step, loss in points
    ])  # fmt: skip
    y_label = "loss, less the mean of its seed" if shared else "loss (mean squared error of the noise)"
    figure = loss_panels(panels, y_label, frozenset(bad), bool(shared))
    drawing = save(figure, "loss", out / "figures", data, wide=len(panels) > 2)
    said = f"Training loss of {counted(len(runs), 'run')}, best score first. "
    if shared:
        said += (
            "Designs of one seed see the same data and noise at each step, which moves their losses far more than what "
            "they are; so from each loss the mean of all designs of its seed at that step is taken. "
        )
    said += "Each point is the mean over a tenth of the steps about it."
    if len(panels) > 1:
        said += " Grey: where 80% of all these runs are."
    if left_out := len(curves) - len(panels):
        said += f" {left_out} designs between the best and the worst are not shown; their losses are in the data."
    said += " A low loss alone does not make a good design: compare with the scores above."
    return Section("training", "Training", [FigureBlock(drawing, said, "Training loss against step for every run")])


def _shared_losses(runs: Sequence[tuple[str, object, list[tuple[float, float]]]]) -> dict[tuple[object, float], float]:
    """The mean loss at each seed and step over designs; empty unless every seed has two designs with the same steps."""
    found: dict[tuple[object, float], list[float]] = {}
    for _, seed, points in runs:
        for step, loss in points:
            found.setdefault((seed, step), []).append(loss)
    designs = {seed: {name for name, other, _ in runs if other == seed} for _, seed, _ in runs}
    whole = all(len(names) > 1 and seed is not None for seed, names in designs.items())
    if not whole or any(len(losses) < len(designs[seed]) for (seed, _), losses in found.items()):
        return {}
    return {key: sum(losses) / len(losses) for key, losses in found.items()}


def failures_section(study: Study, out: Path) -> Section | None:
    """Runs that diverged or failed, with their reasons."""
    ended = study.runs["status"] if has_status(study.runs) else pd.Series("finished", index=study.runs.index)
    bad = study.runs[ended != "finished"]
    without = study.runs[(ended == "finished") & ~np.isfinite(study.runs[study.metric].astype(float))]
    if "task" in without and is_of_records(study.runs):  # another task has scores of its own
        without = without[without["task"].isin(study.done["task"])]
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
    rows: list[tuple[str, str]] = []
    for group in ("task", "protocol", "versions"):
        values = [_flat(r.get(group) or {}) for r in records]
        for key in dict.fromkeys(k for v in values for k in v):
            seen = list(dict.fromkeys(str(v.get(key)) for v in values if key in v))
            seen = sorted(seen, key=float) if all(_is_number(v) for v in seen) else seen
            shown = ", ".join(seen[:4]) + (f", … ({len(seen)} values)" if len(seen) > 4 else "")
            rows.append((f"{group}: {key}", shown))
    shas = sorted({str(r["git_sha"])[:12] for r in records if r.get("git_sha")})
    if shas:
        rows.append(("code (git)", ", ".join(shas)))
    frame = pd.DataFrame(rows, columns=["what", "value"])
    table = make_table("protocol", "Task, scoring and software, as recorded in every run.", frame, {
        "what": Column("what", numeric=False), "value": Column("value", numeric=False),
    }, out / "tables", folded=True)  # fmt: skip
    tasks = [r.get("task") or {} for r in records]
    said = f"The task is {listing(dict.fromkeys(str(t.get('name', 'unnamed')) for t in tasks))}"
    for key, joint in (("prompt", "with the prompt"), ("class_prompt", "and the prior")):
        if texts := list(dict.fromkeys(str(t[key]) for t in tasks if t.get(key))):
            said += f" {joint} “{texts[0]}”" if len(texts) == 1 else f" {joint}s {listing(f'“{t}”' for t in texts[:3])}"
            said += f" and {len(texts) - 3} more" if len(texts) > 3 else ""
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
        plan = read_manifest(study.source)
        if plan is not None and plan.command:
            started = shlex.join(["python", *map(str, plan.command)])
            which = (
                "The first line is the last command that asked for runs of this study, as it was given; commands "
                "before it may have asked for others."
            )
        else:
            started = here(f"python train.py -m +sweeps={study.name}")
            which = (
                "If the study was not started from a file in sweeps/, use the command that started it in place of "
                "the first line."
            )
        lines.append(f"{started}     # trains what is missing")
        blocks.append(Text(
            "Every run has a folder with the resolved configuration (config.yaml), its adapters, its samples and its "
            f"record. Finished runs are not trained again. {which}"
        ))  # fmt: skip
    lines.append(command)
    blocks.append(Code("\n".join(lines)))
    return Section("reproduce", "How to reproduce this", blocks)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level of dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value) if isinstance(value, list) else value
    return flat
