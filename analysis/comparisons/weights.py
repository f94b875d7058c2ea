"""The weights of levels in contrasts: pairs, a baseline, the mean, and levels that have an order."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np

ORDERED = ("steps", "cuts", "helmert")  # contrasts of levels that have an order


def _ordered(levels: list, method: str) -> tuple[list[str], list[tuple], np.ndarray]:
    """Contrasts of levels that have an order."""
    k = len(levels)
    C = np.zeros((k - 1, k))
    for row, i in enumerate(range(1, k)):
        before = [i - 1] if method == "steps" else list(range(i))
        after = list(range(i, k)) if method == "cuts" else [i]
        C[row, after], C[row, before] = 1 / len(after), -1 / len(before)
    if method == "steps":
        return [f"{levels[i]} - {levels[i - 1]}" for i in range(1, k)], list(zip(levels[1:], levels, strict=False)), C
    what = "from {} on - below" if method == "cuts" else "{} - mean of those below"
    return [what.format(levels[i]) for i in range(1, k)], [(levels[i], None) for i in range(1, k)], C


def weights_of(
    levels: list, method: str | Mapping[str, Mapping[object, float]], baseline: object, factor: str
) -> tuple[list[str], list[tuple], np.ndarray]:
    k, at = len(levels), {v: i for i, v in enumerate(levels)}
    eye = np.eye(k)
    if isinstance(method, Mapping):
        C = np.zeros((len(method), k))
        for row, weights in zip(C, method.values(), strict=True):
            for name, weight in weights.items():
                row[_index(name, at, factor)] = weight
        return list(method), [(None, None)] * len(method), C
    if method == "pairwise":
        pairs = list(combinations(range(k), 2))
    elif method == "baseline":
        b = _index(baseline, at, factor)
        pairs = [(i, b) for i in range(k) if i != b]
    elif method in ORDERED:
        return _ordered(levels, method)
    elif method == "mean":
        return [f"{v} - mean" for v in levels], [(v, None) for v in levels], eye - 1 / k
    else:
        raise ValueError(
            f"method is {method!r}; choose pairwise, baseline, mean, {', '.join(ORDERED)} or a mapping of weights."
        )
    names = [f"{levels[i]} - {levels[j]}" for i, j in pairs]
    C = np.array([eye[i] - eye[j] for i, j in pairs]).reshape(len(pairs), k)
    return names, [(levels[i], levels[j]) for i, j in pairs], C


def _index(name: object, at: dict, factor: str) -> int:
    if name not in at:
        raise ValueError(f"{name!r} is no level of {factor}; choose one of {', '.join(map(str, at))}.")
    return int(at[name])
