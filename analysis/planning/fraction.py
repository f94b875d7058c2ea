"""Which runs of a full factorial to do when not all can be done, and which effects a set of runs can estimate.

`choose` picks a D-optimal subset of the runs that exist (placements make the factorial incomplete, so tables of
orthogonal arrays do not fit); `estimable` says beforehand what an analysis of some runs could and could not test.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.linear_model.design import Model, Term, Terms, build, parse_terms
from analysis.linear_model.solve import orthonormal
from analysis.variance.table import anova

_MARGIN = 1e-6  # an exchange must raise det by more than this share
_WORK = 1e9  # the fewer starts the larger the problem, where they differ little
_MANY, _KEPT = 20, 3  # levels above which those of a crossed factor are not all looked at, and how many are
_NOTHING = 1e-7  # a direction is shared by two spaces when the sine of the angle between them is below this


def choose(
    frame: pd.DataFrame, size: int, terms: Terms, seed: int = 0, starts: int = 10, what: str = "runs"
) -> tuple[np.ndarray, float]:
    """Positions (size,), sorted, of a D-optimal subset of the runs of a frame, and its D-efficiency.

    terms: the effects that matter, as for `anova`. The subset has the largest determinant of the information matrix
    X'X of this model that was found: of several random starts, each improved by exchanging the run that adds least
    for the one outside that adds most, as long as that helps (Fedorov, Theory of Optimal Experiments, 1972, with the
    update formulas of Cook & Nachtsheim, Technometrics 22 (1980) 315). X is an orthonormal basis of the columns of all
    runs: levels are coded by it without loss and terms that not even all runs can estimate do not count. The efficiency
    is (det(X'X of the subset) / det(X'X of all))^(1/rank), each X'X divided by its number of runs: 1 where the subset
    tells as much a run as the full factorial; for a full factorial that is the most any subset can reach.

    Raises ValueError where the model has more parameters than `size`; `what` its rows are called there. Equal arguments
    give the equal subset.

    >>> full = pd.DataFrame([(a, b, c) for a in "xyz" for b in "xyz" for c in "xyz"], columns=["a", "b", "c"])
    >>> rows, efficiency = choose(full, 9, ["a", "b", "c"])
    >>> round(efficiency, 6), full.iloc[rows].groupby(["a", "b"]).size().max()  # a Latin square
    (1.0, np.int64(1))
    """
    X = _basis(frame, terms)
    count, rank = X.shape
    if size >= count:
        return np.arange(count), 1.0
    if size < rank:
        raise ValueError(
            f"{size} {what} cannot estimate {' + '.join(':'.join(t) for t in parse_terms(terms))}, which has {rank} "
            f"parameters; take at least {rank} {what} or fewer terms."
        )
    random = np.random.default_rng(seed)
    starts = int(np.clip(_WORK / (count * rank * size), 1, starts))
    best, value = np.arange(size), -np.inf
    for _ in range(starts):
        rows, found = _exchange(X, _start(X, size, random))
        if found > value + _MARGIN:
            best, value = rows, found
    # X is orthonormal over all runs, so det(X'X) of all of them is 1.
    return np.sort(best), float(np.exp(value / rank) * count / size)


def estimable(frame: pd.DataFrame, terms: Terms) -> pd.DataFrame:
    """What an analysis of these runs can test: one row a term, and the residual, without any score being known.

    Columns df (degrees of freedom a type II test of the term has), expected (what it would have if all combinations
    were there), note (a sentence where less can be estimated) and aliased: terms of the model that the lost part goes
    with. attrs: rank, n, notes.

    >>> half = pd.DataFrame([(-1, -1, 1), (1, -1, -1), (-1, 1, -1), (1, 1, 1)], columns=["a", "b", "c"])  # c = a b
    >>> estimable(half, ["a", "b", "c", "a:b"])["aliased"].to_dict()
    {'a': '', 'b': '', 'c': 'a:b', 'a:b': 'c', 'residual': ''}
    """
    runs, crossed, thinned = len(frame), None, 0
    if (many := _crossed_factor(frame, terms)) is not None:
        crossed, thinned = many, frame[many].nunique() - _KEPT
        frame = frame[frame[many].isin(frame[many].unique()[:_KEPT])]
    # Degrees of freedom do not depend on scores; these give each F a usual size.
    placeholder = frame.assign(**{"(score)": np.random.default_rng(0).standard_normal(len(frame))})
    table = anova(placeholder, "(score)", terms)
    model = build(placeholder, "(score)", terms)
    spaces = {term: _columns(model, [term]) for term in model.terms}
    rows = []
    for term in model.terms:
        name = ":".join(term)
        more = thinned if name == crossed else 0
        df, expected = float(table.loc[name, "df"]) + more, model.expected_df(term) + more
        partners = _partners(model, term, spaces) if df < expected else []
        rows.append({"term": name, "df": df, "expected": float(expected), "note": table.loc[name, "note"],
                     "aliased": ", ".join(partners)})  # fmt: skip
    out = pd.DataFrame(rows, columns=["term", "df", "expected", "note", "aliased"]).set_index("term")
    out["note"] = out["note"].where(out["df"] < out["expected"], "")
    rank = int(table.attrs["rank"]) + thinned
    residual = {"df": float(runs - rank), "expected": float("nan"), "note": "", "aliased": ""}
    out.loc["residual"] = pd.Series(residual)
    notes = [note for note in table.attrs["notes"] if "parts that share no level" in note]
    out.attrs = {"rank": rank, "n": runs, "notes": notes}
    return out


def _crossed_factor(frame: pd.DataFrame, terms: Terms) -> str | None:
    """A factor of many levels, such as the seed, that stands in no interaction and is crossed with all cells of others.

    A few of its levels then tell all there is: each further one adds one degree of freedom, and to itself only.
    """
    parsed = parse_terms(terms)
    names = list(dict.fromkeys(name for term in parsed for name in term))
    cells = frame[names].drop_duplicates()
    for name in names:
        levels, others = cells[name].nunique(), [other for other in names if other != name]
        if levels <= _MANY or any(name in term and len(term) > 1 for term in parsed) or cells[name].isna().any():
            continue
        beside = len(cells[others].drop_duplicates()) if others else 1
        if len(cells) == levels * beside:
            return name
    return None


def _columns(model: Model, terms: Sequence[Term]) -> np.ndarray:
    """Indicator columns (runs, k) of these terms for every run, and of the mean where there are no terms."""
    blocks = []
    for term in terms or [()]:
        group, groups, _, _ = model.columns(term)
        blocks.append(np.eye(groups)[group][model.cell_of_run])
    return np.concatenate(blocks, axis=1)


def _basis(frame: pd.DataFrame, terms: Terms) -> np.ndarray:
    """Orthonormal basis (runs, rank) of the model's columns over all runs."""
    model = build(frame.assign(**{"(score)": 0.0}), "(score)", terms)
    if len(model.rows) < len(frame):
        raise ValueError("Every run needs a level of every factor for a fraction to be chosen.")
    return orthonormal(_columns(model, [(), *model.terms]))


def _partners(model: Model, term: Term, spaces: dict[Term, np.ndarray]) -> list[str]:
    """Other terms whose columns share a direction with this term's, beyond what both share with their margins."""
    found = []
    for other, columns in spaces.items():
        if set(term) <= set(other) or set(other) < set(term):
            continue
        inner = [t for t in [(), *spaces] if set(t) < set(term) or set(t) < set(other)]
        margins = orthonormal(_columns(model, inner))
        ours, theirs = orthonormal(spaces[term], margins), orthonormal(columns, margins)
        if min(ours.shape[1], theirs.shape[1]) == 0:
            continue
        cosine = np.linalg.svd(ours.T @ theirs, compute_uv=False)[0]
        if 1 - cosine**2 < _NOTHING:
            found.append(":".join(other))
    return found


def _start(X: np.ndarray, size: int, random: np.random.Generator) -> np.ndarray:
    """A random subset (size,) of full rank: pivots of the rows in a random order first, then whatever comes."""
    count, rank = X.shape
    order = random.permutation(count)
    independent: list[int] = []
    basis = np.zeros((0, rank))
    for i in order:
        rest = X[i] - basis.T @ (basis @ X[i])
        rest -= basis.T @ (basis @ rest)
        length = float(np.linalg.norm(rest))
        if length > 1e-3 * float(np.linalg.norm(X[i])):
            independent.append(int(i))
            basis = np.vstack([basis, rest / length])
            if len(independent) == rank:
                break
    chosen = set(independent)
    more = [int(i) for i in order if int(i) not in chosen][: size - len(independent)]
    return np.array([*independent, *more])


def _exchange(X: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, float]:
    """The subset improved by best single exchanges until none helps, and its log det X'X.

    Exchanging run i for j multiplies det by (1 + d_jj)(1 - d_ii) + d_ij^2, with d_ij = x_i' (X'X)^-1 x_j.
    """
    inside = np.zeros(len(X), bool)
    inside[rows] = True

    improved = True
    while improved:
        improved = False
        Z = X @ np.linalg.inv(X[inside].T @ X[inside])  # (X'X)^-1 x_j for every run j (count, rank)
        d = np.einsum("ij,ij->i", X, Z)
        for i in np.flatnonzero(inside):  # each run of the subset in turn, against all outside at once
            gain = np.where(inside, 0.0, (1 + d) * (1 - d[i]) + (X @ Z[i]) ** 2)
            j = int(np.argmax(gain))
            if gain[j] <= 1 + _MARGIN:
                continue
            improved = True
            inside[i], inside[j] = False, True
            for run, sign in ((j, 1.0), (i, -1.0)):  # in this order the matrix stays regular
                cross = X @ Z[run]
                share = sign / (1 + sign * d[run])
                Z = Z - share * np.outer(cross, Z[run])
                d = d - share * cross**2
    return np.flatnonzero(inside), float(np.linalg.slogdet(X[inside].T @ X[inside])[1])
