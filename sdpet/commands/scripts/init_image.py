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


def fitted(image: np.ndarray, multiple: int) -> np.ndarray:
    """Resize the image so that height and width are multiples of `multiple` pixels, rounded down: uint8 (H', W', 3).

    Raises ValueError if height or width is smaller than `multiple`.
    """
    from PIL import Image

    height, width = image.shape[:2]
    if min(height, width) < multiple:
        raise ValueError(
            f"--init-img has {width} x {height} pixels; this model needs at least {multiple} x {multiple}."
        )
    size = (width // multiple * multiple, height // multiple * multiple)
    if size == (width, height):
        return image
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
