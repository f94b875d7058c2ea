"""The image that img2img begins with."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def read_init(file: str) -> np.ndarray:
    """uint8 (H, W, 3): upright, transparency over white, 16 bits scaled to 8. ValueError for what is no image."""
    from sdpet.files.images import UNREADABLE, read_image

    path = Path(file).expanduser()
    if not path.is_file():
        raise ValueError(f"--init-img {file} does not exist; give an image file.")
    try:
        return read_image(path)
    except UNREADABLE as error:
        raise ValueError(f"--init-img {file} cannot be read as an image ({type(error).__name__}).") from error


def fitted(image: np.ndarray, multiple: int) -> np.ndarray:
    """The image with its height and width resized down to multiples: uint8 (H', W', 3).

    ValueError where one of them is smaller than the multiple.
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
