"""The model matrix of a factorial study: terms, columns, rank, unconnected components.

A model is kept as its distinct cells (combinations of levels that occur) with their counts and mean responses, so its
cost grows with the cells and not with the runs. Every term has one indicator column for each combination that occurs:
the columns are redundant on purpose, and all degrees of freedom come from ranks, never from counting columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Term = tuple[str, ...]
Terms = str | Sequence[str]


def parse_model(model: str) -> tuple[str, list[str]]:
    """Split "clip_i ~ din * dout" into the metric and its terms; `a*b` means a + b + a:b.

    >>> parse_model("clip_i ~ din * dout + seed")
    ('clip_i', ['din', 'dout', 'seed', 'din:dout'])
    """
    left, tilde, right = model.partition("~")
    if not tilde or not left.strip() or not right.strip():
        raise ValueError(f"The model {model!r} is not of the form 'metric ~ factor + factor + factor:factor'.")
    return left.strip().strip("`"), [":".join(_quoted(name) for name in term) for term in parse_terms(right)]


def _quoted(name: str) -> str:
    return f"`{name}`" if re.search(r"[:*+~]", name) else name


def interactions(factors: Sequence[str], order: int = 2) -> list[str]:
    """All terms of the factors up to an order: main effects first, then pairs, and so on.

    >>> interactions(["din", "dout", "scale"], order=2)
    ['din', 'dout', 'scale', 'din:dout', 'din:scale', 'dout:scale']
    """
    return [":".join(c) for k in range(1, order + 1) for c in combinations(factors, k)]


def parse_terms(terms: Terms, columns: Iterable[object] = ()) -> list[Term]:
    """Terms as tuples of factor names, lower orders first as in R, each once; empty for the model of the mean alone.

    columns: of the frame; a term that is the name of one of them is that factor, whatever signs the name has. In a
    formula a name with such signs stands between backticks.

    >>> parse_terms(["lr", "a:b"], ["a:b", "lr"]), parse_terms("lr + `a+b`:c")
    ([('lr',), ('a:b',)], [('lr',), ('a+b', 'c')])
    """
    known = {str(c) for c in columns}
    parts = list(terms) if not isinstance(terms, str) else [terms] if terms in known else _summands(terms)
    found: dict[frozenset[str], Term] = {}
    for part in parts:
        text = part.strip()
        if text in known or part in known:
            name = part if part in known else text
            found.setdefault(frozenset([name]), (name,))
            continue
        if text in ("", "1"):
            continue
        text, quoted = _without_quotes(text)
        if not re.fullmatch(r"[^:*]+([:*][^:*]+)*", text):
            raise ValueError(f"The term {text!r} is not a factor or factors joined by ':' or '*'.")
        names = tuple(quoted.get(name.strip(), name.strip()) for name in re.split(r"[:*]", text))
        if "*" not in text and not known.issuperset(names):
            names = _of_columns(names, known) or names
        if len(set(names)) < len(names):
            raise ValueError(f"The term {text!r} holds a factor twice.")
        if "*" in text and ":" in text:
            raise ValueError(f"The term {text!r} mixes ':' and '*'; write it as separate terms.")
        for k in range(1 if "*" in text else len(names), len(names) + 1):
            for term in combinations(names, k):
                found.setdefault(frozenset(term), term)
    return sorted(found.values(), key=len)


def _of_columns(pieces: Sequence[str], known: set[str]) -> Term | None:
    """The pieces of a term between colons, joined again where only that gives names of columns; None where not."""
    if not pieces:
        return ()
    for k in range(len(pieces), 0, -1):
        name = ":".join(pieces[:k])
        if name in known and (rest := _of_columns(pieces[k:], known)) is not None:
            return (name, *rest)
    return None


def _summands(formula: str) -> list[str]:
    """The parts of a sum; a plus sign between backticks belongs to a name."""
    return re.findall(r"(?:`[^`]*`|[^+`])+", formula)


def _without_quotes(text: str) -> tuple[str, dict[str, str]]:
    """The text with each name between backticks replaced by a sign, and the names by their signs."""
    quoted: dict[str, str] = {}

    def keep(match: re.Match[str]) -> str:
        sign = f"\0{len(quoted)}"
        quoted[sign] = match[1]
        return sign

    return re.sub(r"`([^`]*)`", keep, text), quoted


def components(frame: pd.DataFrame, factors: Sequence[str]) -> pd.Series:
    """Number (0, 1, ...) of the connected part of the design each run lies in; -1 where a factor is missing.

    Two runs are connected when they share a level of a factor, directly or over other runs. In an additive model only
    differences between levels within one part are estimable (Searle, Linear Models, 1971, section 7.4). With more than
    two factors connectedness is necessary, not sufficient: `contrasts` checks each difference by itself.

    >>> from analysis import load_paper_heatmap
    >>> sorted(components(load_paper_heatmap(), ["din", "dout"]).value_counts())
    [1, 3, 16]
    """
    require_columns(frame, factors)
    codes = [factorize(frame[name])[0] for name in factors]
    whole = np.all([c >= 0 for c in codes], axis=0) if codes else np.ones(len(frame), bool)
    label = np.full(len(frame), -1)
    if whole.any() and codes:
        rows = np.flatnonzero(whole)
        offsets = np.cumsum([0] + [int(c.max()) + 1 for c in codes])
        # One node a run and one a level; an edge where the run has the level.
        level = np.concatenate([c[rows] + offset for c, offset in zip(codes, offsets, strict=False)])
        run = np.tile(np.arange(len(rows)), len(codes))
        size = len(rows) + int(offsets[-1])
        graph = coo_array((np.ones(len(level), np.int8), (run, len(rows) + level)), shape=(size, size))
        part = connected_components(graph, directed=False)[1][: len(rows)]
        # The largest part is 0; equal sizes in order of appearance of their smallest level.
        order = sorted(set(part), key=lambda k: (-np.sum(part == k), np.min(codes[0][rows][part == k])))
        label[rows] = np.array([order.index(k) for k in range(max(order) + 1)])[part]
    return pd.Series(label, index=frame.index, name="component")


@dataclass
class Factor:
    """A column of the design over the cells: level codes, and polynomial values where it enters as a trend."""

    name: str
    levels: list
    codes: np.ndarray  # (cells,)
    degree: int = 0  # 0: categorical


@dataclass
class Model:
    """Distinct cells of a design with counts and centred mean responses; see `build`."""

    metric: str
    terms: list[Term]
    factors: dict[str, Factor]
    weight: np.ndarray  # (cells,) runs in each cell
    mean: np.ndarray  # (cells,) mean of response - offset
    offset: float
    within: float  # sum of squares about the cell means
    n: int
    scale: float  # largest absolute response, for what counts as zero
    cell_of_run: np.ndarray  # (n,)
    rows: np.ndarray  # (n,) positions of the used runs in the frame
    response: np.ndarray  # (n,) response - offset
    notes: list[str] = field(default_factory=list)
    blocks: tuple[str, ...] = ()  # factors that are taken out first and join no parts of the design

    @property
    def zero(self) -> float:
        """Sums of squares up to here are rounding of the stored responses."""
        return 4 * self.n * (np.finfo(float).eps * self.scale) ** 2

    def contrasts(self, term: Term, sum_coded: bool = False) -> list[bool]:
        """For each factor of the term whether it is coded by contrasts: when its margin is in the model (R's rule)."""
        have: set[frozenset[str]] = {frozenset(t) for t in self.terms} | {frozenset()}
        return [self.factors[f].degree == 0 and frozenset(term) - {f} in have for f in term]

    def expected_df(self, term: Term) -> int:
        """Degrees of freedom the term would have if every combination of levels existed."""
        df = 1
        for name, contrast in zip(term, self.contrasts(term), strict=True):
            f = self.factors[name]
            df *= f.degree or len(f.levels) - contrast
        return df

    def columns(self, term: Term, raw: bool = False) -> tuple[np.ndarray, int, np.ndarray, np.ndarray]:
        """The term over the cells: column group of each cell (cells,), number of groups, values (cells, d) of the
        trends in that group, and the level codes (groups, categorical factors) each group stands for."""
        categorical = [self.factors[f] for f in term if not self.factors[f].degree]
        group = np.zeros(len(self.weight), np.int64)
        levels = np.zeros((1, 0), np.int64)
        if categorical:
            levels, group = unique_rows([f.codes for f in categorical])
        values = np.ones((len(self.weight), 1))
        for f in (self.factors[f] for f in term if self.factors[f].degree):
            values = (values[:, :, None] * trend_values(f, raw)[f.codes][:, None, :]).reshape(len(values), -1)
        return group, len(levels), values, levels


def build(
    frame: pd.DataFrame,
    metric: str,
    terms: Terms,
    numeric: Sequence[str] | Mapping[str, int] = (),
    block: str | Sequence[str] | None = None,
) -> Model:
    """The model `metric ~ block + terms` of a frame.

    numeric: factors that enter as a linear trend, or a mapping to the degree of their polynomial. Runs in which the
    metric or a used factor is missing or infinite are left out and counted in the notes.
    """
    blocks = [] if block is None else [block] if isinstance(block, str) else list(block)
    parsed = [t for t in parse_terms(terms, frame.columns) if t not in [(b,) for b in blocks]]
    parsed = [(b,) for b in blocks] + parsed
    names = list(dict.fromkeys(name for term in parsed for name in term))
    require_columns(frame, [metric, *names])
    if metric in names:
        raise ValueError(f"The metric {metric} is also a factor of the model.")
    degree = dict(numeric) if isinstance(numeric, Mapping) else dict.fromkeys(numeric, 1)
    if unknown := set(degree) - set(names):
        raise ValueError(f"numeric names {', '.join(sorted(unknown))}, which the terms do not use.")
    y = response_of(frame, metric)
    coded = {name: factorize(frame[name]) for name in names}
    ok = np.isfinite(y)
    for codes, _ in coded.values():
        ok &= codes >= 0
    rows = np.flatnonzero(ok)
    notes = []
    if len(rows) < len(frame):
        notes.append(f"{len(frame) - len(rows)} of {len(frame)} runs are left out: {metric} or a factor is missing.")
    if len(rows) == 0:
        raise ValueError(f"No run has a value of {metric} and of every factor ({', '.join(names) or 'none'}).")
    y = y[rows]
    offset = float(y.mean())
    d = y - offset  # exact to rounding for close values; then centre what rounding of the mean has left
    shift = float(d.mean())
    d, offset = d - shift, offset + shift
    combos, cell = unique_rows([coded[name][0][rows] for name in names]) if names else _one_cell(len(rows))
    weight = np.bincount(cell, minlength=len(combos)).astype(float)
    mean = np.bincount(cell, d, len(combos)) / weight
    mean += np.bincount(cell, d - mean[cell], len(combos)) / weight
    factors = {}
    for j, name in enumerate(names):
        used, codes = np.unique(combos[:, j], return_inverse=True)
        levels = [coded[name][1][k] for k in used]
        factors[name] = Factor(name, levels, codes.reshape(-1), _degree(name, levels, degree.get(name, 0), notes))
    return Model(
        metric, parsed, factors, weight, mean, offset, float(np.sum((d - mean[cell]) ** 2)), len(rows),
        float(np.abs(y).max()), cell, rows, d, notes, tuple(blocks),
    )  # fmt: skip


def trend_values(factor: Factor, raw: bool = False, at: float | None = None) -> np.ndarray:
    """(levels, degree): polynomials, orthonormal over the levels; raw: the values themselves (degree 1, scaled).

    at: the same polynomials at one value of the factor instead, (1, degree).
    """
    x = np.asarray(factor.levels, float)
    points = x if at is None else np.array([at])
    if raw and factor.degree == 1:
        return points[:, None] / (np.abs(x).max() or 1.0)
    center, width = x.mean(), np.ptp(x) or 1.0
    r = np.linalg.qr(np.vander((x - center) / width, factor.degree + 1, increasing=True))[1]
    if len(x) <= factor.degree:  # one level: the trend is the constant
        return np.ones((len(points), factor.degree))
    basis = np.linalg.solve(r.T, np.vander((points - center) / width, factor.degree + 1, increasing=True).T).T
    return basis[:, 1:]


def unique_rows(codes: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Distinct rows (k, len(codes)) of the code columns, sorted, and the index (n,) of each row in them."""
    key = codes[0].astype(np.int64)
    for column in codes[1:]:
        width = int(column.max()) + 1
        if int(key.max()) * width > 2**62:  # fold before the key overflows
            key = np.unique(key, return_inverse=True)[1]
        key = key * width + column
    _, first, index = np.unique(key, return_index=True, return_inverse=True)
    return np.stack([column[first] for column in codes], axis=1), index.reshape(-1)


def response_of(frame: pd.DataFrame, metric: str) -> np.ndarray:
    """The metric as floats (n,), or ValueError."""
    try:
        return frame[metric].to_numpy(dtype=float, na_value=np.nan)
    except (TypeError, ValueError):
        raise ValueError(f"The metric {metric} is not numeric.") from None


def _one_cell(n: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((1, 0), np.int64), np.zeros(n, np.int64)


def _degree(name: str, levels: list, degree: int, notes: list[str]) -> int:
    if degree and not all(isinstance(v, int | float | np.number) for v in levels):
        raise ValueError(f"The factor {name} has levels that are not numbers, so it has no trend.")
    if degree > len(levels) - 1 > 0:
        notes.append(f"{name} has {len(levels)} levels, so its trend has degree {len(levels) - 1}, not {degree}.")
    return min(degree, max(len(levels) - 1, 1)) if degree else 0


def factorize(column: pd.Series) -> tuple[np.ndarray, list]:
    if isinstance(column.dtype, pd.CategoricalDtype):
        return np.asarray(column.cat.codes), list(column.cat.categories)
    try:
        codes, levels = pd.factorize(column, sort=True)
    except TypeError:
        codes, levels = pd.factorize(column.map(str).where(column.notna()), sort=True)
    return np.asarray(codes), list(levels)


def require_columns(frame: pd.DataFrame, names: Iterable[str]) -> None:
    for name in names:
        if name not in frame:
            raise ValueError(f"The frame has no column {name!r}; it has {', '.join(map(str, frame.columns))}.")
