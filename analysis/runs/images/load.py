"""The scores of single images that runs keep beside their records, one row an image."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.runs.load import factor_columns, load_results

FILE = "scores.jsonl"  # in samples/ of a run's folder, written by sdpet.scoring
MOST_BYTES = 64_000_000  # of one such file
IMAGE = ("role", "template", "prompt", "image", "noise_seed")
_OF_RUN = ("study", "run_id", "trained_in", "task", "data", "seed", "path")


def load_image_scores(source: str | Path | pd.DataFrame, metrics: Sequence[str] = ()) -> pd.DataFrame:
    """One row an image: the factors of its run, its prompt and the seed of its noise, and its scores.

    Metrics that are no means over images, such as FID, have no score of an image. The mean of a run's images equals the
    score in its record.

    Parameters
    ----------
    source
        A study's folder, or a frame of its runs from `load_results`.
    metrics
        Only these scores; default all.

    Returns
    -------
    pandas.DataFrame
        run_id, seed and the factors of the run; role (subject, prompt or class), prompt, template (the prompt with
        {subject} in the place of the subject's words), image (its file), noise_seed; one column a metric, NaN where the
        image is not measured by it. Images of one run are one unit of what the run decides: `anova`, `mixed` and
        `conclude` count them so.

    Raises
    ------
    ValueError
        No run has scores of images; runs of older versions have none, evaluate.py makes them.

    >>> load_image_scores(pd.DataFrame({"run_id": ["a"], "path": ["/nowhere"], "clip_i": [0.5]}))
    Traceback (most recent call last):
    ValueError: No run has scores of its images (1 runs); evaluate.py makes them for older runs.
    """
    runs = source if isinstance(source, pd.DataFrame) else load_results(source)
    if "path" not in runs:
        raise ValueError("The runs have no folders, so there are no scores of their images; give a study's folder.")
    kept = [c for c in dict.fromkeys([*_OF_RUN, *factor_columns(runs, seed=True)]) if c in runs and c not in IMAGE]
    rows: list[dict[str, Any]] = []
    found: dict[str, None] = {}
    without = 0
    for run in runs[kept].to_dict("records"):
        images = _images(Path(str(run["path"])))
        without += not images
        for image in images:
            scores = {k: v for k, v in image.pop("scores").items() if not metrics or k in metrics}
            found |= dict.fromkeys(scores)
            rows.append({**run, **image, **scores})
    if not rows:
        raise ValueError(f"No run has scores of its images ({len(runs)} runs); evaluate.py makes them for older runs.")
    frame = pd.DataFrame(rows)
    notes = [f"{without} of {len(runs)} runs have no scores of their images and are left out."] if without else []
    frame.attrs = {**runs.attrs, "metrics": list(found), "notes": [*runs.attrs.get("notes", []), *notes]}
    return frame


def _images(folder: Path) -> list[dict[str, Any]]:
    """The images of a run; none where it has no such file, or one that cannot be read."""
    path = folder / "samples" / FILE
    try:
        if path.stat().st_size > MOST_BYTES:
            return []
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
        phrase = _subject_words(folder)
        return [_image(line, phrase) for line in lines]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _image(line: Mapping[str, Any], phrase: str) -> dict[str, Any]:
    prompt = str(line["prompt"])
    scores = {str(name): float("nan") if value is None else float(value) for name, value in line["scores"].items()}
    template = prompt.replace(phrase, "{subject}") if phrase else prompt
    return {
        "role": line["role"], "template": template, "prompt": prompt, "image": line["file"],
        "noise_seed": line["seed"], "scores": scores,
    }  # fmt: skip


def _subject_words(folder: Path) -> str:
    """The subject in the prompts of a run, from its token on, such as "sks dog"."""
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    token = str((record.get("settings") or {}).get("data.token", ""))
    words = str((record.get("task") or {}).get("prompt", "")).split()
    return " ".join(words[words.index(token) :]) if token in words else ""
