"""Metrics as pure functions of 8-bit images uint8 (N, H, W, 3) and a scorer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch


class Scorer(Protocol):
    """An image-text model: unit vectors of images uint8 (N, 3, H, W) and of texts."""

    name: str
    weight_hash: str

    def encode_image(self, images: torch.Tensor) -> torch.Tensor: ...
    def encode_text(self, texts: list[str]) -> torch.Tensor: ...


def clip_i(images: np.ndarray, references: np.ndarray, scorer: Scorer) -> float:
    """Mean cosine over all pairs of an image and a reference (the paper's CLIP similarity)."""
    ...


def clip_t(images: np.ndarray, texts: Sequence[str], scorer: Scorer) -> float:
    """Mean cosine of each image and its own text."""
    ...


def fid(images: np.ndarray, references: np.ndarray, scorer: Scorer) -> float:
    """Fréchet distance (Heusel et al. 2017) between Gaussians fitted to the scorer's unit image features, in float64.

    Unit features make it much smaller than Inception's FID; the two do not compare. Warns when there are no more
    images than features (the covariance is then singular); raises ValueError for fewer than two images.
    """
    ...
