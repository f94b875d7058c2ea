"""Class images for DreamBooth's prior preservation, drawn once by the base model and kept on disk."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from sdpet.files.atomic import write_atomic
from sdpet.files.hashing import hash_text
from sdpet.files.lock import run_lock
from sdpet.models.base import BaseModel
from sdpet.sampling.loop import SamplerConfig, sample
from sdpet.seeds import derive

CHUNK = 8
PHASE = "class images"


def class_folder(
    root: str | Path,
    base: BaseModel,
    prompt: str,
    count: int,
    sampler: SamplerConfig,
    progress: Callable[[str, int, int], None] | None = None,
) -> Path:
    """Give a folder with images of a class that the base model has drawn; missing ones are drawn now.

    An interrupted call keeps the images it has drawn, and the next one draws the rest. If several processes ask for one
    folder, one draws and the others wait.

    Parameters
    ----------
    root : path
        Folder that holds all sets of class images, one folder a set, named by a hash of how the set is made.
    base : BaseModel
        The untuned base model.
    prompt : str
        Prompt of every image, such as "a photo of a dog".
    count : int
        Number of images.
    sampler : SamplerConfig
        How the images are drawn. The seed of image i depends on i alone.
    progress : callable, optional
        Called as progress("class images", images done, images in all) after every few images.

    Returns
    -------
    Path
        The folder: 00000.png and so on, and index.jsonl with file, prompt and seed of each image.

    Raises
    ------
    FloatingPointError
        The model's output is not finite.
    """
    made_by = {
        "model": base.weight_hash,
        "dtype": str(base.dtype),
        "image_size": base.image_size,
        "prompt": prompt,
        "sampler": _sampler_key(sampler),
        "images": count,
    }
    root = Path(root).expanduser()
    folder = root / hash_text(json.dumps(made_by, sort_keys=True))
    root.mkdir(parents=True, exist_ok=True)
    while not (folder / "index.jsonl").exists():
        with run_lock(folder) as mine:
            if mine and not (folder / "index.jsonl").exists():
                _draw_missing(folder, base, prompt, count, sampler, progress)
                continue
        time.sleep(0.2)
    return folder


def _sampler_key(sampler: SamplerConfig) -> dict[str, Any]:
    """The sampler as part of the folder's hash; eta only where it is used, so that earlier folders stay valid."""
    key: dict[str, Any] = {"sampler": sampler.name, "steps": sampler.steps, "guidance": sampler.guidance}
    return key | ({"eta": sampler.eta} if sampler.eta else {})


def _draw_missing(
    folder: Path,
    base: BaseModel,
    prompt: str,
    count: int,
    sampler: SamplerConfig,
    progress: Callable[[str, int, int], None] | None,
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = [
        {"file": f"{i:05d}.png", "prompt": prompt, "seed": derive("class images", i)} for i in range(count)
    ]
    missing = [row for row in rows if not (folder / row["file"]).exists()]
    for start in range(0, len(missing), CHUNK):
        part = missing[start : start + CHUNK]
        drawn = sample(base, [prompt] * len(part), [row["seed"] for row in part], sampler, chunk=CHUNK)
        for row, image in zip(part, drawn, strict=True):
            write_atomic(folder / row["file"], lambda file, image=image: Image.fromarray(image).save(file, "png"))  # type: ignore[misc]
        if progress:
            progress(PHASE, count - len(missing) + start + len(part), count)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    write_atomic(folder / "index.jsonl", lambda file: file.write_text(lines, encoding="utf-8"))
