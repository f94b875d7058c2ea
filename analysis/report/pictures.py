"""The sections that show images: designs from best to worst on the same noise, and the other prompts."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.figures.safe_csv import csv_text
from analysis.report.page import Block, GridBlock, Section
from analysis.report.samples import (
    COLUMNS,
    Grid,
    Key,
    Strip,
    columns_for,
    data_uri,
    make_grid,
    sample_index,
    save_grid,
    shared_columns,
    side_for,
)
from analysis.report.study import Study
from analysis.report.words import number
from sdpet.files import hash_images, load_folder, read_yaml

MAX_ROWS = 24  # designs in a figure that shows each of them
WALL_ROWS = 200  # designs on the wall of samples
BEST, BESIDE = 3, 3  # designs and columns beside the heatmap
MOST_PIXELS = 4096  # side of a model's images
PICTURES = {".png", ".jpg", ".jpeg", ".webp"}


def samples_section(study: Study, out: Path, order: Sequence[tuple[object, float]], digits: int) -> Section | None:
    """The wall of samples, and other prompts; `order`: (design, mean score) from best to worst."""
    if "path" not in study.done or not len(order):
        return None
    blocks: list[Block] = []
    main = _main_role(study)
    shown = thinned(order, WALL_ROWS)
    rows = _rows(study, shown, main, digits)
    columns = shared_columns([index for _, _, index in rows], columns_for(len(rows)))
    if not columns:
        return None
    scores = [m for m in study.metrics if study.done[m].notna().any()]
    means = study.done.groupby(study.design)[scores].mean()
    values = [tuple(float(v) for v in means.loc[d]) for (d, _), row in zip(shown, rows, strict=True) if row[2]]
    rows = [row for row in rows if row[2]]
    left_out = len(order) - len(rows)
    references = _references(study, len(columns), side_for(len(columns) * (len(rows) + 2)))
    first = [references] if references else []
    base = _base_samples(study, main, columns, side_for(len(columns) * (len(rows) + 2)))
    if base:
        first.append(base)
    caption = (
        f"Samples of “{columns[0][2]}”. " if len({prompt for *_, prompt in columns}) == 1 else "Samples. "
    ) + "Each row is a design, best score first; every column starts from the same noise"
    caption += ", so a difference within a column is due to the design." if len(rows) > 1 else "."
    if references:
        caption += " First row: the subject's reference images."
    if base:
        caption += " Second row: the base model, untuned (the floor)."
    if left_out:
        caption += f" {left_out} designs between the best and the worst are not shown."
    choice = [(study.words_of(m).label, study.words_of(m).higher_is_better) for m in scores]
    grid = make_grid("samples", caption, rows, columns, _heads(columns), first, choice, values)
    save_grid(grid, out / "figures")
    said = pd.DataFrame(values, columns=scores)
    said.insert(0, "design", [label for label, *_ in rows])
    (out / "figures" / "samples.csv").write_text(csv_text(said), encoding="utf-8")
    blocks.append(GridBlock(grid))
    others = _other_prompts(study, order, digits, main)
    if others:
        save_grid(others, out / "figures")
        blocks.append(GridBlock(others))
    return Section("samples", "Samples", blocks)


def _main_role(study: Study) -> str:
    """Subject images where there are any, else whatever the runs stored."""
    for folder, seed in _runs(study, None)[:3]:
        for role in ("subject", "prompt", "class"):
            if sample_index(folder, seed, role):
                return role
    return "subject"


def _runs(study: Study, design: object | None) -> list[tuple[Path, Any]]:
    """The folder of images and the seed of each run."""
    done = study.done if design is None else study.done[study.done[study.design] == design]
    seeds = done["seed"] if "seed" in done else [0] * len(done)
    return [(study.images_of(path), seed) for path, seed in zip(done["path"], seeds, strict=True)]


def _index(study: Study, design: object, role: str) -> dict[Key, Path]:
    index: dict[Key, Path] = {}
    for folder, seed in _runs(study, design):
        index |= sample_index(folder, seed, role)
    return index


def _rows(
    study: Study, order: Sequence[tuple[object, float]], role: str, digits: int
) -> list[tuple[str, str, dict[Key, Path]]]:
    return [(study.label(d), number(score, digits), _index(study, d, role)) for d, score in order]


def best_samples(section: Section | None) -> GridBlock | None:
    """The first designs of the wall in a few columns, below the subject and the base model."""
    wall = next((b.grid for b in section.blocks if isinstance(b, GridBlock)), None) if section else None
    if wall is None:
        return None
    count = sum(strip.kind == "design" for strip in wall.strips)
    which = f"Samples of the best {BEST} of {count} designs" if count > BEST else "Samples"
    noise = "each from seeds of its own" if wall.is_ragged(BEST, BESIDE) else "each column starts from the same noise"
    caption = f"{which}; {noise}."
    return GridBlock(wall.only("best", BEST, BESIDE, caption))


def thinned(order: Sequence[tuple[object, float]], most: int = MAX_ROWS) -> list[tuple[object, float]]:
    """All designs, or the best and worst of many."""
    if len(order) <= most:
        return list(order)
    return [*order[: most // 2], *order[-most // 2 :]]


def _heads(columns: Sequence[Key]) -> list[tuple[str, int]]:
    return [(f"seed {seed}", len(list(group))) for seed, group in groupby(columns, key=lambda key: key[0])]


def _references(study: Study, count: int, side: int) -> Strip | None:
    """The subject's photos: from the folder that the task names, or those shipped with the lab."""
    record = next(iter(study.records.values()), {})
    task = record.get("task") or {}
    if task.get("name") not in (None, "dreambooth"):
        return None
    folders = [folder for folder in _configured(study, "subject_dir") if _is_reference(folder, record)]
    if task.get("data") == "lab":
        package = importlib.util.find_spec("sdpet")
        if package and package.origin:
            folders.append(Path(package.origin).parent / "lab" / "data" / "subject")
    for folder in folders:
        if folder.is_dir():
            files = sorted(f for f in folder.iterdir() if f.suffix.lower() in PICTURES)[:count]
            images = [data_uri(file, side) for file in files]
            if any(images):
                blanks = [None] * (count - len(images))
                return Strip("reference images", "the subject", (*images, *blanks), "reference")
    return None


def _is_reference(folder: Path, record: dict[str, Any]) -> bool:
    """Whether the folder holds the very pictures that the runs were scored against.

    A config that was received could name any folder of this machine, and its pictures would go onto the page.
    """
    protocol = record.get("protocol") or {}
    size, digest = protocol.get("image_size"), protocol.get("reference_hash")
    if not isinstance(size, int) or not 0 < size <= MOST_PIXELS or not folder.is_dir():
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return hash_images(load_folder(folder, size, "subject")) == digest
    except (OSError, ValueError):
        return False


def _configured(study: Study, key: str) -> list[Path]:
    """The folder that the first run's configuration names under `data`, if it does."""
    try:
        config = read_yaml(Path(str(study.done["path"].iloc[0])) / "config.yaml")
        named = (config.get("data") or {}).get(key)
    except (OSError, ValueError, AttributeError):
        return []
    return [Path(named).expanduser()] if isinstance(named, str) and "\0" not in named else []


def _base_samples(study: Study, role: str, columns: Sequence[Key], side: int) -> Strip | None:
    """The base model's samples from the same noise, where the study holds them."""
    index: dict[Key, Path] = {}
    for seed, folder in study.bases.items():
        index |= sample_index(folder / "samples", seed, role)
    if not any(key in index for key in columns):
        return None
    images = tuple(data_uri(index[key], side) if key in index else None for key in columns)
    return Strip("base model", number(study.mean_anchor("floor")), images, "base")


def _other_prompts(study: Study, order: Sequence[tuple[object, float]], digits: int, main: str) -> Grid | None:
    """Other prompts and the class itself, for the best, the middle and the worst design."""
    if len(order) > 3:
        order = [order[0], order[1], order[len(order) // 2], order[-1]]
    roles = [role for role in ("prompt", "class") if role != main]
    indexes = {role: [_index(study, d, role) for d, _ in order] for role in roles}
    columns: list[Key] = []
    for role in roles:
        found = shared_columns(indexes[role], 200)
        by_prompt: dict[str, list[Key]] = {}
        for key in found:
            by_prompt.setdefault(key[2], []).append(key)
        for keys in by_prompt.values():
            columns += keys[: 1 if role == "prompt" else 2]
    columns = [*columns[: COLUMNS - 2], *columns[-2:]] if len(columns) > COLUMNS else columns
    if not columns:
        return None
    rows = [
        (study.label(d), number(score, digits), {k: v for role in roles for k, v in indexes[role][i].items()})
        for i, (d, score) in enumerate(order)
    ]
    heads = [(prompt, len(list(group))) for prompt, group in groupby(columns, key=lambda key: key[2])]
    caption = (
        "Other prompts: is the rest of the prompt still followed, and is the plain class still drawn as before? "
        "Best, second, middle and worst design."
        if len(order) > 2
        else "Other prompts and the plain class."
    )
    return make_grid("other-prompts", caption, rows, columns, heads)
