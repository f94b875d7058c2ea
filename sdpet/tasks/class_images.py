"""Class images for DreamBooth's prior preservation, drawn once by the base model and kept on disk."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from sdpet.files.atomic import write_atomic
from sdpet.files.hashing import hash_file, hash_text
from sdpet.files.images import list_images
from sdpet.files.lock import run_lock
from sdpet.models.base import BaseModel
from sdpet.sampling.loop import SamplerConfig, sample
from sdpet.seeds import derive

CHUNK = 8
PHASE = "class images"
INDEX = "index.jsonl"


def class_folder(
    root: str | Path,
    base: BaseModel,
    prompt: str,
    count: int,
    sampler: SamplerConfig,
    progress: Callable[[str, int, int], None] | None = None,
) -> Path:
    """Give a folder with images of a class that the base model has drawn; missing or changed ones are drawn now.

    An interrupted call keeps the images it has drawn, and the next one draws the rest. Images that this function did
    not draw stay in the folder, but `class_files` leaves them out. Warnings name them, and what is drawn again. If
    several processes ask for one folder, one draws and the others wait.

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
        The folder: 00000.png and so on, and index.jsonl with file, prompt, seed and digest of each image.

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
    rows = [{"file": f"{i:05d}.png", "prompt": prompt, "seed": derive("class images", i)} for i in range(count)]
    while wrong := _wrong(folder, rows):
        with run_lock(folder) as mine:
            if mine:
                wrong = _wrong(folder, rows)
                _say_drawn_again(folder, wrong)
                _draw(folder, base, rows, wrong, sampler, progress)
                continue
        time.sleep(0.2)
    _say_foreign(folder, {str(row["file"]) for row in rows})
    return folder


def class_files(folder: str | Path) -> list[Path]:
    """List the class images of a folder: those that its index names with digests, else all images in it.

    Parameters
    ----------
    folder : path
        What `class_folder` returned, or a folder of the user's own images.

    Returns
    -------
    list of Path
        In the order of the index, or sorted by name.

    Raises
    ------
    ValueError
        There is no such folder or no image in it.
    """
    folder = Path(folder).expanduser()
    drawn = [folder / name for name in _digests(folder)]
    return drawn if drawn and all(file.is_file() for file in drawn) else list_images(folder, "class")


def _sampler_key(sampler: SamplerConfig) -> dict[str, Any]:
    """The sampler as part of the folder's hash; eta only where it is used, so that earlier folders stay valid."""
    key: dict[str, Any] = {"sampler": sampler.name, "steps": sampler.steps, "guidance": sampler.guidance}
    return key | ({"eta": sampler.eta} if sampler.eta else {})


def _draw(
    folder: Path,
    base: BaseModel,
    rows: list[dict[str, Any]],
    wrong: set[str],
    sampler: SamplerConfig,
    progress: Callable[[str, int, int], None] | None,
) -> None:
    """Draw the images that are wrong. The index is written after every chunk, so that an interrupted call goes on."""
    folder.mkdir(parents=True, exist_ok=True)
    digests = {row["file"]: hash_file(folder / row["file"]) for row in rows if row["file"] not in wrong}
    for start in range(0, len(rows), CHUNK):
        # A chunk is drawn whole, even for one image of it: a batch of another size may round differently.
        part = rows[start : start + CHUNK]
        if not any(row["file"] in wrong for row in part):
            continue
        drawn = sample(base, [row["prompt"] for row in part], [row["seed"] for row in part], sampler, chunk=CHUNK)
        for row, image in zip(part, drawn, strict=True):
            file = folder / row["file"]
            if row["file"] in wrong:
                write_atomic(file, lambda path, image=image: Image.fromarray(image).save(path, "png"))  # type: ignore[misc]
                digests[row["file"]] = hash_file(file)
        _write_index(folder, [row | {"digest": digests[row["file"]]} for row in rows if row["file"] in digests])
        if progress:
            progress(PHASE, len(digests), len(rows))


def _write_index(folder: Path, rows: list[dict[str, Any]]) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    write_atomic(folder / INDEX, lambda file: file.write_text(lines, encoding="utf-8"))


def _wrong(folder: Path, rows: list[dict[str, Any]]) -> set[str]:
    """The images of `rows` that are missing, or that are not those that the index's digests name."""
    digests, names = _digests(folder), [str(row["file"]) for row in rows]
    return {name for name in names if not (folder / name).is_file() or hash_file(folder / name) != digests.get(name)}


def _digests(folder: Path) -> dict[str, str]:
    """File name and digest of each image in the index; nothing where it is missing, damaged, or without digests."""
    try:
        lines = (folder / INDEX).read_text(encoding="utf-8").splitlines()
        found = {row["file"]: row["digest"] for row in map(json.loads, lines)}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found if all(isinstance(name, str) and name == Path(name).name for name in found) else {}


def _say_drawn_again(folder: Path, wrong: set[str]) -> None:
    known = sorted(wrong & set(_digests(folder)))
    if known:
        warnings.warn(
            f"class images in {folder} are missing or were changed, and are drawn again: {', '.join(known)}.",
            stacklevel=3,
        )
    elif (folder / INDEX).is_file() and not _digests(folder):
        warnings.warn(
            f"the index of the class images in {folder} holds no digests; they are drawn again, once.", stacklevel=3
        )


def _say_foreign(folder: Path, names: set[str]) -> None:
    foreign = sorted(file.name for file in list_images(folder, "class") if file.name not in names)
    if foreign:
        warnings.warn(
            f"left out of the class images in {folder}, as the base model did not draw them: {', '.join(foreign)}.",
            stacklevel=3,
        )
