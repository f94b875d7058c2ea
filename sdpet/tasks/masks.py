"""Masks of a subject's photos: where the loss counts in full."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from sdpet.choices import IMAGE_SUFFIXES
from sdpet.files.images import list_images, read, read_mask


def read_masks(subject_dir: str | Path | np.ndarray, mask_dir: str | Path | None, size: int) -> np.ndarray:
    """Read the masks of a folder of photos.

    Parameters
    ----------
    subject_dir : path
        The photos. Without `mask_dir`, their alpha channels are the masks.
    mask_dir : path, optional
        A folder that has a mask for each photo, an image of the same name up to its ending: white is the subject.
    size : int
        Side in pixels.

    Returns
    -------
    ndarray of uint8, shape (N, size, size)
        In the order of the photos; 255 is the subject.

    Raises
    ------
    ValueError
        A photo has no mask, a mask is empty, or the photos are no folder.
    """
    if isinstance(subject_dir, np.ndarray):
        raise ValueError("task.background below 1 needs a folder of photos, whose masks or alpha channels are read.")
    photos = read(list_images(subject_dir, "subject"), size, "subject")[1]  # those that can be read
    there = {} if mask_dir is None else {file.stem: file for file in list_images(mask_dir, "mask")}
    found = []
    for photo in photos:
        if mask_dir is not None and photo.stem not in there:
            raise ValueError(
                f"{mask_dir} has no mask for {photo.name}; it needs an image of the name {photo.stem} "
                f"({', '.join(IMAGE_SUFFIXES)}) in which the subject is white."
            )
        mask = read_mask(there.get(photo.stem, photo), size, alpha=mask_dir is None)
        if mask is None:
            raise ValueError(
                f"{photo} has no alpha channel to tell the subject from the background; give data.mask_dir, a folder "
                "of masks, or task.background=1."
            )
        if not mask.any():
            raise ValueError(f"the mask of {photo.name} is black everywhere; the subject must be white.")
        found.append(mask)
    return np.stack(found)


def loss_weights(masks: np.ndarray, background: float, height: int, width: int) -> torch.Tensor:
    """What each latent counts in the loss.

    Parameters
    ----------
    masks : ndarray of uint8, shape (N, H, W)
    background : float
        Weight of what is not the subject, from 0 to 1.
    height, width : int
        Of the latents.

    Returns
    -------
    Tensor, shape (N, 1, h, w)
        background + (1 - background) * share of the subject in the latent's pixels, over the image's mean: so each
        image counts as much as without a mask.
    """
    share = torch.as_tensor(masks.copy(), dtype=torch.float32)[:, None] / 255
    weights = background + (1 - background) * functional.adaptive_avg_pool2d(share, (height, width))
    return weights / weights.mean(dim=(1, 2, 3), keepdim=True)
