"""Over which tests the p values of claims are adjusted: the terms of a model, these in all scores, or none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import numpy as np

from analysis.comparisons.multiplicity import adjust

FAMILIES = ("terms", "scores", "none")


@dataclass(frozen=True)
class Family:
    """kind: one of FAMILIES; scores: how many scores the page has."""

    kind: str = "terms"
    scores: int = 1

    @property
    def head(self) -> str:
        """The head of the column of adjusted p values."""
        return {"terms": "Holm", "scores": "Holm × scores", "none": "not adjusted"}[self.kind]

    @property
    def method(self) -> str:
        """How p is adjusted, for a sentence."""
        if self.kind == "scores":
            return f"Holm's adjustment over the terms, times {self.scores} scores"
        return "Holm's adjustment" if self.kind == "terms" else "no adjustment"


_family: ContextVar[Family] = ContextVar("family of tests", default=Family())  # noqa: B039 (frozen)


def current() -> Family:
    return _family.get()


@contextmanager
def family(kind: str, scores: int = 1) -> Iterator[Family]:
    """Within this context claims are adjusted over this family of tests.

    Parameters
    ----------
    kind
        "terms": Holm over the terms of a model (or over its pairs of factors), the default everywhere. "scores": that,
        times the number of scores (Bonferroni), so that all claims on all scores hold together. "none": no adjustment;
        each test has its own error rate.
    scores
        How many scores there are.

    Raises
    ------
    ValueError
        For another kind.
    """
    if kind not in FAMILIES:
        raise ValueError(f"family is {kind!r}; choose {', '.join(FAMILIES)}.")
    token = _family.set(Family(kind, max(scores, 1)))
    try:
        yield _family.get()
    finally:
        _family.reset(token)


def over_family(p: np.ndarray) -> np.ndarray:
    """p values of the terms of one model, adjusted over the current family; missing ones stay missing.

    >>> with family("scores", 3):
    ...     over_family(np.array([0.01, 0.2])).round(3).tolist()
    [0.06, 0.6]
    """
    now = current()
    if now.kind == "none":
        return np.asarray(p, float)
    return np.minimum(adjust(np.asarray(p, float), "holm") * (now.scores if now.kind == "scores" else 1), 1.0)
