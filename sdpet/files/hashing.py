"""Hashes of files' content, so that a run is known by what it was made from and not by where that lay."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import numpy as np

T = TypeVar("T")
PIPELINE_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
WEIGHTS = (".safetensors", ".bin", ".json", ".txt")
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
CAPTIONS = (".txt", ".jsonl")
DATASETS = (".arrow", ".parquet", ".json", ".csv", ".mat")


def hash_folder(folder: Path, endings: tuple[str, ...], parts: tuple[str, ...] = ("",)) -> str:
    """Hash of the files with these endings in the named subfolders, by relative path and content."""
    return once(("folder", folder, endings, parts), lambda: _hash_folder(folder, endings, parts))


def _hash_folder(folder: Path, endings: tuple[str, ...], parts: tuple[str, ...]) -> str:
    found = [file for part in parts for file in sorted((folder / part).rglob("*"))]
    return hash_files(folder, [file for file in found if file.name.lower().endswith(endings)])


_remembered: dict[Hashable, Any] | None = None


def once(key: Hashable, make: Callable[[], T]) -> T:
    """make(), or what it gave before for this key where files are taken not to change (see `unchanging`)."""
    if _remembered is None:
        return make()
    if key not in _remembered:
        _remembered[key] = make()
    return _remembered[key]


@contextmanager
def unchanging() -> Iterator[None]:
    """Inside the block folders are taken not to change: each is looked at once, however many runs are planned on it."""
    global _remembered
    before = _remembered
    _remembered = {} if before is None else before
    try:
        yield
    finally:
        _remembered = before


def hash_files(folder: Path, files: Iterable[Path]) -> str:
    """Hash of these files below `folder`, by relative path and content."""
    return _hash_files(folder, tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files))


def hash_file(file: Path) -> str:
    """Hash of one file's content, whatever it is called."""
    return _hash_files(file, ((file, file.stat().st_size, file.stat().st_mtime_ns),))


@cache
def _hash_files(folder: Path, files: Iterable[tuple[Path, int, int]]) -> str:
    """Sizes and times are in the arguments so that a changed file is read again within one process."""
    digest = hashlib.blake2b(digest_size=16)
    for file, size, _ in files:
        digest.update(f"{file.relative_to(folder).as_posix()}\0{size}\0".encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


def hash_images(images: np.ndarray) -> str:
    """Hex hash of images' 8-bit content and shape."""
    import numpy as np

    digest = hashlib.blake2b(str(images.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(images, dtype=np.uint8).tobytes())
    return digest.hexdigest()


def hash_text(text: str) -> str:
    """Hex hash of a text."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
