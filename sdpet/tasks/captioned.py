"""Captioned image sets: a folder, `datasets` on disk, torchvision's Flowers102, or the digits."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sdpet.files.folders import caption_of
from sdpet.files.images import load_captioned, readable, square
from sdpet.scoring.spread import spread
from sdpet.tasks.image_folder import read_image_folder

Set = tuple[np.ndarray, list[str]]  # images uint8 (N, size, size, 3) and their captions


def read_captioned(
    data: str | Path,
    size: int,
    heldout_share: float = 0.1,
    source: str = "folder",
    image_column: str = "image",
    caption_column: str = "text",
) -> tuple[Set, Set]:
    """Read a captioned set as a training set and a held-out set.

    A set that comes with a split for testing keeps it. From others a share is held out, the same one for every seed.

    Parameters
    ----------
    data : path or "digits"
        Folder of the images, or the handwritten digits of scikit-learn.
    size : int
        Side of the images in pixels.
    heldout_share : float
        Share of the images that is held out, between 0 and 1.
    source : {"folder", "dataset", "flowers"}
        What the folder is: images with captions; a set written by datasets' save_to_disk or laid out for its
        imagefolder; or the root of torchvision's Flowers102.
    image_column, caption_column : str
        Columns of a "dataset".

    Returns
    -------
    ((ndarray of uint8 (N, size, size, 3), list of N str), the same with M)
        Images and captions of the training set and of the held-out set.

    Raises
    ------
    ValueError
        One sentence: the set cannot be read or split, or it has no such column.
    """
    if str(data) == "digits":
        from sdpet.tasks.digits import load_digits

        return _resized(*load_digits("train"), size), _resized(*load_digits("heldout"), size)
    if not 0 < heldout_share < 1:
        raise ValueError(f"heldout_share must lie between 0 and 1, not {heldout_share}.")
    if source == "flowers":
        return hold_out(*_flowers(Path(data).expanduser(), size), heldout_share)
    if source == "dataset":
        with _no_progress_bars():
            return _dataset(Path(data).expanduser(), size, heldout_share, image_column, caption_column)
    return hold_out(*load_captioned(data, size), heldout_share)


def hold_out(images: np.ndarray, captions: list[str], heldout_share: float) -> tuple[Set, Set]:
    """Hold out a share of the images, the same one in every call; images that share a caption are split in proportion.

    Parameters
    ----------
    images : ndarray of uint8, (N, H, W, 3)
        All images.
    captions : list of str, N
        Their captions.
    heldout_share : float
        Share of the images that is held out.

    Returns
    -------
    (Set, Set)
        Images and captions of the training set and of the held-out set, each in its original order.

    Raises
    ------
    ValueError
        One of the sets would be empty.
    """
    kept = round(len(images) * heldout_share)
    if kept < 1 or kept == len(images):
        raise ValueError(f"{len(images)} images cannot be split for training and scoring; give more of them.")
    order = spread(captions)
    held, trained = np.sort(order[:kept]), np.sort(order[kept:])
    return (images[trained], [captions[i] for i in trained]), (images[held], [captions[i] for i in held])


def _dataset(folder: Path, size: int, heldout_share: float, image_column: str, caption_column: str) -> tuple[Set, Set]:
    import datasets

    try:
        saved = (folder / "state.json").exists() or (folder / "dataset_dict.json").exists()
        found = datasets.load_from_disk(str(folder)) if saved else read_image_folder(folder)
    except Exception as error:
        raise ValueError(
            f"the data set {folder} cannot be read ({' '.join(str(error).split())}); give a folder that datasets' "
            "save_to_disk wrote, or folders of images laid out for imagefolder."
        ) from error
    parts = dict(found) if isinstance(found, dict) else {"train": found}
    train = parts.get("train", next(iter(parts.values())))
    trained = _rows(train, folder, size, image_column, caption_column)
    apart = next((parts[name] for name in ("test", "validation") if name in parts and parts[name] is not train), None)
    if apart is None:
        return hold_out(*trained, heldout_share)
    return trained, _rows(apart, folder, size, image_column, caption_column)


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Inside, datasets shows no progress bars; afterwards, it shows them if it did before."""
    import datasets

    were_off = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not were_off:
            datasets.enable_progress_bars()


def _rows(part: Any, folder: Path, size: int, image_column: str, caption_column: str) -> Set:
    import datasets

    for key, column in (("image_column", image_column), ("caption_column", caption_column)):
        if column not in part.column_names:
            raise ValueError(
                f"the data set {folder} has no column {column!r}; data.{key} must be one of "
                f"{', '.join(part.column_names)}."
            )
    label = part.features[caption_column]
    try:
        texts = [_caption(row[caption_column], label) for row in part.select_columns([caption_column])]
    except TypeError as error:
        raise ValueError(
            f"the column {caption_column!r} of {folder} cannot be used: {error}; data.caption_column must be one with "
            f"texts or class labels, of {', '.join(part.column_names)}."
        ) from None
    if None in texts:
        rows = [f"row {i}" for i, text in enumerate(texts) if text is None]
        warnings.warn(f"left out of {folder}, as they have no caption: {', '.join(rows)}", stacklevel=4)
    if all(text is None for text in texts):
        raise ValueError(f"the column {caption_column!r} of {folder} holds no caption; set data.caption_column.")
    try:
        part = part.cast_column(image_column, datasets.Image(decode=False))  # decoded here, like images of folders
    except (TypeError, ValueError, NotImplementedError):
        raise ValueError(f"the column {image_column!r} of {folder} holds no pictures; set data.image_column.") from None
    where = [i for i, text in enumerate(texts) if text is not None]
    pictures = part.select_columns([image_column]).select(where)
    contents = ((f"row {i}", _file(row[image_column])) for i, row in zip(where, pictures, strict=True))
    found, kept = readable(contents, size, str(folder))
    return found, [str(texts[where[place]]) for place in kept]


def _caption(value: Any, feature: Any) -> str | None:
    if hasattr(feature, "int2str"):  # a class label; -1 where there is none
        return None if value is None or value < 0 else f"a photo of a {feature.int2str(value).replace('_', ' ')}"
    return caption_of(value)


def _file(value: dict[str, Any] | None) -> Any:
    if value is None or (value["bytes"] is None and value["path"] is None):
        return None
    return value["path"] if value["bytes"] is None else io.BytesIO(value["bytes"])


def _flowers(root: Path, size: int) -> Set:
    """All 8,189 images of the three splits, as in the paper, with captions "a photo of a {label}"."""
    from torchvision.datasets import Flowers102

    try:
        parts = [Flowers102(str(root), split=name) for name in ("train", "val", "test")]
    except RuntimeError:
        raise ValueError(
            f"{root} does not contain Flowers102, or files of it are damaged; data.folder must be the folder in which "
            "torchvision's Flowers102 has put flowers-102 (Flowers102(folder, download=True) fetches it)."
        ) from None
    files = [file for part in parts for file in part._image_files]
    names = [f"a photo of a {Flowers102.classes[label]}" for part in parts for label in part._labels]
    order = sorted(range(len(files)), key=lambda i: files[i].name)
    images, kept = readable(((files[i].name, files[i]) for i in order), size, str(root))
    return images, [names[order[place]] for place in kept]


def _resized(images: np.ndarray, captions: list[str], size: int) -> Set:
    if images.shape[1:3] == (size, size):
        return images, captions
    from PIL import Image

    return np.stack([square(Image.fromarray(image), size) for image in images]), captions
