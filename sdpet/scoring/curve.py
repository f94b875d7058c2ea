"""Scores over the scale of guidance, as a checkpoint of Stable Diffusion is judged: points, table and plot."""

from __future__ import annotations

import csv
import functools
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpet.files.atomic import atomically
from sdpet.files.hashing import hash_text
from sdpet.models.base import BaseModel
from sdpet.sampling.loop import Progress, SamplerConfig
from sdpet.scoring.evaluate import evaluate_run, protocol
from sdpet.scoring.plan import EvalPlan
from sdpet.scoring.scorers import Scorers

if TYPE_CHECKING:
    from sdpet.tasks import Task

POINTS = "points.jsonl"


def guidance_points(
    base: BaseModel,
    task: Task,
    scorers: Scorers,
    sampler: SamplerConfig,
    seed: int,
    plan: EvalPlan,
    scales: Sequence[float],
    model: str,
    identity: str,
    folder: Path,
    progress: Callable[[str], Progress | None] = lambda what: None,
) -> list[dict[str, Any]]:
    """One row a scale of guidance, for `base` as it now is: model, guidance, then its metrics.

    model: what the rows call it; identity: of its weights. Rows are kept in folder/points.jsonl by hash of how they
    were made, so an interrupted curve goes on. A scale at which samples are not finite gives no row.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / POINTS
    kept = _read(file)
    rows = []
    for scale in scales:
        at_scale = replace(sampler, guidance=float(scale))
        made_by = {"identity": identity, "seed": seed, **protocol(base, task, scorers, at_scale, plan)}
        key = hash_text(json.dumps(made_by, sort_keys=True))
        if key not in kept:
            try:
                done = evaluate_run(base, task, scorers, at_scale, seed, plan, progress(f"{model} guidance {scale:g}"))
            except FloatingPointError:
                continue
            kept[key] = {"model": model, "guidance": float(scale), **done.metrics}
            lines = "".join(json.dumps({"key": k, **row}) + "\n" for k, row in kept.items())
            atomically(file, functools.partial(Path.write_text, data=lines, encoding="utf-8"))
        rows.append({**kept[key], "model": model})
    return rows


def axes(rows: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """The metrics on the axes: text fidelity across, FID up (or likeness to the subject where there is none)."""
    names = set().union(*rows)
    return "clip_t", next(name for name in ("fid", "clip_fid", "clip_i") if name in names)


def write_table(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """All rows as CSV."""
    names = list(dict.fromkeys(name for row in rows for name in row))

    def write(partial: Path) -> None:
        with partial.open("w", newline="", encoding="utf-8") as stream:
            table = csv.DictWriter(stream, names, restval="")
            table.writeheader()
            table.writerows(rows)

    atomically(file, write)


def plot(rows: Sequence[Mapping[str, Any]], folder: Path, title: str, real: Mapping[str, float | None]) -> None:
    """guidance.svg and guidance.png: one line a model, a point a scale, and a dashed line at real images' score.

    real: metric to the value of real images, the ceiling, where there is one.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across, up = axes(rows)
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    plane = figure.subplots()
    colors = ("#4477aa", "#cc6677", "#228833", "#aa3377")
    for number, model in enumerate(dict.fromkeys(row["model"] for row in rows)):
        own = sorted((row for row in rows if row["model"] == model), key=lambda row: row["guidance"])
        x, y = [row[across] for row in own], [row[up] for row in own]
        color = colors[number % len(colors)]
        plane.plot(x, y, "o-", color=color, label=model, markersize=5, linewidth=1.5)
        for row in own:
            place: Any = {"xytext": (5, 5), "textcoords": "offset points", "fontsize": 8, "color": color}
            plane.annotate(f"{row['guidance']:g}", (row[across], row[up]), **place)
    if (level := real.get(up)) is not None:
        plane.axhline(level, color="0.5", linestyle="--", linewidth=1, label="real images")
    plane.set_xlabel(f"{_NAMES.get(across, across)}, better to the right")
    plane.set_ylabel(f"{_NAMES.get(up, up)}, better {'up' if up == 'clip_i' else 'down'}")
    plane.set_title(title, fontsize=10)
    plane.grid(alpha=0.3)
    plane.spines[["top", "right"]].set_visible(False)
    plane.legend(frameon=False, fontsize=9)
    for ending in ("svg", "png"):
        image = io.BytesIO()
        figure.savefig(image, format=ending, dpi=150)
        atomically(folder / f"guidance.{ending}", functools.partial(Path.write_bytes, data=image.getvalue()))


_NAMES = {"clip_t": "CLIP score (clip_t)", "fid": "FID", "clip_i": "similarity to the subject (clip_i)"}


def _read(file: Path) -> dict[str, dict[str, Any]]:
    try:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError):
        return {}
    return {line.pop("key"): line for line in lines}
