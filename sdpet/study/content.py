"""Hashes of files' content, so that a run is known by what it was made from and not by where that lay."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

PIPELINE_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
WEIGHTS = (".safetensors", ".bin", ".json", ".txt")
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
CAPTIONS = (".txt", ".jsonl")


def hash_folder(folder: Path, endings: tuple[str, ...], parts: tuple[str, ...] = ("",)) -> str:
    """Hash of the files with these endings in the named subfolders, by relative path and content."""
    key = (folder, endings, parts)
    if _remembered is not None and key in _remembered:
        return _remembered[key]
    found = [file for part in parts for file in sorted((folder / part).rglob("*"))]
    digest = hash_files(folder, [file for file in found if file.name.lower().endswith(endings)])
    if _remembered is not None:
        _remembered[key] = digest
    return digest


_remembered: dict[tuple[Path, tuple[str, ...], tuple[str, ...]], str] | None = None


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
