"""Read the image from which img2img starts."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def read_init(file: str) -> np.ndarray:
    """Read an image.

    Parameters
    ----------
    file : str
        An image file.

    Returns
    -------
    ndarray
        uint8 (H, W, 3). The EXIF rotation is applied, transparency is put on white, and 16 bits are scaled to 8.

    Raises
    ------
    ValueError
        The file does not exist or is not an image.
    """
    from sdpet.files.images import UNREADABLE, read_image

    path = Path(file).expanduser()
    if not path.is_file():
        raise ValueError(f"--init-img {file} does not exist; give an image file.")
    try:
        return read_image(path)
    except UNREADABLE as error:
        raise ValueError(f"--init-img {file} cannot be read as an image ({type(error).__name__}).") from error


def fitted(image: np.ndarray, multiple: int, height: int | None = None, width: int | None = None) -> np.ndarray:
    """Resize and crop an image so that height and width are multiples of some pixels.

    Parameters
    ----------
    image : ndarray of uint8, shape (H, W, 3)
    multiple : int
        Number of pixels.
    height, width : int, optional
        The size wanted. If one is given, the other is in proportion; if both are, the image is resized to cover them
        and its middle is taken. Without them it keeps its size. Sizes are rounded down to the multiple.

    Returns
    -------
    ndarray of uint8, shape (H', W', 3)

    Raises
    ------
    ValueError
        The size is smaller than `multiple`.
    """
    from PIL import Image, ImageOps

    own_height, own_width = image.shape[:2]
    wanted_height = height or round(own_height * (width or own_width) / own_width)
    wanted_width = width or round(own_width * (height or own_height) / own_height)
    if min(wanted_height, wanted_width) < multiple:
        drawn = f" and would be drawn at {wanted_width} x {wanted_height}" if height or width else ""
        raise ValueError(
            f"--init-img has {own_width} x {own_height} pixels{drawn}; this model needs at least "
            f"{multiple} x {multiple}."
        )
    size = (wanted_width // multiple * multiple, wanted_height // multiple * multiple)
    if size == (own_width, own_height):
        return image
    if height and width:
        return np.array(ImageOps.fit(Image.fromarray(image), size, Image.Resampling.LANCZOS))
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
