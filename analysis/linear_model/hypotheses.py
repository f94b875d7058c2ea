"""What a term of a model adds to which other terms: the hypotheses of types I, II and III."""

from __future__ import annotations

import numpy as np

from analysis.linear_model.design import Model, Term
from analysis.linear_model.solve import orthonormal, run_columns


def sum_coding(model: Model, term: Term, levels: np.ndarray) -> np.ndarray:
    """Matrix (columns of the term, coded columns) from indicator to sum-to-zero coding, by R's rule for margins."""
    flags = dict(zip(term, model.contrasts(term), strict=True))
    code = np.ones((len(levels), 1))
    for j, name in enumerate(f for f in term if not model.factors[f].degree):
        k = len(model.factors[name].levels)
        table = np.vstack([np.eye(k - 1), -np.ones(k - 1)]) if flags[name] else np.eye(k)
        code = (code[:, :, None] * table[levels[:, j]][:, None, :]).reshape(len(levels), -1)
    trends = int(np.prod([model.factors[f].degree for f in term if model.factors[f].degree] or [1]))
    return np.kron(code, np.eye(trends))


def run_bases(model: Model, term: Term, type: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Orthonormal bases over the runs of what a term is adjusted for, of what it adds, and of the rest of the model.

    Parameters
    ----------
    type
        1: the term after those before it. 2: after all that do not contain it. 3: after all others, in sum-to-zero
        coding; where empty cells make that hypothesis not estimable nothing is added.

    Returns
    -------
    tuple of numpy.ndarray
        Three arrays (n, k), orthonormal and orthogonal to each other.
    """
    if type == 3 and any(set(term) < set(t) for t in model.terms):
        return _type3(model, term)
    at = model.terms.index(term)
    if type == 1:
        before, after = model.terms[:at], model.terms[at + 1 :]
    else:
        before = [t for t in model.terms if t != term and not set(term) < set(t)]
        after = [t for t in model.terms if set(term) < set(t)]
    base = orthonormal(np.concatenate([run_columns(model, t) for t in [(), *before]], axis=1))
    added = orthonormal(run_columns(model, term), base)
    both = np.concatenate([base, added], axis=1)
    rest = [run_columns(model, t) for t in after]
    return base, added, orthonormal(np.concatenate(rest, axis=1), both) if rest else both[:, :0]


def _type3(model: Model, term: Term) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    coded = {t: run_columns(model, t) @ sum_coding(model, t, model.columns(t)[3]) for t in model.terms}
    others = [run_columns(model, ()), *(x for t, x in coded.items() if t != term)]
    base = orthonormal(np.concatenate(others, axis=1))
    added = orthonormal(coded[term], base)
    if added.shape[1] < coded[term].shape[1]:
        added = added[:, :0]
    both = np.concatenate([base, added], axis=1)
    return base, added, orthonormal(np.concatenate([run_columns(model, t) for t in model.terms], axis=1), both)
