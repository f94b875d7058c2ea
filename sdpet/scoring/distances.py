"""Distances between two sets of images, computed from their features, float64 tensors (N, D) and (M, D).

The values of distances that draw subsets depend on the order of the rows; the caller gives rows in a fixed order.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch

from sdpet.seeds import derive, isolated_rng

SMALL = 2048  # with fewer images than Inception has features, their covariance is singular


def frechet(a: torch.Tensor, b: torch.Tensor) -> float:
    """Fréchet distance between the Gaussians fitted to two sets of features.

    tr (Sa Sb)^1/2 is computed as the sum of the singular values of Xa Xb', where Xa' Xa = Sa. So there is no root of a
    matrix that is not symmetric, no small number added to a singular one, and few rows where there are few images.
    (torchmetrics takes the eigenvalues of the D x D product; the values agree.)

    Parameters
    ----------
    a, b : Tensor of float64, (N, D) and (M, D)
        Features, at least two rows each.

    Returns
    -------
    float
        The squared distance, at least 0, as it is usually reported.

    References
    ----------
    Heusel et al. 2017, arXiv 1706.08500, equation 6.
    """
    shift = ((a.mean(dim=0) - b.mean(dim=0)) ** 2).sum()
    root_a, root_b = _root(a), _root(b)
    mixed = torch.linalg.svdvals(root_a @ root_b.T).sum()
    return float((shift + (root_a**2).sum() + (root_b**2).sum() - 2 * mixed).clamp(min=0))


def frechet_infinity(a: torch.Tensor, b: torch.Tensor, points: int = 15) -> float:
    """Extrapolate the Fréchet distance to infinitely many samples.

    The bias is nearly linear in 1/N. A line in 1/N is fitted to the distances of subsets that hold from half to all of
    the rows, and read off at 0. Both sets are reduced, since both are samples; rows are drawn with the seed 0.

    Parameters
    ----------
    a, b : Tensor of float64, (N, D) and (M, D)
        Features.
    points : int
        Number of subset sizes.

    Returns
    -------
    float
        nan for a handful of rows, which have fewer than `points` sizes: a line says nothing there. It can be below 0.

    References
    ----------
    Chong and Forsyth 2020, arXiv 1911.07023.
    """
    sizes = np.unique(np.rint(np.linspace(0.5, 1, points) * min(len(a), len(b))).astype(int))
    sizes = sizes[sizes >= 2]
    if len(sizes) < points:
        return float("nan")
    values = []
    for size in sizes:
        share = size / min(len(a), len(b))
        parts = [
            rows[torch.from_numpy(_subset_rows(len(rows), share, f"{side}{size}"))] for side, rows in enumerate((a, b))
        ]
        values.append(frechet(*parts))
    return float(np.polyfit(1 / sizes, values, 1)[1])


def kernel_distance(a: torch.Tensor, b: torch.Tensor, subsets: int = 100, size: int = 1000) -> tuple[float, float]:
    """Kernel Inception distance (KID) and its standard deviation over subsets, by torchmetrics.

    It is unbiased for any number of images.

    Parameters
    ----------
    a, b : Tensor of float64, (N, D) and (M, D)
        Features.
    subsets : int
        Number of subsets, drawn with the seed 0.
    size : int
        Rows of a subset; half of the smaller set where that is less.

    Returns
    -------
    (float, float)
        Mean and standard deviation over subsets.

    References
    ----------
    Binkowski et al. 2018, arXiv 1801.01401.
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    size = min(size, max(2, min(len(a), len(b)) // 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torchmetrics notes that it stores all features
        metric = KernelInceptionDistance(feature=torch.nn.Identity(), subsets=subsets, subset_size=size)
    metric.update(a, real=False)
    metric.update(b, real=True)
    with isolated_rng(0, "kid"):
        mean, deviation = metric.compute()
    return float(mean), float(deviation)


def precision_recall(samples: torch.Tensor, references: torch.Tensor, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall from k-nearest-neighbour balls.

    Parameters
    ----------
    samples, references : Tensor (N, D) and (M, D)
        Features.
    k : int
        Number of neighbours; 3 in the paper.

    Returns
    -------
    (float, float)
        Precision, the share of samples inside a reference's ball, and recall, the share of references inside a
        sample's.

    References
    ----------
    Kynkäänniemi et al. 2019, arXiv 1904.06991, equation 2.
    """
    across = torch.cdist(samples, references)  # (N, M)
    precision = (across <= _radii(references, k)).any(dim=1)
    recall = (across <= _radii(samples, k)[:, None]).any(dim=0)
    return float(precision.double().mean()), float(recall.double().mean())


def density_coverage(samples: torch.Tensor, references: torch.Tensor, k: int = 5) -> tuple[float, float]:
    """Density and coverage from the references' k-nearest-neighbour balls.

    Parameters
    ----------
    samples, references : Tensor (N, D) and (M, D)
        Features.
    k : int
        Number of neighbours; 5 in the paper.

    Returns
    -------
    (float, float)
        Density, the mean number of balls that a sample lies in, over k (it can exceed 1), and coverage, the share of
        references with a sample in their ball.

    References
    ----------
    Naeem et al. 2020, arXiv 2002.09797, equations 4 and 6.
    """
    inside = torch.cdist(samples, references) < _radii(references, k)  # (N, M)
    return float(inside.double().sum(dim=1).mean() / k), float(inside.any(dim=0).double().mean())


def cmmd(a: torch.Tensor, b: torch.Tensor, sigma: float = 10.0, scale: float = 1000.0) -> float:
    """Squared maximum mean discrepancy with a Gaussian kernel (CMMD), times `scale`.

    Parameters
    ----------
    a, b : Tensor (N, D) and (M, D)
        CLIP features of unit length.
    sigma, scale : float
        Width of the kernel and factor, as in the paper. So is the estimator: means over all pairs, with those of a row
        and itself.

    Returns
    -------
    float

    References
    ----------
    Jayasumana et al. 2024, arXiv 2401.09603.
    """

    def kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.exp(-(torch.cdist(x, y) ** 2) / (2 * sigma**2)).mean()

    return float(scale * (kernel(a, a) + kernel(b, b) - 2 * kernel(a, b)))


def _root(rows: torch.Tensor) -> torch.Tensor:
    """A matrix R (min(N, D), D) with R' R equal to the covariance of the rows (N, D)."""
    centred = (rows - rows.mean(dim=0)) / (len(rows) - 1) ** 0.5
    return torch.linalg.qr(centred, mode="r")[1] if len(rows) > rows.shape[1] else centred


def _radii(rows: torch.Tensor, k: int) -> torch.Tensor:
    """Distance (N,) of each row to its k-th nearest other row (to the farthest where there are fewer)."""
    return torch.cdist(rows, rows).kthvalue(min(k + 1, len(rows)), dim=1).values


def _subset_rows(count: int, share: float, stream: str) -> np.ndarray:
    """Indices of a subset of this share, drawn by `stream`; all rows for a share of 1."""
    return np.random.default_rng(derive(0, "subset", stream)).permutation(count)[: max(2, round(count * share))]
