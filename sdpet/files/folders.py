"""Which files of a folder of images count: images, and the captions that belong to them. Free of numpy, and quick."""

from __future__ import annotations

import csv
import re
import warnings
from collections.abc import Iterator
from os.path import isfile  # False, too, for a name that no file can have, as it is too long
from pathlib import Path
from typing import Any

from sdpet.choices import CAPTION_KEYS, IMAGE_SUFFIXES, OTHER_IMAGE_SUFFIXES
from sdpet.files.received import inside, parsed, read_text

MOST_BYTES = 1 << 20  # of the caption of one image
METADATA = ("metadata.jsonl", "metadata.csv")


def image_files(folder: Path) -> list[Path]:
    """The images of a folder, sorted by name; without hidden files (such as "._0.jpg", which macOS leaves behind)."""
    return sorted(file for file in _visible(folder) if file.suffix.lower() in IMAGE_SUFFIXES and not file.is_dir())


def unread_pictures(folder: Path) -> list[str]:
    """Names of pictures of kinds that are not read, such as .heic."""
    return sorted(file.name for file in _visible(folder) if file.suffix.lower() in OTHER_IMAGE_SUFFIXES)


def captioned_files(folder: Path) -> dict[Path, str | None]:
    """The images of a folder with their captions, sorted by path; None for an image without caption.

    Captions are read from the folder's metadata.jsonl or metadata.csv, which may also name images in its subfolders, or
    from a .txt file beside each image.

    Raises
    ------
    ValueError
        One sentence: the metadata cannot be read, or names a file outside the folder.
    """
    found: dict[Path, str | None] = dict.fromkeys(image_files(folder))
    metadata = metadata_file(folder)
    if metadata is not None:
        known = {folder / name: text for name, text in _named(metadata).items()}
        gone = [str(file.relative_to(folder)) for file in known if not isfile(file)]
        if gone:
            warnings.warn(f"{metadata} names files that do not exist: {', '.join(gone)}", stacklevel=3)
        found |= {file: text for file, text in known.items() if isfile(file)}
    else:
        found |= {
            file: _caption(read_words(text, MOST_BYTES).strip(), text)
            for file, text in _beside(found)
            if text.is_file()
        }
    return dict(sorted(found.items()))


def counted_files(folder: Path, captioned: bool) -> set[Path]:
    """The files of a folder that can change a result: its images and, if `captioned`, what holds their captions."""
    images = image_files(folder)
    if not captioned:
        return set(images)
    metadata = metadata_file(folder)
    if metadata is None:
        return {*images, *(text for _, text in _beside(images))}
    return {*images, metadata, *(folder / name for name in _named(metadata))}


def read_words(file: Path, most: int | None = None) -> str:
    """The text of a file that people wrote: UTF-8, or UTF-16 with a mark that says so; the mark is no part of it.

    Raises
    ------
    ValueError
        It has another encoding, or more than `most` bytes; the sentence names the file.
    """
    if most is not None and file.stat().st_size > most:
        return read_text(file, most)  # which refuses it
    content = file.read_bytes()
    try:
        return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file} is no UTF-8 text (byte {error.object[error.start]:#04x} at {error.start}, as Windows-1252 has it, "
            "for one); save it as UTF-8."
        ) from None


def dataset_files(folder: Path) -> set[Path]:
    """The files of a data set of the library datasets that can change a result; foreign files beside them do not count.

    Parameters
    ----------
    folder : Path
        What `save_to_disk` wrote, or folders laid out for imagefolder.

    Returns
    -------
    set of Path
    """
    splits = [folder]
    found: set[Path] = set()
    if (folder / "dataset_dict.json").is_file():
        found.add(folder / "dataset_dict.json")
        splits = [folder / str(name) for name in _json(folder / "dataset_dict.json").get("splits") or ()]
    elif not (folder / "state.json").is_file():
        every = [file for file in folder.rglob("*") if not file.name.startswith(".") and file.is_file()]
        return {file for file in every if file.suffix.lower() in IMAGE_SUFFIXES or file.stem == "metadata"}
    for split in splits:
        state = _json(split / "state.json")
        listed = [*(state.get("_data_files") or ()), *(state.get("_indices_data_files") or ())]
        names = [str(item.get("filename")) for item in listed if isinstance(item, dict)]
        found |= {split / name for name in ("state.json", "dataset_info.json", *names)}
    return {file for file in found if isfile(file)}


def flowers_files(folder: Path) -> set[Path]:
    """The files of Flowers102 below torchvision's root folder."""
    inner = folder / "flowers-102"
    return {*(inner / "jpg").glob("*.jpg"), *(file for file in inner.glob("*.mat") if file.is_file())}


def metadata_file(folder: Path) -> Path | None:
    """The folder's metadata.jsonl or metadata.csv; None where there is neither."""
    return next((folder / name for name in METADATA if (folder / name).is_file()), None)


def caption_of(value: Any) -> str | None:
    """The caption that a column holds: a text, a number, or the first of several texts; None where there is none.

    Raises
    ------
    TypeError
        The value is no text, such as a dict.
    """
    if isinstance(value, list | tuple):
        value = next((item for item in value if item is not None), None)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return None if value != value else str(value)
    raise TypeError(f"a caption must be a text, not {type(value).__name__}")


def natural_order(file: Path) -> list[tuple[bool, int, str]]:
    """Key for sorting file names as people count: 2.png before 10.png."""
    parts = re.findall(r"[0-9]+|[^0-9]+", file.name)
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts]


def _json(file: Path) -> dict[str, Any]:
    """A file's JSON object; empty where it cannot be read, which loading reports."""
    try:
        content = parsed(file, read_text(file))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _beside(images: Any) -> list[tuple[Path, Path]]:
    return [(file, file.with_suffix(".txt")) for file in images]


def _visible(folder: Path) -> list[Path]:
    return [file for file in folder.iterdir() if not file.name.startswith(".")]


def _named(metadata: Path) -> dict[str, str | None]:
    """File name (with "/") and caption of each row."""
    named: dict[str, str | None] = {}
    for number, row in _rows(metadata):
        key = next((key for key in CAPTION_KEYS if key in row), None)
        name = row.get("file_name")
        if not isinstance(name, str) or key is None:
            raise ValueError(
                f"line {number} of {metadata} must have file_name and one of {', '.join(CAPTION_KEYS)}, "
                f"but has {', '.join(map(str, row)) or 'nothing'}."
            )
        inside(metadata.parent, name, f"line {number} of {metadata}", links=True)
        try:
            named[name] = _caption(caption_of(row[key]), f"line {number} of {metadata}")
        except TypeError as error:
            raise ValueError(f"line {number} of {metadata}: {error}.") from None
    return named


def _caption(text: str | None, where: object) -> str | None:
    """A caption as it is used; None where there is none but blanks. ValueError for signs that no text has."""
    text = None if text is None else text.removeprefix("\ufeff")
    if text and ("\0" in text or any("\ud800" <= sign <= "\udfff" for sign in text)):
        raise ValueError(f"the caption in {where} holds NUL or half signs; it is no text.")
    return text if text and text.strip() else None


def _rows(metadata: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and content of each row."""
    text = read_words(metadata)
    if metadata.suffix == ".csv":
        try:
            rows = list(csv.DictReader(text.splitlines(True)))
        except csv.Error as error:
            raise ValueError(f"{metadata} cannot be read as CSV ({error}).") from None
        yield from enumerate(({str(k): v or None for k, v in row.items()} for row in rows), 2)
        return
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = parsed(f"line {number} of {metadata}", line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise ValueError(f"line {number} of {metadata} is no JSON object.")
        yield number, row
