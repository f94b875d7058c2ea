"""By how much one design can at most be better than another, at one look of a race."""

from __future__ import annotations

import numpy as np

from analysis.sequential.schedule import critical_value

PRIOR = 8.0  # degrees of freedom with which the pooled variance enters the variance of each pair


def pooled_variance(scores: np.ndarray, used: np.ndarray) -> tuple[float, int]:
    """Residual variance of the layout designs + seeds, and its degrees of freedom; (nan, 0) without any.

    Parameters
    ----------
    scores
        (seeds, designs). Only the first used[i] seeds of design i are read.
    used
        Number of seeds of each design that count (designs,).

    Notes
    -----
    Added up seed by seed: seed j + 1 compares the new score of each design that has it with the mean of its j before,
    up to a constant that all share. This is the residual sum of squares of the two-way layout, also where designs have
    dropped out.
    """
    n = int(used.max(initial=0))
    if n < 2:
        return float("nan"), 0
    there = np.arange(1, n)[:, None] < used  # (seeds from the second, designs)
    rows = np.where(np.arange(n)[:, None] < used, scores[:n], 0.0)
    before = np.arange(1, n)[:, None]
    new = np.where(there, rows[1:] - np.cumsum(rows, axis=0)[:-1] / before, 0.0)
    count = there.sum(axis=1)
    centred = np.where(there, new - (new.sum(axis=1) / np.maximum(count, 1))[:, None], 0.0)
    squares = float((before[:, 0] / (before[:, 0] + 1) * (centred**2).sum(axis=1)).sum())
    df = int(np.maximum(count - 1, 0).sum())
    return (squares / df, df) if df else (float("nan"), 0)


def pair_bounds(scores: np.ndarray, variance: float, df: int, designs: int, level: float) -> tuple[np.ndarray, float]:
    """Upper bounds of mean_i - mean_k at a look (designs, designs), and their critical value.

    Parameters
    ----------
    scores
        Those of the designs compared, larger is better (seeds, designs); complete.
    variance, df
        The pooled residual variance, see `pooled_variance`.
    designs
        How many designs the race started with: the critical value is for all of them against one.
    level
        The error rate of this look.

    Notes
    -----
    The variance of a pair's difference is a mean of its own and the pooled one, with n - 1 and PRIOR degrees of freedom
    (Smyth, Stat. Appl. Genet. Mol. Biol. 3 (2004) 1, with a fixed prior): a pooled variance alone loses the noisiest of
    equally good designs too often.
    """
    n = len(scores)
    mean, covariance = scores.mean(axis=0), np.atleast_2d(np.cov(scores, rowvar=False))
    own = np.diag(covariance)
    pair = np.maximum(own[:, None] + own[None, :] - 2 * covariance, 0.0)
    moderated = (PRIOR * 2 * variance + (n - 1) * pair) / (PRIOR + n - 1)
    critical = critical_value(designs, float(min(df, PRIOR + n - 1)), level)
    bounds = mean[:, None] - mean[None, :] + critical * np.sqrt(moderated / n)
    np.fill_diagonal(bounds, 0.0)
    return bounds, critical
