"""A response surface: how a score goes with two numeric factors together, as a polynomial of the second degree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special

from analysis.linear_model.design import Terms, build, parse_terms
from analysis.linear_model.solve import orthonormal, run_columns

_FLAT = 1e-9  # of the largest curvature, below which one is none


@dataclass(frozen=True)
class Surface:
    """A fitted surface; each factor is coded from -1 to 1 over the range that was tried (of its logarithm, with log).

    Parameters
    ----------
    factors
        Their names.
    table
        Index: the linear terms, the squares and the product; columns estimate (units of the score for a step of 1 in
        coded units), se, t, p, df.
    center, half, log
        Of each factor: the middle of its range and half its width (of the logarithm where log).
    level
        The fitted score at the centre, averaged over blocks and other terms.
    curvature
        The eigenvalues of the matrix of second-order coefficients, smallest first.
    stationary
        Values of the factors at which the surface is level; NaN where there is no such point.
    kind
        maximum, minimum, saddle or ridge: what the stationary point is.
    inside
        Whether it lies within the range of both factors.
    lack_of_fit
        F, df, df_residual and p of what the cells show beyond the surface; empty without replicates.
    r2
        Share of the variance that the model explains.
    """

    factors: tuple[str, str]
    table: pd.DataFrame
    center: tuple[float, float]
    half: tuple[float, float]
    log: tuple[bool, bool]
    level: float
    curvature: tuple[float, float]
    stationary: tuple[float, float]
    kind: str
    inside: bool
    lack_of_fit: dict[str, float]
    r2: float

    def at(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """The fitted score at values of the two factors (arrays of one shape)."""
        x, y = (self._coded(i, np.asarray(v, float)) for i, v in enumerate((first, second)))
        b = self.table["estimate"].to_numpy()
        return np.asarray(self.level + b[0] * x + b[1] * y + b[2] * x * x + b[3] * y * y + b[4] * x * y)

    def _coded(self, which: int, value: np.ndarray) -> np.ndarray:
        value = np.log(value) if self.log[which] else value
        return np.asarray((value - self.center[which]) / self.half[which])


def surface(
    frame: pd.DataFrame,
    metric: str,
    factors: Sequence[str],
    terms: Terms = (),
    *,
    block: str | None = None,
    log: Sequence[str] = (),
) -> Surface:
    """Fit `metric ~ block + terms + a + b + a^2 + b^2 + a*b` of two numeric factors, and find its stationary point.

    Parameters
    ----------
    factors
        The two, each with three levels or more.
    terms
        Further terms of the model, as levels.
    block
        A factor that is taken out first.
    log
        Which of the two enter by their logarithm, as suits factors that double.

    Returns
    -------
    Surface
        Coefficients with Student's t by the residual of this model, lack of fit against the spread of replicates, and
        the canonical analysis.

    Raises
    ------
    ValueError
        Where a factor is not numeric, has fewer than three levels, or the runs cannot tell the coefficients apart.

    References
    ----------
    Box & Draper, Response Surfaces, Mixtures, and Ridge Analyses (2007), ch. 10; Lenth, J. Stat. Softw. 32 (2009) 7.

    >>> runs = pd.DataFrame([(a, b) for a in (1, 2, 3) for b in (1, 2, 3)], columns=["a", "b"])
    >>> found = surface(runs.assign(y=5 - (runs["a"] - 2) ** 2 - (runs["b"] - 1.5) ** 2), "y", ["a", "b"])
    >>> found.kind, [round(float(v), 6) for v in found.stationary]
    ('maximum', [2.0, 1.5])
    """
    if len(factors) != 2:
        raise ValueError(f"A surface is over two factors, not {len(factors)}.")
    first, second = factors
    given = [t for t in parse_terms(terms, frame.columns) if t != (block,)] if terms else []
    others = [t for t in given if first not in t and second not in t]
    model = build(frame, metric, [*(":".join(t) for t in others), first, second, f"{first}:{second}"], block=block)
    coded, center, half, logs = [], [], [], []
    for name in (first, second):
        values = model.factors[name].levels
        if len(values) < 3 or not all(isinstance(v, int | float | np.number) for v in values):
            raise ValueError(f"{name} is not numeric with three levels or more, so it has no surface.")
        x = np.asarray(values, float)
        if name in log and x.min() <= 0:
            raise ValueError(f"{name} has values that are not above 0, so its logarithm is not defined.")
        x = np.log(x) if name in log else x
        center.append(float((x.min() + x.max()) / 2))
        half.append(float(np.ptp(x) / 2))
        logs.append(name in log)
        coded.append(((x - center[-1]) / half[-1])[model.factors[name].codes[model.cell_of_run]])
    a, b = coded
    columns = np.stack([a, b, a * a, b * b, a * b], axis=1)  # (n, 5)
    outer = [t for t in model.terms if not {first, second} & set(t)]
    base = orthonormal(np.concatenate([run_columns(model, t) for t in [(), *outer]], axis=1))
    free = columns - base @ (base.T @ columns)
    if np.linalg.matrix_rank(free, tol=1e-9 * np.linalg.norm(columns)) < 5:
        raise ValueError(f"These runs cannot tell the curvatures of {first} and {second} and their product apart.")
    y = model.response
    left = y - base @ (base.T @ y)
    beta, inverse = np.linalg.lstsq(free, left, rcond=None)[0], np.linalg.inv(free.T @ free)
    rss = float(np.sum((left - free @ beta) ** 2))
    df = model.n - base.shape[1] - 5
    table = _table([first, second, f"{first}^2", f"{second}^2", f"{first}:{second}"], beta, inverse, rss, df)
    B = np.array([[beta[2], beta[4] / 2], [beta[4] / 2, beta[3]]])
    curvature = np.linalg.eigvalsh(B)
    kind, point = _stationary(beta[:2], B, curvature)
    inside = bool(np.all(np.abs(point) <= 1)) if point is not None else False
    where = [float("nan")] * 2 if point is None else [center[i] + half[i] * float(point[i]) for i in (0, 1)]
    where = [float(np.exp(v)) if logs[i] else float(v) for i, v in enumerate(where)]
    total = float(np.sum((y - y.mean()) ** 2))
    level = model.offset + float(np.mean(y - columns @ beta))
    return Surface(
        (first, second), table, (center[0], center[1]), (half[0], half[1]), (logs[0], logs[1]), level,
        (float(curvature[0]), float(curvature[1])), (where[0], where[1]), kind, inside,
        _lack_of_fit(model, outer, first, second, rss, df), 1 - rss / total if total > 0 else float("nan"),
    )  # fmt: skip


def _table(names: list[str], beta: np.ndarray, inverse: np.ndarray, rss: float, df: int) -> pd.DataFrame:
    out = pd.DataFrame({"estimate": beta}, index=pd.Index(names, name="term"))
    se = np.sqrt(np.diag(inverse) * rss / df) if df > 0 else np.full(5, np.nan)
    out["se"] = se
    with np.errstate(divide="ignore", invalid="ignore"):
        out["t"] = np.where(se > 0, beta / se, np.nan)
    out["p"] = 2 * special.stdtr(df, -np.abs(out["t"])) if df > 0 else np.nan
    out["df"] = float(df)
    return out


def _stationary(slope: np.ndarray, B: np.ndarray, curvature: np.ndarray) -> tuple[str, np.ndarray | None]:
    """What the stationary point is, and where it lies in coded units; a ridge has none."""
    size = np.abs(curvature)
    if size.max() == 0 or size.min() <= _FLAT * size.max():
        return "ridge", None
    kind = "maximum" if curvature.max() < 0 else "minimum" if curvature.min() > 0 else "saddle"
    return kind, -np.linalg.solve(B, slope) / 2


def _lack_of_fit(model, outer: list, first: str, second: str, rss: float, df: int) -> dict[str, float]:
    """F of the cells beyond the surface, against what runs of one cell differ by."""
    cells = [run_columns(model, t) for t in [(), *outer, (first, second)]]
    whole = orthonormal(np.concatenate(cells, axis=1))
    pure = float(np.sum((model.response - whole @ (whole.T @ model.response)) ** 2))
    df2 = model.n - whole.shape[1]
    df1 = df - df2
    if df1 <= 0 or df2 <= 0 or pure <= model.zero:
        return {}
    F = (rss - pure) / df1 / (pure / df2)
    return {"F": F, "df": float(df1), "df_residual": float(df2), "p": float(special.fdtrc(df1, df2, F))}
