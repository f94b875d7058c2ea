"""Scores over the scale of guidance, as checkpoints of Stable Diffusion are usually judged: points, table, plot."""

from __future__ import annotations

import csv
import functools
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sdpet.files.atomic import write_atomic
from sdpet.files.digests import signed, signed_problem
from sdpet.files.hashing import hash_text
from sdpet.files.plain_json import finite, to_json
from sdpet.files.received import read_json_lines
from sdpet.models.base import BaseModel
from sdpet.sampling.loop import SamplerConfig, StepCallback
from sdpet.scoring.evaluate import evaluate_run, protocol
from sdpet.scoring.plan import EvalPlan
from sdpet.scoring.scorers import Scorers
from sdpet.scoring.task import EvalTask

POINTS = "points.jsonl"


def guidance_points(
    base: BaseModel,
    task: EvalTask,
    scorers: Scorers,
    sampler: SamplerConfig,
    seed: int,
    plan: EvalPlan,
    scales: Sequence[float],
    model: str,
    identity: str,
    folder: Path,
    progress: Callable[[str], StepCallback | None] = lambda what: None,
) -> list[dict[str, Any]]:
    """Score `base`, as it is at this moment, at several scales of guidance.

    Each row is stored in folder/points.jsonl by a hash of how it was made, so an interrupted curve can be resumed. A
    scale at which the samples are not finite gives no row.

    Parameters
    ----------
    base : BaseModel
        The model, with whatever is attached to it.
    task : EvalTask
        What is drawn and how it is scored.
    scorers : Scorers
        The networks that score.
    sampler : SamplerConfig
        How images are drawn; its guidance is replaced by each of the scales.
    seed : int
        The run's seed, from which the evaluation noise derives.
    plan : EvalPlan
        Numbers of images.
    scales : sequence of float
        Scales of guidance.
    model : str
        Name of the model in the rows.
    identity : str
        Identifies the model's weights in the hash.
    folder : Path
        Folder of points.jsonl; it is created where missing.
    progress : callable
        Given a description, returns a progress callback, see `sample`, or None.

    Returns
    -------
    list of dict
        One row a scale: model, guidance, then the metrics.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / POINTS
    stored = _read(file)
    rows = []
    for scale in scales:
        at_scale = replace(sampler, guidance=float(scale))
        made_by = {"identity": identity, "seed": seed, **protocol(base, task, scorers, at_scale, plan)}
        key = hash_text(json.dumps(made_by, sort_keys=True))
        if key not in stored:
            try:
                done = evaluate_run(base, task, scorers, at_scale, seed, plan, progress(f"{model} guidance {scale:g}"))
            except FloatingPointError:
                continue
            stored[key] = {"model": model, "guidance": float(scale), **finite(done.metrics)}
            lines = "".join(to_json(signed({"key": k, **row})) + "\n" for k, row in stored.items())
            write_atomic(file, functools.partial(Path.write_text, data=lines, encoding="utf-8"))
        rows.append({**stored[key], "model": model})
    return rows


def guidance_axes(rows: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """The metrics on the axes of the plot.

    Parameters
    ----------
    rows : sequence of dict
        Rows of `guidance_points`.

    Returns
    -------
    (str, str)
        The horizontal axis, text fidelity, and the vertical one: FID, or similarity to the subject where there is no
        FID.
    """
    names = set().union(*rows)
    return "clip_t", next(name for name in ("fid", "clip_fid", "clip_i") if name in names)


def write_guidance_table(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Write all rows as CSV.

    Parameters
    ----------
    rows : sequence of dict
        Rows of `guidance_points`; a metric that a row lacks is left empty.
    file : Path
        Written atomically.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))

    def write(partial: Path) -> None:
        with partial.open("w", newline="", encoding="utf-8") as stream:
            table = csv.DictWriter(stream, names, restval="")
            table.writeheader()
            table.writerows(rows)

    write_atomic(file, write)


def plot_guidance(
    rows: Sequence[Mapping[str, Any]], folder: Path, title: str, real: Mapping[str, float | None]
) -> None:
    """Plot one line for each model, with a point for each scale, as guidance.svg and guidance.png.

    Parameters
    ----------
    rows : sequence of dict
        Rows of `guidance_points`.
    folder : Path
        Existing folder for the two files.
    title : str
        Title of the plot.
    real : dict of str to float or None
        For each metric the value of real images (the ceiling), drawn as a dashed line; None where there is none.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across, up = guidance_axes(rows)
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
        write_atomic(folder / f"guidance.{ending}", functools.partial(Path.write_bytes, data=image.getvalue()))


_NAMES = {"clip_t": "CLIP score (clip_t)", "fid": "FID", "clip_i": "similarity to the subject (clip_i)"}


def _read(file: Path) -> dict[str, dict[str, Any]]:
    """Stored points by their key; a point that was changed is computed again."""
    try:
        lines = [line for _, line in read_json_lines(file) if signed_problem(line) is None]
    except (FileNotFoundError, ValueError):
        return {}
    return {line["key"]: {k: v for k, v in line.items() if k not in ("key", "digest")} for line in lines}
