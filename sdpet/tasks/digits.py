"""Scikit-learn's handwritten digits (UCI optical recognition set, 1,797 real images) as a captioned image set."""

from __future__ import annotations

import numpy as np

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
HELD_OUT = 600  # images held out for scoring: the last ones of the file, which other people wrote


def load_digits(split: str = "train") -> tuple[np.ndarray, list[str]]:
    """Digits as 32 x 32 RGB images, white on black, with captions.

    Parameters
    ----------
    split : {"train", "heldout"}
        1,197 or 600 images. The held-out ones were written by other people.

    Returns
    -------
    (ndarray of uint8 (N, 32, 32, 3), list of N str)
        Images, and captions such as "a photo of the handwritten digit seven".

    Raises
    ------
    ValueError
        There is no such split.
    """
    if split not in ("train", "heldout"):
        raise ValueError(f'The digits have no split "{split}"; choose train or heldout.')
    from PIL import Image
    from sklearn.datasets import load_digits as bundled

    data = bundled()
    rows = slice(None, -HELD_OUT) if split == "train" else slice(-HELD_OUT, None)
    images = []
    for picture in data.images[rows]:  # (8, 8), 0..16
        gray = Image.fromarray(np.rint(picture * 255 / 16).astype(np.uint8))
        images.append(np.asarray(gray.resize((32, 32), Image.Resampling.BICUBIC).convert("RGB")))
    return np.stack(images), [caption(int(label)) for label in data.target[rows]]


def caption(digit: int) -> str:
    """The caption of a digit.

    Parameters
    ----------
    digit : int
        0 to 9.

    Returns
    -------
    str
    """
    return f"a photo of the handwritten digit {WORDS[digit]}"
