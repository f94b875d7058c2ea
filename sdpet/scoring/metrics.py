"""The main metrics as plain functions of 8-bit images uint8 (N, H, W, 3) and a scorer."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from sdpet.scoring.distances import frechet
from sdpet.scoring.scorers import CLIP, Scorer, Scorers


def clip_i(images: np.ndarray, references: np.ndarray, scorer: Scorer | Scorers, name: str = CLIP) -> float:
    """Mean cosine over all pairs of an image and a reference (the paper's CLIP similarity)."""
    scorers = Scorers.of(scorer)
    # The mean of all products is the product of the means.
    return float(scorers.features(name, images).mean(dim=0) @ scorers.reference_features(name, references).mean(dim=0))


def clip_t(images: np.ndarray, texts: Sequence[str], scorer: Scorer | Scorers) -> float:
    """Mean cosine of each image and its own text (a hundredth of what is elsewhere called the CLIP score)."""
    scorers = Scorers.of(scorer)
    return float((scorers.features(CLIP, images) * scorers.texts(list(texts))).sum(dim=1).mean())


def fid(
    images: np.ndarray, references: np.ndarray, scorer: Scorer | Scorers, name: str = CLIP, raw: bool = False
) -> float:
    """Fréchet distance between Gaussians fitted to the scorer's image features, in float64.

    Unit features (raw=False) make it much smaller than Inception's FID; the two do not compare. Warns when there are no
    more images than features (the covariance is then singular); raises ValueError for fewer than two images.
    """
    scorers = Scorers.of(scorer)
    fewest = min(len(images), len(references))
    if fewest < 2:
        raise ValueError(f"FID needs at least two images on each side, not {len(images)} and {len(references)}.")
    a = scorers.features(name, images, raw)
    if fewest <= a.shape[1]:
        warnings.warn(
            f"FID of {fewest} images in {a.shape[1]} features is singular; draw more images.",
            stacklevel=2,
        )
    return frechet(a, scorers.reference_features(name, references, raw))
