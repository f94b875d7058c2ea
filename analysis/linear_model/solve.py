"""Rank-aware least squares on a `Model`: orthonormal bases, sums of squares, estimability.

The cells are first reduced, once, to a problem with as many rows as columns that has the same sums of squares
(Householder QR; for very large problems a pivoted Cholesky factor of the exact matrix of counts). All tests then work
on that small problem: a term's sum of squares is the squared length of the response's part in the space the term adds,
never a difference of two large numbers.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import lapack, qr, solve_triangular

from analysis.linear_model.design import Model, Term

TOLERANCE = 1e-7  # a column whose part outside the others is shorter than this share of it adds nothing (as in R's lm)
_DENSE_FLOPS = 4e9


class Reduced:
    """The model's columns R (rows, columns) and response z (rows,), and the sum of squares `extra` outside them."""

    def __init__(self, model: Model, raw_trends: bool = False):
        self.model = model
        blocks = {(): model.columns(())} | {t: model.columns(t, raw_trends) for t in model.terms}
        self.columns: dict[Term, np.ndarray] = {}
        self.levels: dict[Term, np.ndarray] = {}
        width = 0
        for term, (_, groups, values, levels) in blocks.items():
            self.columns[term] = np.arange(width, width + groups * values.shape[1])
            self.levels[term] = levels
            width += groups * values.shape[1]
        self.width = width
        cells = len(model.weight)
        if cells * float(width) ** 2 <= _DENSE_FLOPS or cells <= width:
            self.R, self.z, self.extra = _reduce_dense(model, blocks, self.columns, width)
        else:
            self.R, self.z, self.extra = _reduce_gram(model, blocks, self.columns, width)
        self.extra += model.within

    def of(self, terms: list[Term]) -> np.ndarray:
        """Columns of these terms (rows, k)."""
        index = [self.columns[t] for t in terms]
        return self.R[:, np.concatenate(index)] if index else self.R[:, :0]

    def residual(self, basis: np.ndarray) -> float:
        """Residual sum of squares of the model that spans the basis; rounding counts as zero."""
        rest = self.z - basis @ (basis.T @ self.z)
        rest -= basis @ (basis.T @ rest)
        total = float(rest @ rest) + self.extra
        return 0.0 if total <= self.model.zero else total

    @property
    def total(self) -> float:
        """Sum of squares about the mean."""
        total = float(self.z @ self.z) + self.extra
        return 0.0 if total <= self.model.zero else total


def orthonormal(columns: np.ndarray, base: np.ndarray | None = None) -> np.ndarray:
    """Orthonormal basis (rows, rank) of what the columns add to the orthonormal base (rows, r)."""
    norm = np.linalg.norm(columns, axis=0)
    columns = columns[:, norm > 0] / norm[norm > 0]
    if base is not None and base.shape[1]:
        for _ in range(2):  # twice is enough (Kahan)
            columns = columns - base @ (base.T @ columns)
    if min(columns.shape) == 0:
        return np.zeros((columns.shape[0], 0))
    q, r, _ = qr(columns, mode="economic", pivoting=True, check_finite=False)
    q = q[:, : int(np.sum(np.abs(np.diag(r)) > TOLERANCE))]
    if base is not None and base.shape[1] and q.shape[1]:
        q = np.linalg.qr(q - base @ (base.T @ q))[0]
    return q


def left_over(model: Model) -> tuple[float, int]:
    """What a model leaves unexplained: residual sum of squares, 0 where it is rounding, and degrees of freedom."""
    reduced = Reduced(model)
    solution = Coefficients(reduced.R, reduced.z)
    rest = reduced.z - reduced.R @ solution.beta
    rss = float(rest @ rest) + reduced.extra
    return (0.0 if rss <= model.zero else rss), model.n - solution.rank


class Coefficients:
    """One solution of the normal equations and which linear functions of it are estimable."""

    def __init__(self, R: np.ndarray, z: np.ndarray):
        norm = np.linalg.norm(R, axis=0)
        norm[norm == 0] = 1.0
        q, r, pivot = qr(R / norm, mode="economic", pivoting=True, check_finite=False)
        self.rank = k = int(np.sum(np.abs(np.diag(r)) > TOLERANCE))
        self._kept, self._rest, self._norm = pivot[:k], pivot[k:], norm
        self._r = r[:k, :k]
        # Columns that depend on the kept ones: column = kept @ dependence.
        self._dependence = solve_triangular(self._r, r[:k, k:], check_finite=False)
        self.beta = np.zeros(R.shape[1])
        self.beta[self._kept] = solve_triangular(self._r, q[:, :k].T @ z, check_finite=False) / norm[self._kept]

    def estimable(self, L: np.ndarray) -> np.ndarray:
        """For each row of L (k, columns) whether L @ beta is the same for every solution."""
        L = L / self._norm
        gap = np.abs(L[:, self._rest] - L[:, self._kept] @ self._dependence)
        return np.asarray(np.all(gap <= 1e-6 * np.abs(L).max(axis=1, keepdims=True), axis=1))

    def value(self, L: np.ndarray) -> np.ndarray:
        """L @ beta (k,)."""
        return np.asarray(L @ self.beta)

    def root(self, L: np.ndarray) -> np.ndarray:
        """(k, rank) matrix A with A @ A.T = L (X'X)^- L', for estimable L."""
        kept = (L / self._norm)[:, self._kept]
        return np.asarray(solve_triangular(self._r, kept.T, trans="T", check_finite=False).T)


def run_columns(model: Model, term: Term) -> np.ndarray:
    """Columns of a term over the runs (n, k), where a method needs every run by itself."""
    group, groups, values, _ = model.columns(term)
    d = values.shape[1]
    out = np.zeros((len(group), groups * d))
    for j in range(d):
        out[np.arange(len(group)), group * d + j] = values[:, j]
    return out[model.cell_of_run]


def _dense(blocks: dict, columns: dict[Term, np.ndarray], width: int, rows: slice, out: np.ndarray) -> None:
    out[:, :width] = 0.0
    for term, (group, _, values, _) in blocks.items():
        d = values.shape[1]
        for j in range(d):
            out[np.arange(len(out)), columns[term][0] + group[rows] * d + j] = values[rows, j]


def _reduce_dense(model: Model, blocks: dict, columns: dict, width: int) -> tuple[np.ndarray, np.ndarray, float]:
    root = np.sqrt(model.weight)
    top = np.zeros((0, width + 1))
    # Row blocks keep the memory at a few times the reduced problem.
    step = max(4 * (width + 1), 2000)
    for start in range(0, len(root), step):
        rows = slice(start, min(start + step, len(root)))
        part = np.empty((rows.stop - start, width + 1))
        _dense(blocks, columns, width, rows, part)
        part[:, width] = model.mean[rows]
        part *= root[rows, None]
        top = np.concatenate([top, part])
        if len(top) > width + 1:
            top = np.asarray(np.linalg.qr(top, mode="r"))
    if len(top) == width + 1 and len(root) > width + 1:
        return top[:width, :width], top[:width, width], float(top[width, width] ** 2)
    return top[:, :width], top[:, width], 0.0


def _reduce_gram(model: Model, blocks: dict, columns: dict, width: int) -> tuple[np.ndarray, np.ndarray, float]:
    w, terms = model.weight, list(blocks)

    def apply(beta: np.ndarray) -> np.ndarray:  # X @ beta over the cells
        out = np.zeros(len(w))
        for t in terms:
            group, groups, values, _ = blocks[t]
            out += np.sum(beta[columns[t]].reshape(groups, -1)[group] * values, axis=1)
        return out

    def transpose(e: np.ndarray) -> np.ndarray:  # X' W e
        return np.concatenate(
            [
                np.stack([np.bincount(g, w * e * v, k) for v in values.T], axis=1).reshape(-1)
                for g, k, values, _ in (blocks[t] for t in terms)
            ]
        )

    gram = np.zeros((width, width))
    for i, s in enumerate(terms):
        for t in terms[i:]:
            (g, k, u, _), (h, m, v, _) = blocks[s], blocks[t]
            for a in range(u.shape[1]):
                for b in range(v.shape[1]):
                    part = np.bincount(g * m + h, w * u[:, a] * v[:, b], k * m).reshape(k, m)
                    rows, cols = columns[s][a :: u.shape[1]], columns[t][b :: v.shape[1]]
                    gram[np.ix_(rows, cols)] = part
                    gram[np.ix_(cols, rows)] = part.T
    d = np.sqrt(np.diag(gram))
    c, pivot, rank, _ = lapack.dpstrf(gram / np.outer(d, d), tol=1e-11)
    pivot, r = pivot - 1, np.triu(c)[:rank]
    R = np.zeros((rank, width))
    R[:, pivot] = r
    R *= d
    z, beta, residual = np.zeros(rank), np.zeros(width), model.mean
    for _ in range(3):  # the first pass solves, the others refine
        step = solve_triangular(r[:, :rank], (transpose(residual) / d)[pivot[:rank]], trans="T")
        z += step
        beta[pivot[:rank]] += solve_triangular(r[:, :rank], step) / d[pivot[:rank]]
        residual = model.mean - apply(beta)
    return R, z, float(np.sum(w * residual**2))
