"""Data of one's own as arguments of a task."""

from __future__ import annotations

from typing import Any

import numpy as np

from sdpet.tasks.protocols import CaptionedSource, SubjectSource


def own_data_arguments(source: SubjectSource | CaptionedSource, kind: str, size: int, target: str) -> dict[str, Any]:
    """Read data of one's own.

    Parameters
    ----------
    source : SubjectSource or CaptionedSource
    kind : {"subject", "captions"}
    size : int
        Side of the model's images in pixels.
    target : str
        The Python path of the source's class, for errors.

    Returns
    -------
    dict
        Arguments of a task: images in place of folders.

    Raises
    ------
    ValueError
        What the source gives is not what its interface says. One sentence names the method.
    """
    if kind == "subject":
        found = {}
        for key, method in (("subject_dir", "subject_images"), ("class_dir", "class_images"),
                            ("heldout_dir", "heldout_images")):  # fmt: skip
            images = getattr(source, method)(size)
            may_lack = key != "subject_dir"
            found[key] = None if images is None and may_lack else _checked(images, size, f"{target}.{method}")
        return found
    arguments: dict[str, Any] = {}
    for prefix, method in (("", "training"), ("heldout_", "heldout")):
        try:
            images, captions = getattr(source, method)(size)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{target}.{method} must give images and their captions ({error}).") from error
        captions = list(captions)
        images = _checked(images, size, f"{target}.{method}")
        if len(captions) != len(images) or not all(isinstance(caption, str) for caption in captions):
            raise ValueError(f"{target}.{method} must give one text for each of its {len(images)} images.")
        arguments |= {f"{prefix}images": images, f"{prefix}captions": captions}
    return arguments


def _checked(images: Any, size: int, where: str) -> np.ndarray:
    ok = isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.shape[1:] == (size, size, 3)
    if not ok or not len(images):
        got = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
        raise ValueError(f"{where} must give images as a uint8 array (N, {size}, {size}, 3), not {got}.")
    return images
