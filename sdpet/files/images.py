"""Reading images from folders as 8-bit RGB squares, with captions if needed."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sdpet.choices import CAPTION_KEYS, IMAGE_SUFFIXES
from sdpet.files.folders import captioned_files, image_files, metadata_file, unread_pictures

# What PIL raises for files that are not images or are truncated (DecompressionBombError derives from Exception).
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)
ANIMATED = ("GIF", "PNG", "TIFF", "WEBP")  # not MPO: a phone's JPEG with a preview as its second frame


def list_images(folder: str | Path, what: str = "image") -> list[Path]:
    """List the image files of a folder.

    Parameters
    ----------
    folder : str or Path
    what : str
        What errors call the folder's images.

    Returns
    -------
    list of Path
        Sorted by name, without hidden files. A warning names pictures of other kinds.

    Raises
    ------
    ValueError
        If there is no such folder or no image in it.
    """
    folder, suffixes = Path(folder).expanduser(), ", ".join(IMAGE_SUFFIXES)
    if not folder.is_dir():
        raise ValueError(f"the {what} folder {folder} does not exist; give a folder of images ({suffixes}).")
    files = image_files(folder)
    if not files:
        raise ValueError(f"the {what} folder {folder} holds no image; expected are files with {suffixes}.")
    _say_unread(folder, what)
    return files


def _say_unread(folder: Path, what: str) -> None:
    unread = unread_pictures(folder)
    if unread:
        kinds = ", ".join(IMAGE_SUFFIXES)
        warnings.warn(
            f"left out of the {what} folder {folder}, as only files with {kinds} are read: {', '.join(unread)}",
            stacklevel=4,
        )


def load_folder(folder: str | Path, size: int, what: str = "image") -> np.ndarray:
    """Read all readable images of a folder: uint8 (N, size, size, 3); see `list_images` and `read`."""
    return read(list_images(folder, what), size, what)[0]


def load_captioned(folder: str | Path, size: int) -> tuple[np.ndarray, list[str]]:
    """Read the images of a folder and their captions.

    Parameters
    ----------
    folder : str or Path
        Captions are read from its metadata.jsonl (lines ``{"file_name": ..., "text": ...}``, or caption or prompt in
        place of text) or metadata.csv, or from a .txt file beside each image.
    size : int
        Side in pixels.

    Returns
    -------
    ndarray of uint8, shape (N, size, size, 3)
    list of str

    Raises
    ------
    ValueError
        If an image has no caption, or the metadata cannot be read.
    """
    folder = Path(folder).expanduser()
    if metadata_file(folder) is None:
        list_images(folder, "training")  # says what is wrong with the folder
    else:
        _say_unread(folder, "training")
    captions = captioned_files(folder)
    bare = [str(file.relative_to(folder)) for file, caption in captions.items() if caption is None]
    if bare:
        raise ValueError(
            f"{len(bare)} images of {folder} have no caption, first {bare[0]}; captions are read from metadata.jsonl "
            f"or metadata.csv (keys file_name, and one of {', '.join(CAPTION_KEYS)}) or from a .txt file beside each "
            "image."
        )
    images, readable = read(list(captions), size, "training")
    return images, [str(captions[file]) for file in readable]


def read(files: list[Path], size: int, what: str = "image") -> tuple[np.ndarray, list[Path]]:
    """Read image files.

    Parameters
    ----------
    files : list of Path
    size : int
        Side in pixels.
    what : str
        What errors call the images.

    Returns
    -------
    ndarray of uint8, shape (N, size, size, 3)
    list of Path
        The files that could be read.

    Raises
    ------
    ValueError
        If none can be read. A warning names those that cannot.
    """
    images, kept = readable(((file.name, file) for file in files), size, f"the {what} folder {files[0].parent}")
    return images, [files[i] for i in kept]


def readable(contents: Iterable[tuple[str, Any]], size: int, where: str) -> tuple[np.ndarray, list[int]]:
    """Read images from files or streams, and warn of those that cannot be read.

    Parameters
    ----------
    contents : iterable of (str, file, stream or None)
        With the name that the warning uses; None where there is no picture.
    size : int
        Side in pixels.
    where : str
        What errors call the source.

    Returns
    -------
    ndarray of uint8, shape (N, size, size, 3)
    list of int
        The indices of the readable ones.

    Raises
    ------
    ValueError
        If none can be read.
    """
    images, kept, broken = [], [], []
    for number, (name, content) in enumerate(contents):
        if content is None:
            broken.append(f"{name} (no picture)")
            continue
        try:
            images.append(read_image(content, size))
            kept.append(number)
        except UNREADABLE as error:
            broken.append(f"{name} ({type(error).__name__})")
    if not images:
        raise ValueError(f"none of the {len(broken)} files in {where} is a readable image.")
    if broken:
        warnings.warn(f"left out as unreadable in {where}: {', '.join(broken)}", stacklevel=4)
    return np.stack(images), kept


def read_image(content: Any, size: int | None = None) -> np.ndarray:
    """Read one image as it should be seen, see `upright`. Every image that a user gives is read here.

    Parameters
    ----------
    content : path or binary stream
    size : int, optional
        Side in pixels of the square that `square` makes of it; None keeps its size.

    Returns
    -------
    ndarray of uint8, shape (H, W, 3)

    Raises
    ------
    UNREADABLE
        It is not an image, or it is cut short.
    """
    with Image.open(content) as image:
        frames = getattr(image, "n_frames", 1) if image.format in ANIMATED else 1
        if frames > 1:
            name = getattr(content, "name", "an image")
            warnings.warn(f"only the first of {name}'s {frames} frames is used", stacklevel=3)
        return np.array(upright(image)) if size is None else square(image, size)


def square(image: Any, size: int) -> np.ndarray:
    """Make an image a square: `upright`, then resize the shorter side (antialiased) and crop the centre.

    Parameters
    ----------
    image : PIL.Image.Image
    size : int
        Side in pixels.

    Returns
    -------
    ndarray of uint8, shape (size, size, 3)
    """
    from PIL import ImageOps

    image = upright(image)
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(image)


def read_mask(content: Any, size: int, alpha: bool) -> np.ndarray | None:
    """Read where an image shows its subject, with the same rotation, size and crop as `read_image`.

    Parameters
    ----------
    content : path or binary stream
    size : int
        Side in pixels.
    alpha : bool
        Whether the mask is the image's alpha channel; if not, the image is the mask: white is the subject.

    Returns
    -------
    ndarray of uint8, shape (size, size), or None
        255 is the subject, 0 the background. None if the image has no alpha channel.

    Raises
    ------
    UNREADABLE
        It is not an image, or it is cut short.
    """
    from PIL import ImageOps

    with Image.open(content) as opened:
        image = ImageOps.exif_transpose(opened)
        if alpha and "A" not in image.getbands() and "transparency" not in image.info:
            return None
        mask = image.convert("RGBA").getchannel("A") if alpha else image.convert("L")
    return np.asarray(ImageOps.fit(mask, (size, size), Image.Resampling.BICUBIC))


def upright(image: Any) -> Any:
    """Convert a PIL image of any mode to 8-bit RGB.

    It is rotated according to its EXIF data, 16 bits are scaled to 8, and transparency is shown over white.
    """
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grey: PIL would clip, not scale
        image = Image.fromarray((np.asarray(image).astype(np.float64) / 257).round().clip(0, 255).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
