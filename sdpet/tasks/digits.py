"""Scikit-learn's handwritten digits (UCI optical recognition set, 1,797 real images) as a captioned image set."""

from __future__ import annotations

import numpy as np

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
HELD_OUT = 600  # images kept for scoring; the last ones in file order, written by other people than the first


def load_digits(split: str = "train") -> tuple[np.ndarray, list[str]]:
    """Digits as 32 x 32 RGB pictures, white ink on black, with captions.

    Returns images uint8 (N, 32, 32, 3) and N captions such as "a photo of the handwritten digit seven";
    N is 1,197 for "train" and 600 for "heldout". Raises ValueError for another split.
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
    return f"a photo of the handwritten digit {WORDS[digit]}"
