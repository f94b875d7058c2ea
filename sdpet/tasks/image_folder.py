"""Folders of images in the layout of datasets' imagefolder, read so that no image is lost in silence."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from sdpet.choices import IMAGE_SUFFIXES
from sdpet.files.folders import metadata_file

SPLITS = ("train", "test", "validation")


def read_image_folder(folder: Path) -> dict[str, Any]:
    """Read a folder laid out for imagefolder.

    Metadata in the folder itself may name images in its subfolders train, test and validation, which are splits then
    (datasets alone ignores such metadata). A warning names the images that no metadata mentions.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    dict of str to datasets.Dataset
        Splits by name.
    """
    import datasets

    if metadata_file(folder) is None:
        parts = dict(datasets.load_dataset("imagefolder", data_dir=str(folder)))
    else:
        everything = {"train": [str(folder / "**")]}
        parts = _by_subfolder(datasets.load_dataset("imagefolder", data_files=everything)["train"], folder)
    _say_lost(folder, parts)
    return parts


def _by_subfolder(whole: Any, folder: Path) -> dict[str, Any]:
    rows: dict[str, list[int]] = {}
    for i, path in enumerate(_paths(whole)):
        top = path.relative_to(folder.resolve()).parts[0]
        rows.setdefault(top if top in SPLITS else "train", []).append(i)
    return {name: whole.select(chosen) for name, chosen in rows.items()}


def _say_lost(folder: Path, parts: dict[str, Any]) -> None:
    read = {path for part in parts.values() for path in _paths(part)}
    files = [file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()]
    lost = sorted(str(file.relative_to(folder)) for file in files if file.resolve() not in read)
    lost = [name for name in lost if not any(part.startswith(".") for part in Path(name).parts)]
    if lost:
        warnings.warn(f"left out of {folder}, as no metadata names them: {', '.join(lost)}", stacklevel=4)


def _paths(part: Any) -> list[Path]:
    """The files of a split's images, with links resolved."""
    import datasets

    undecoded = part.cast_column("image", datasets.Image(decode=False)).select_columns(["image"])
    return [Path(row["image"]["path"]).resolve() for row in undecoded if row["image"] and row["image"]["path"]]
