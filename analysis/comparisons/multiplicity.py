"""Adjusted p values and the compact letter display."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy import stats


def _holm(p: np.ndarray) -> np.ndarray:
    order = np.argsort(p, kind="stable")
    out = np.empty(len(p))
    out[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return out


_METHODS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "bonferroni": lambda p: np.minimum(p * len(p), 1.0),
    "holm": _holm,
    "bh": lambda p: stats.false_discovery_control(p, method="bh"),
    "by": lambda p: stats.false_discovery_control(p, method="by"),
}


def adjust(p: Sequence[float] | pd.Series | np.ndarray, method: str = "holm"):
    """Adjusted p values of several tests; missing values stay missing and do not count.

    holm: p(i) (m - i + 1), made monotone (Holm 1979), keeps the chance of any false claim; bh: p(i) m / i (Benjamini &
    Hochberg 1995), keeps the share of false claims; by: the same under any dependence; bonferroni. As R's p.adjust.
    Returns what it was given: a Series keeps its index.

    >>> adjust([0.01, 0.02, 0.03, 0.04], "holm").tolist()
    [0.04, 0.06, 0.06, 0.06]
    """
    if method not in _METHODS:
        raise ValueError(f"The adjustment {method!r} is unknown; choose {', '.join(_METHODS)}.")
    values = np.asarray(p, float)
    out = np.full(len(values), np.nan)
    ok = np.isfinite(values)
    if ok.any():
        out[ok] = _METHODS[method](values[ok])
    return pd.Series(out, index=p.index, name=p.name) if isinstance(p, pd.Series) else out


def letters(pairs: pd.DataFrame, order: Sequence[object] | None = None, alpha: float = 0.05) -> pd.Series:
    """Compact letter display: two levels share a letter exactly when their difference is not significant.

    pairs: a frame with columns a, b, p, such as `tukey` or `contrasts` return; a pair whose p is missing (not
    estimable) counts as not told apart. order: the levels, best first (letter a starts with the first); default: by
    the estimates. Insert-and-absorb algorithm of Piepho, J. Comput. Graph. Stat. 13 (2004) 456.

    >>> pairs = pd.DataFrame({"a": ["x", "x", "y"], "b": ["y", "z", "z"], "p": [0.5, 0.01, 0.2]})
    >>> letters(pairs, order=["x", "y", "z"]).to_dict()
    {'x': 'a', 'y': 'ab', 'z': 'b'}
    """
    levels = list(dict.fromkeys([*pairs["a"], *pairs["b"]])) if order is None else list(order)
    if order is None and "estimate" in pairs:
        score = {v: 0.0 for v in levels}
        for a, b, d in zip(pairs["a"], pairs["b"], pairs["estimate"].fillna(0.0), strict=True):
            score[a] += d
            score[b] -= d
        levels.sort(key=lambda v: -score[v])
    columns = [set(levels)]
    for a, b, p in zip(pairs["a"], pairs["b"], pairs["p"], strict=True):
        if not p < alpha:
            continue
        split = [c - {x} for c in columns if a in c and b in c for x in (a, b)]
        columns = [c for c in columns if not (a in c and b in c)]
        for c in split:
            if not any(c <= other for other in columns):
                columns = [other for other in columns if not other <= c] + [c]
    columns.sort(key=lambda c: sorted(levels.index(v) for v in c))
    text = {v: "".join(_letter(i) for i, c in enumerate(columns) if v in c) for v in levels}
    return pd.Series(text, index=pd.Index(levels), name="letters")


def _letter(i: int) -> str:
    return chr(ord("a") + i) if i < 26 else f"[{i + 1}]"
