"""The main metrics as plain functions of 8-bit images, uint8 (N, H, W, 3), and a scorer."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from sdpet.scoring.distances import frechet
from sdpet.scoring.scorers import CLIP, Scorer, Scorers


def clip_i(images: np.ndarray, references: np.ndarray, scorer: Scorer | Scorers, name: str = CLIP) -> float:
    """CLIP image similarity: the mean cosine over all pairs of an image and a reference.

    Parameters
    ----------
    images, references : ndarray of uint8, (N, H, W, 3) and (M, H, W, 3)
        At least one image each.
    scorer : Scorer or Scorers
        One image-text model, or several networks by name.
    name : str
        Name of the network among `scorer`.

    Returns
    -------
    float
        Between -1 and 1.

    Raises
    ------
    ValueError
        There are no images.
    """
    scorers = Scorers.of(scorer)
    # The mean of all inner products is the inner product of the means.
    return float(scorers.features(name, images).mean(dim=0) @ scorers.reference_features(name, references).mean(dim=0))


def clip_i_of_each(
    images: np.ndarray, references: np.ndarray, scorer: Scorer | Scorers, name: str = CLIP
) -> list[float]:
    """`clip_i` of each image, whose mean it is; parameters as there, one float an image."""
    scorers = Scorers.of(scorer)
    means = scorers.features(name, images) @ scorers.reference_features(name, references).mean(dim=0)
    return [float(value) for value in means]


def clip_t_of_each(images: np.ndarray, texts: Sequence[str], scorer: Scorer | Scorers) -> list[float]:
    """`clip_t` of each image, whose mean it is; parameters as there, one float an image."""
    scorers = Scorers.of(scorer)
    return [float(value) for value in (scorers.features(CLIP, images) * scorers.texts(list(texts))).sum(dim=1)]


def clip_t(images: np.ndarray, texts: Sequence[str], scorer: Scorer | Scorers) -> float:
    """CLIP text fidelity: the mean cosine of each image and its own text (the usual CLIP score divided by 100).

    Parameters
    ----------
    images : ndarray of uint8, (N, H, W, 3)
        At least one image.
    texts : sequence of str, N
        One text an image.
    scorer : Scorer or Scorers
        One image-text model, or several networks of which "clip" is used.

    Returns
    -------
    float
        Between -1 and 1.

    Raises
    ------
    ValueError
        There are no images.

    References
    ----------
    Hessel et al. 2021, arXiv 2104.08718.
    """
    scorers = Scorers.of(scorer)
    return float((scorers.features(CLIP, images) * scorers.texts(list(texts))).sum(dim=1).mean())


def fid(
    images: np.ndarray, references: np.ndarray, scorer: Scorer | Scorers, name: str = CLIP, raw: bool = False
) -> float:
    """Fréchet distance between Gaussians fitted to the scorer's image features, in float64.

    With unit features (raw=False) it is much smaller than the FID of Inception; the two are not comparable. It warns
    where there are no more images than features, since the covariance is then singular.

    Parameters
    ----------
    images, references : ndarray of uint8, (N, H, W, 3) and (M, H, W, 3)
        At least two images each.
    scorer : Scorer or Scorers
        One image-text model, or several networks by name.
    name : str
        Name of the network among `scorer`.
    raw : bool
        Use features at their own length, instead of unit length.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        There are fewer than two images on a side.

    References
    ----------
    Heusel et al. 2017, arXiv 1706.08500, equation 6.
    """
    scorers = Scorers.of(scorer)
    fewest = min(len(images), len(references))
    if fewest < 2:
        raise ValueError(f"FID needs at least two images on each side, not {len(images)} and {len(references)}.")
    a = scorers.features(name, images, raw)
    if fewest <= a.shape[1]:
        warnings.warn(
            f"FID of {fewest} images is singular, as features are as many or more; draw more images.",
            stacklevel=2,
        )
    return frechet(a, scorers.reference_features(name, references, raw))
