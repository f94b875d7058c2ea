"""Metrics as pure functions of 8-bit images uint8 (N, H, W, 3) and a scorer."""

from __future__ import annotations

import warnings
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
    # The mean of all products is the product of the means.
    a, b = features(images, scorer).double(), features(references, scorer).double()
    return float(a.mean(dim=0) @ b.mean(dim=0))


def clip_t(images: np.ndarray, texts: Sequence[str], scorer: Scorer) -> float:
    """Mean cosine of each image and its own text."""
    unique = list(dict.fromkeys(texts))
    text = scorer.encode_text(unique).double().cpu()[[unique.index(t) for t in texts]]  # (N, D)
    return float((features(images, scorer).double() * text).sum(dim=1).mean())


def fid(images: np.ndarray, references: np.ndarray, scorer: Scorer) -> float:
    """Fréchet distance (Heusel et al. 2017) between Gaussians fitted to the scorer's unit image features, in float64.

    Unit features make it much smaller than Inception's FID; the two do not compare. Warns when there are no more
    images than features (the covariance is then singular); raises ValueError for fewer than two images.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    fewest = min(len(images), len(references))
    if fewest < 2:
        raise ValueError(f"FID needs at least two images on each side, not {len(images)} and {len(references)}.")
    tower = _ImageTower(scorer, images)
    if fewest <= tower.num_features:
        warnings.warn(
            f"FID of {fewest} images in {tower.num_features} features is singular; draw more images.",
            stacklevel=2,
        )
    metric = FrechetInceptionDistance(feature=tower)
    metric.update(_channels_first(references), real=True)
    metric.update(_channels_first(images), real=False)
    return float(metric.compute())


@torch.no_grad()
def features(images: np.ndarray, scorer: Scorer, chunk: int = 128) -> torch.Tensor:
    """Unit image features (N, D) of images uint8 (N, H, W, 3), on the CPU."""
    if not len(images):
        raise ValueError("there are no images to score.")
    return torch.cat([scorer.encode_image(part).cpu() for part in _channels_first(images).split(chunk)])


class _ImageTower(torch.nn.Module):
    """A scorer's image side as the feature extractor that torchmetrics asks for; float64 keeps its result so."""

    def __init__(self, scorer: Scorer, images: np.ndarray):
        super().__init__()
        self._scorer = scorer
        self.num_features = features(images[:1], scorer).shape[1]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return features(images.permute(0, 2, 3, 1).numpy(), self._scorer).double()


def _channels_first(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
