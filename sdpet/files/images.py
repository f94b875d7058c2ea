"""Images from folders as the model wants them: 8-bit RGB squares, with captions where asked for."""

from __future__ import annotations

import json
import struct
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# What PIL raises for files that are not images, or are cut short (DecompressionBombError is an Exception of its own).
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def list_images(folder: str | Path, what: str = "image") -> list[Path]:
    """Image files of a folder in name order. Raises ValueError if there is no such folder or no image in it."""
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise ValueError(f"the {what} folder {folder} does not exist; give a folder of images ({', '.join(ENDINGS)}).")
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in ENDINGS)
    if not files:
        raise ValueError(f"the {what} folder {folder} holds no image; expected are files with {', '.join(ENDINGS)}.")
    return files


def load_folder(folder: str | Path, size: int, what: str = "image") -> np.ndarray:
    """All readable images of a folder: uint8 (N, size, size, 3); see `read`."""
    return read(list_images(folder, what), size, what)[0]


def load_captioned(folder: str | Path, size: int) -> tuple[np.ndarray, list[str]]:
    """Images uint8 (N, size, size, 3) and captions of a folder.

    Captions come from metadata.jsonl (lines {"file_name": ..., "text": ...}) or from a .txt file beside each image.
    Raises ValueError if an image has no caption.
    """
    files = list_images(folder, "training")
    metadata = Path(folder).expanduser() / "metadata.jsonl"
    captions: dict[Path, str] = {}
    if metadata.exists():
        lines = [json.loads(line) for line in metadata.read_text(encoding="utf-8").splitlines() if line.strip()]
        texts = {line["file_name"]: line["text"] for line in lines}
        captions = {file: texts[file.name] for file in files if file.name in texts}
    else:
        beside = {file: file.with_suffix(".txt") for file in files}
        captions = {file: text.read_text(encoding="utf-8").strip() for file, text in beside.items() if text.exists()}
    bare = [file.name for file in files if file not in captions]
    if bare:
        raise ValueError(
            f"{len(bare)} images of {folder} have no caption, first {bare[0]}; captions are read from metadata.jsonl "
            "(keys file_name, text) or from a .txt file beside each image."
        )
    images, readable = read(files, size, "training")
    return images, [captions[file] for file in readable]


def read(files: list[Path], size: int, what: str = "image") -> tuple[np.ndarray, list[Path]]:
    """Read files as uint8 (N, size, size, 3), and which of them could be read; see `readable`."""
    images, kept = readable(((file.name, file) for file in files), size, f"the {what} folder {files[0].parent}")
    return images, [files[i] for i in kept]


def readable(contents: Iterable[tuple[str, Any]], size: int, where: str) -> tuple[np.ndarray, list[int]]:
    """Images uint8 (N, size, size, 3) and their numbers, of (name, file or stream); others are named in a warning.

    Raises ValueError if none can be read.
    """
    images, kept, broken = [], [], []
    for number, (name, content) in enumerate(contents):
        try:
            with Image.open(content) as image:
                images.append(square(image, size))
                kept.append(number)
        except UNREADABLE as error:
            broken.append(f"{name} ({type(error).__name__})")
    if not images:
        raise ValueError(f"none of the {len(broken)} files in {where} is a readable image.")
    if broken:
        warnings.warn(f"left out as unreadable in {where}: {', '.join(broken)}", stacklevel=4)
    return np.stack(images), kept


def square(image: Any, size: int) -> np.ndarray:
    """RGB uint8 (size, size, 3): as `upright`, shorter side resized (antialiased), centre crop."""
    from PIL import ImageOps

    image = upright(image)
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(image)


def upright(image: Any) -> Any:
    """A PIL image of any mode as 8-bit RGB: turned as its EXIF data say, 16 bits scaled, transparency over white."""
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grey: PIL would clip, not scale
        image = Image.fromarray((np.asarray(image).astype(np.float64) / 257).round().clip(0, 255).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
