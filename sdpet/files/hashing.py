"""Hashes of files' content: a run is identified by the content of its inputs, not by their paths."""

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


def hash_folder(folder: Path, endings: tuple[str, ...], parts: tuple[str, ...] = ("",)) -> str:
    """Hash the files of a folder by relative path and content.

    Parameters
    ----------
    folder : Path
    endings : tuple of str
        Endings of the file names that count, in lower case.
    parts : tuple of str
        Subfolders that count; "" is the folder itself.

    Returns
    -------
    str
        Hex digits.
    """
    return once(("folder", folder, endings, parts), lambda: _hash_folder(folder, endings, parts))


def _hash_folder(folder: Path, endings: tuple[str, ...], parts: tuple[str, ...]) -> str:
    found = [file for part in parts for file in sorted((folder / part).rglob("*"))]
    return hash_files(folder, [file for file in found if file.name.lower().endswith(endings) and file.is_file()])


_remembered: dict[Hashable, Any] | None = None


def once(key: Hashable, make: Callable[[], T]) -> T:
    """Return make(), or inside `unchanging` the value that it gave for this key before.

    Parameters
    ----------
    key : hashable
    make : callable
        Takes no arguments.
    """
    if _remembered is None:
        return make()
    if key not in _remembered:
        _remembered[key] = make()
    return _remembered[key]


def once_for(thing: Any, what: Hashable, make: Callable[[], T]) -> T:
    """`once`, for a value that is made from a thing which nobody changes; equal things count as different ones.

    Parameters
    ----------
    thing : any
        It need not be hashable.
    what : hashable
        The kind of value that is made from it.
    make : callable
        Takes no arguments.
    """
    return once((what, id(thing)), lambda: (thing, make()))[1]  # kept, so that no other thing gets its id


@contextmanager
def unchanging() -> Iterator[None]:
    """Assume that folders do not change inside the block: each is read once, however many runs are planned on it."""
    global _remembered
    before = _remembered
    _remembered = {} if before is None else before
    try:
        yield
    finally:
        _remembered = before


def hash_files(folder: Path, files: Iterable[Path]) -> str:
    """Hash files below `folder` by relative path and content; hex digits."""
    return _hash_files(folder, tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files))


def hash_file(file: Path) -> str:
    """Hash one file by its content, not its path; hex digits."""
    return _hash_files(file, ((file, file.stat().st_size, file.stat().st_mtime_ns),))


@cache
def _hash_files(folder: Path, files: Iterable[tuple[Path, int, int]]) -> str:
    """Sizes and times are arguments, so that a changed file is read again within one process."""
    digest = hashlib.blake2b(digest_size=16)
    for file, size, _ in files:
        digest.update(f"{file.relative_to(folder).as_posix()}\0{size}\0".encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


def hash_images(images: np.ndarray) -> str:
    """Hash images (uint8 array) by shape and content; hex digits."""
    import numpy as np

    digest = hashlib.blake2b(str(images.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(images, dtype=np.uint8).tobytes())
    return digest.hexdigest()


def hash_bytes(content: bytes | memoryview) -> str:
    """Hash bytes, such as a file's content; hex digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def hash_text(text: str) -> str:
    """Hash a text; hex digits."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
