"""What the subject's word changes in the predicted noise, design by design: the paper's look into a tuned model."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.figures.maps import small_multiples
from analysis.figures.style import save
from analysis.report.page import Block, FigureBlock, Section, TableBlock, Text
from analysis.report.pictures import thinned
from analysis.report.study import Study
from analysis.report.tables import Column, make_table
from analysis.report.words import digits_for, level_words, number

FILE, KEY = "noise_difference.npz", "map"  # written by sdpet.scoring, float32 (h, w) in latent pixels
MOST_BYTES = 16 << 20
BASE = "base model"


def noise_section(study: Study, out: Path, order: Sequence[tuple[object, float]]) -> Section | None:
    """Mean map of each design on one colour scale. `order`: (design, mean score) from best to worst."""
    if "path" not in study.done:
        return None
    maps: list[tuple[str, np.ndarray, int]] = []
    base = _maps(folder / FILE for folder in study.bases.values())
    if base:
        maps.append((BASE, np.mean(base, axis=0), len(base)))
    singles: dict[str, list[float]] = {}
    for design, _ in order:
        paths = study.done.loc[study.done[study.design] == design, "path"]
        found = _maps(study.images_of(path).parent / FILE for path in paths)
        if found:
            name = study.label(design)
            maps.append((name, np.mean(found, axis=0), len(found)))
            singles[name] = [float(m.mean()) for m in found]
    if not singles:
        return None
    shape = maps[-1][1].shape
    maps = [entry for entry in maps if entry[1].shape == shape]  # one picture, one size
    frame = pd.DataFrame([{"design": name, "difference": float(m.mean()), "runs": n} for name, m, n in maps])
    digits = digits_for(frame["difference"])
    shown = {study.label(design) for design, _ in thinned(order)} | {BASE}
    panels = [(name, m, number(float(m.mean()), digits)) for name, m, _ in maps if name in shown]
    figure, logarithmic = small_multiples(panels, "absolute difference")
    drawing = save(figure, "noise", out / "figures", _places(maps), wide=len(panels) > 3)
    table = make_table("noise", "Mean of each map.", frame, {
        "design": Column("design", str, numeric=False),
        "difference": Column("noise difference", lambda v: number(v, digits)),
        "runs": Column("runs", lambda v: number(v, 0)),
    }, out / "tables", folded=True)  # fmt: skip
    caption = (
        "Absolute difference between the noise (of flow matching models: the velocity) predicted with the subject's "
        f"word and without it, on images of the class, over the {shape[0]} × {shape[1]} places of the latents; mean "
        "over runs, images, noise levels and channels, with the number below. One colour scale for all"
        f"{', over the logarithm' if logarithmic else ''}; best score first."
    )
    alt = f"Maps of the noise difference for {len(panels)} designs"
    said = Text(_said(study, singles, frame, digits))
    blocks: list[Block] = [said, FigureBlock(drawing, caption, alt), TableBlock(table)]
    return Section("noise", "What the subject's word changes", blocks)


def _said(study: Study, singles: dict[str, list[float]], frame: pd.DataFrame, digits: int) -> str:
    """Largest and smallest difference, and by which input the largest ones come."""
    means = frame[frame["design"] != BASE].set_index("design")["difference"]
    largest, smallest = means.idxmax(), means.idxmin()
    said = "The paper looks into a tuned model by what its word for the subject changes in the predicted noise. "
    if len(means) > 1:
        said += (
            f"Here the change is largest for {largest} ({number(means[largest], digits)}) and smallest for {smallest} "
            f"({number(means[smallest], digits)})"
        )
    else:
        said += f"Here the change is {number(means.iloc[0], digits)}"
    base = frame.loc[frame["design"] == BASE, "difference"]
    said += f"; the base model, which does not know the word, has {number(base.iloc[0], digits)}." if len(base) else "."
    if study.has_placements and "din" in study.done and study.done["din"].nunique() > 1:
        of_input: dict[str, list[float]] = {}
        for placement, din in study.done[["placement", "din"]].drop_duplicates().itertuples(index=False):
            of_input.setdefault(str(din), []).extend(singles.get(study.label(placement), []))
        by_input = sorted(((np.mean(v), din) for din, v in of_input.items() if v), reverse=True)
        if len(by_input) > 1:
            first = [f"{level_words('din', din)} ({number(float(v), digits)})" for v, din in by_input[:2]]
            said += f" By input, {first[0]} changes most, then {first[1]}"
            there = {"attn2c", "attn2o"} <= {din for _, din in by_input}
            said += "; the paper names CA_c and CA_out." if there else "."
    return said


def _places(maps: Sequence[tuple[str, np.ndarray, int]]) -> pd.DataFrame:
    """The maps as a table, a row a place."""
    rows, columns = np.indices(maps[0][1].shape)
    frames = [
        pd.DataFrame({"design": name, "row": rows.ravel(), "column": columns.ravel(), "difference": field.ravel()})
        for name, field, _ in maps
    ]
    return pd.concat(frames, ignore_index=True)


def _maps(files: Iterable[Path]) -> list[np.ndarray]:
    found: list[np.ndarray] = []
    for file in files:
        try:
            field = _read(file)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
            continue  # not written by this run, cut short, or not what it should be
        if field.ndim == 2 and np.isfinite(field).all() and (not found or field.shape == found[0].shape):
            found.append(field)
    return found


def _read(file: Path) -> np.ndarray:
    """The map in a file; ValueError where it would unpack to more than any map has."""
    with zipfile.ZipFile(file) as archive:
        if sum(item.file_size for item in archive.infolist()) > MOST_BYTES:
            raise ValueError(f"{file} unpacks to more than {MOST_BYTES} bytes.")
    with np.load(file) as content:
        return np.asarray(content[KEY], dtype=float)
