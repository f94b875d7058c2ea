"""Distributions of the largest of several studentised differences, by Gauss-Legendre quadrature (no random numbers)."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.polynomial.legendre import leggauss
from scipy import special, stats
from scipy.optimize import brentq

_INNER, _OUTER = 96, 64
_MANY = 1e5  # from these degrees of freedom on, the normal limit


def studentized_range_sf(q: np.ndarray, k: int, df: float) -> np.ndarray:
    """P(range of k independent normals / s > q), s an independent root mean square with df degrees of freedom.

    P(Q < q) = E_s k int phi(z) [Phi(z) - Phi(z - q s)]^(k-1) dz (Tukey 1953; Lund & Lund, AS 190).
    """
    z, wz = _normal_nodes()

    def inside(x: np.ndarray) -> np.ndarray:  # x (...,): probability for known s, with x = q s
        return k * np.sum(wz * np.maximum(special.ndtr(z) - special.ndtr(z - x[..., None]), 0.0) ** (k - 1), axis=-1)

    q = np.asarray(q, float)
    return _tail(_mean_over_s(q, df, inside), k * (k - 1) * stats.t.sf(q / np.sqrt(2), df))


def one_factor_sf(t: np.ndarray, loading: np.ndarray, df: float, two_sided: bool) -> np.ndarray:
    """P(max T_i > t) or P(max |T_i| > t) for a multivariate t with correlations loading_i loading_j (i != j).

    Differences of independent means from one mean have this form (Dunnett, J. Am. Stat. Assoc. 50 (1955) 1096).
    """
    z, wz = _normal_nodes()
    count = len(loading)
    loading, times = np.unique(np.round(loading, 12), return_counts=True)  # equal ones give equal factors
    rest = np.sqrt(1 - loading**2)

    def inside(x: np.ndarray) -> np.ndarray:
        out = np.empty(x.shape)
        for at in np.ndindex(x.shape[:-1]) if x.ndim > 1 else [()]:
            upper = special.ndtr((x[at][:, None, None] - loading * z[:, None]) / rest)  # (s, z, comparisons)
            if two_sided:
                upper -= special.ndtr((-x[at][:, None, None] - loading * z[:, None]) / rest)
            out[at] = np.prod(np.maximum(upper, 0.0) ** times, axis=-1) @ wz
        return out

    t = np.asarray(t, float)
    return _tail(_mean_over_s(t, df, inside), (1 + two_sided) * count * stats.t.sf(t, df))


@lru_cache(maxsize=256)
def studentized_range_ppf(level: float, k: int, df: float) -> float:
    """The q with P(Q < q) = level."""
    return _solve(lambda q: float(studentized_range_sf(np.array(q), k, df)), 1 - level)


def one_factor_ppf(level: float, loading: np.ndarray, df: float, two_sided: bool) -> float:
    """The critical value t with P(max < t) = level."""
    return _one_factor_ppf(level, tuple(np.sort(np.round(loading, 12)).tolist()), df, two_sided)


@lru_cache(maxsize=1024)
def _one_factor_ppf(level: float, loading: tuple[float, ...], df: float, two_sided: bool) -> float:
    values = np.array(loading)
    return _solve(lambda t: float(one_factor_sf(np.array(t), values, df, two_sided)), 1 - level)


def one_factor_loadings(correlation: np.ndarray) -> np.ndarray:
    """Loadings whose products are nearest to the correlations off the diagonal; exact where these are of that form."""
    k = len(correlation)
    if k == 1:
        return np.zeros(1)
    loading = np.full(k, np.sqrt(max(float((correlation.sum() - k) / (k * (k - 1))), 0.0)))
    if k == 2:
        return np.clip(loading, 0, 0.999999)
    for _ in range(500):  # principal factor with the communalities brought up to date
        matrix = correlation.copy()
        np.fill_diagonal(matrix, loading**2)
        value, vector = np.linalg.eigh(matrix)
        new = np.sqrt(max(value[-1], 0.0)) * vector[:, -1]
        new = np.clip(new * np.sign(new.sum() or 1.0), -0.999999, 0.999999)
        if np.abs(new - loading).max() < 1e-13:
            break
        loading = new
    return new


def _solve(sf: Callable[[float], float], alpha: float) -> float:
    high = 4.0
    while sf(high) > alpha:
        high *= 2
    return float(brentq(lambda x: sf(x) - alpha, -high, high, xtol=1e-9))


def _normal_nodes() -> tuple[np.ndarray, np.ndarray]:
    x, w = _legendre(_INNER)
    z = 8.5 * x
    return z, 8.5 * w * np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)


@lru_cache(maxsize=64)
def _scale_nodes(df: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of the mean over s, where df s^2 is chi-square."""
    x, w = _legendre(_OUTER)
    low, high = np.sqrt(stats.chi2.ppf([1e-15, 1 - 1e-15], df) / df)
    s = low + (high - low) * (x + 1) / 2
    return s, w * np.exp(stats.chi2.logpdf(df * s * s, df)) * 2 * df * s * (high - low) / 2


@lru_cache(maxsize=4)
def _legendre(n: int) -> tuple[np.ndarray, np.ndarray]:
    return leggauss(n)


def _tail(p: np.ndarray, bonferroni: np.ndarray) -> np.ndarray:
    """Where 1 - probability has lost its digits, the Bonferroni bound: far out in the tail it is the value itself."""
    return np.where(p < 1e-9, np.minimum(bonferroni, 1e-9), p)


def _mean_over_s(t: np.ndarray, df: float, inside: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """1 - E inside(t s), where df s^2 is chi-square; t of any shape."""
    if df >= _MANY:
        return np.clip(1 - inside(t[..., None])[..., 0], 0.0, 1.0)
    s, weight = _scale_nodes(df)
    return np.clip(1 - inside(t[..., None] * s) @ weight, 0.0, 1.0)
