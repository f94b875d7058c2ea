"""Distances of two sets of images from their features, float64 tensors (N, D) and (M, D).

Rows may come in any order: what draws subsets is given rows in an order of their own by the caller.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch

from sdpet.seeds import derive, isolated_rng

SMALL = 2048  # fewer images than Inception has features make its covariance singular


def frechet(a: torch.Tensor, b: torch.Tensor) -> float:
    """Fréchet distance of the Gaussians fitted to a and b (Heusel et al. 2017, arXiv 1706.08500, equation 6).

    tr (Sa Sb)^1/2 is the sum of the singular values of Xa Xb', where Xa' Xa = Sa: no root of a matrix that is not
    symmetric, no small number added to a singular one, and as many rows as there are images where these are few
    (torchmetrics takes the eigenvalues of the D x D product; the values agree).
    """
    shift = ((a.mean(dim=0) - b.mean(dim=0)) ** 2).sum()
    root_a, root_b = _root(a), _root(b)
    mixed = torch.linalg.svdvals(root_a @ root_b.T).sum()
    return float((shift + (root_a**2).sum() + (root_b**2).sum() - 2 * mixed).clamp(min=0))


def frechet_infinity(a: torch.Tensor, b: torch.Tensor, points: int = 15) -> float:
    """The distance that endless samples would have, by extrapolation (Chong and Forsyth 2020, arXiv 1911.07023).

    The bias is nearly linear in 1/N: the distance of subsets from half to all of the rows is fitted by a line in 1/N
    and read off at 0. Subsets of both sets are taken, as both are samples; rows are drawn from the seed 0.
    """
    sizes = np.unique(np.rint(np.linspace(0.5, 1, points) * min(len(a), len(b))).astype(int))
    sizes = sizes[sizes >= 2]
    if len(sizes) < 2:
        return float("nan")
    values = []
    for size in sizes:
        share = size / min(len(a), len(b))
        parts = [rows[torch.from_numpy(_some(len(rows), share, f"{side}{size}"))] for side, rows in enumerate((a, b))]
        values.append(frechet(*parts))
    return float(np.polyfit(1 / sizes, values, 1)[1])


def kernel_distance(a: torch.Tensor, b: torch.Tensor, subsets: int = 100, size: int = 1000) -> tuple[float, float]:
    """KID and its standard deviation over subsets (Binkowski et al. 2018, arXiv 1801.01401), by torchmetrics.

    Unbiased for any number of images. Subsets hold `size` rows, or half of the smaller set if that is less.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    size = min(size, max(2, min(len(a), len(b)) // 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it keeps the features
        metric = KernelInceptionDistance(feature=torch.nn.Identity(), subsets=subsets, subset_size=size)
    metric.update(a, real=False)
    metric.update(b, real=True)
    with isolated_rng(0, "kid"):
        mean, deviation = metric.compute()
    return float(mean), float(deviation)


def precision_recall(samples: torch.Tensor, references: torch.Tensor, k: int = 3) -> tuple[float, float]:
    """Share of samples among the references' k-nearest-neighbour balls, and of references among the samples'.

    Kynkäänniemi et al. 2019 (arXiv 1904.06991), equation 2, with their k.
    """
    across = torch.cdist(samples, references)  # (N, M)
    precision = (across <= _radii(references, k)).any(dim=1)
    recall = (across <= _radii(samples, k)[:, None]).any(dim=0)
    return float(precision.double().mean()), float(recall.double().mean())


def density_coverage(samples: torch.Tensor, references: torch.Tensor, k: int = 5) -> tuple[float, float]:
    """How many references' balls a sample lies in, over k, and the share of references that have a sample in theirs.

    Naeem et al. 2020 (arXiv 2002.09797), equations 4 and 6, with their k. Density may exceed 1.
    """
    inside = torch.cdist(samples, references) < _radii(references, k)  # (N, M)
    return float(inside.double().sum(dim=1).mean() / k), float(inside.any(dim=0).double().mean())


def cmmd(a: torch.Tensor, b: torch.Tensor, sigma: float = 10.0, scale: float = 1000.0) -> float:
    """Squared maximum mean discrepancy of unit CLIP features with a Gaussian kernel, times 1,000.

    Jayasumana et al. 2024 (arXiv 2401.09603): sigma, scale and the estimator (means over all
    pairs, a row with itself too) are those of the paper.
    """

    def kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.exp(-(torch.cdist(x, y) ** 2) / (2 * sigma**2)).mean()

    return float(scale * (kernel(a, a) + kernel(b, b) - 2 * kernel(a, b)))


def _root(rows: torch.Tensor) -> torch.Tensor:
    """(min(N, D), D), whose product with itself is the covariance of rows (N, D)."""
    centred = (rows - rows.mean(dim=0)) / (len(rows) - 1) ** 0.5
    return torch.linalg.qr(centred, mode="r")[1] if len(rows) > rows.shape[1] else centred


def _radii(rows: torch.Tensor, k: int) -> torch.Tensor:
    """Distance (N,) of each row to its k-th nearest other row (to the farthest where there are fewer)."""
    return torch.cdist(rows, rows).kthvalue(min(k + 1, len(rows)), dim=1).values


def _some(count: int, share: float, stream: str) -> np.ndarray:
    """Rows of a subset of this share, all of them for a share of 1."""
    return np.random.default_rng(derive(0, "subset", stream)).permutation(count)[: max(2, round(count * share))]
