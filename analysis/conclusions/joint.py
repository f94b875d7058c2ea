"""What several factors say together, for the first paragraph of a report: which matter, and which act together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from analysis.comparisons.family import over_family
from analysis.conclusions.claims import Claim, Part
from analysis.conclusions.words import f_words, listed, name_of, objection, omega_words, start, test_words
from analysis.linear_model.units import observations
from analysis.runs.load import factor_columns
from analysis.runs.roles import is_of_records
from analysis.variance.table import anova
from analysis.variance.verdict import ALPHA, LEVEL, verdicts

DERIVED = ("mid_dim", "lr", "steps")  # often set for each placement, method or activation: then no factors themselves
PARAMS = "params"  # the number of parameters, from which a width is worked out
NAMED = ("placement", "din", "dout", "activation", "init", "method")  # levels that need no name of their factor
_LEAST_DF = 5  # of the residual, below which no interaction is looked for
_MOST_PAIRS = 28  # of eight factors
METHOD = "Does a factor matter"
ADJUSTED_FOR = {
    1: "each term beyond those before it",
    2: "each term beyond all others that do not contain it",
    3: "each term beyond all others, also those that contain it",
}


def own_factors(frame: pd.DataFrame) -> list[str]:
    """The factors of these runs without those that only follow another one, and din and dout as parts of placement.

    Runs without a placement among others that have one are references: what sets only them apart is no factor.

    >>> import analysis
    >>> own_factors(analysis.load_paper_heatmap())
    ['placement']
    """
    varying = factor_columns(frame) if len(frame) else []
    if is_of_records(frame):  # tasks have scores of their own, which are not compared
        varying = [f for f in varying if f != "task"]
    others = [f for f in varying if f not in DERIVED]
    kept = [f for f in varying if f in others or not _follows(frame, f, others)]
    if "placement" in kept and frame["placement"].isna().any():
        placed = frame[frame["placement"].notna()]
        kept = [f for f in kept if placed[f].nunique() > 1]
    seen = observations(frame, kept)
    return [f for f in kept if f not in seen and ("placement" not in kept or f not in ("din", "dout"))]


def _follows(frame: pd.DataFrame, factor: str, others: Sequence[str]) -> bool:
    """Whether each level of one of the others has one level of `factor`, which then tells nothing beyond it.

    A width that was worked out from a number of parameters follows from this number and the rest of the design.
    """
    deciding = [[o] for o in others]
    if factor == "mid_dim" and PARAMS in others and is_of_records(frame):
        deciding.append(list(others))
    return any((frame.groupby(o, dropna=False)[factor].nunique(dropna=False) == 1).all() for o in deciding)


def factors_of(terms: Sequence[str]) -> list[str]:
    """The factors that the terms of a model are made of."""
    return list(dict.fromkeys(name for term in terms for name in term.split(":")))


def designs(frame: pd.DataFrame, factors: Sequence[str]) -> pd.Series:
    """A name for each run's combination of levels, as "attn2o-ffni, relu, scale 2".

    >>> designs(pd.DataFrame({"placement": ["attn2o-ffni"], "scale": [2.0]}), ["placement", "scale"]).tolist()
    ['attn2o-ffni, scale 2']
    """
    words = [
        frame[f].map(lambda level, f=f: _level(level) if _is_named(f, level) else f"{f} {_level(level)}")
        for f in factors
    ]
    return pd.Series([", ".join(parts) for parts in zip(*words, strict=True)], index=frame.index, dtype=str)


def _is_named(factor: str, level: object) -> bool:
    return factor in NAMED and isinstance(level, str)


def _level(level: object) -> str:
    return f"{level:g}" if isinstance(level, float) else str(level)


def mostly_repeated(frame: pd.DataFrame, design: str) -> bool:
    """Whether most designs were run more than once: else designs are too many to be told apart one by one."""
    return bool(frame.groupby(design).size().median() > 1)


def leaves_residual(frame: pd.DataFrame, metric: str, terms: Sequence[str], block: str | None) -> bool:
    """Whether a residual is left beside the terms."""
    return bool(anova(frame, metric, list(terms), block=block).loc["residual", "df"] > 0)


def acting_together(frame: pd.DataFrame, metric: str, factors: Sequence[str], block: str | None) -> pd.DataFrame | None:
    """Tests of every pair of factors for an interaction, where replicates leave a residual; else None.

    As `verdicts`, for the pairs that can be tested, in a model of all main effects and all pairs; p_holm is over the
    pairs. Only where designs were run more than once: what a design's single run deviates by is no interaction.
    """
    pairs = [f"{a}:{b}" for a, b in combinations(factors, 2)]
    if len(factors) < 2 or len(pairs) > _MOST_PAIRS or frame.groupby(list(factors), dropna=False).size().max() < 2:
        return None
    table = anova(frame, metric, [*factors, *pairs], block=block)
    if not table.loc["residual", "df"] >= _LEAST_DF:
        return None
    found = verdicts(frame, metric, [*factors, *pairs], block).loc[pairs]
    found = found[found["F"] >= 0].copy()
    if not len(found):
        return None
    found["p_holm"] = over_family(found["p"].to_numpy(float))
    found["p_claim"] = over_family(found[["p", "p_wild", "p_seed"]].astype(float).max(axis=1).to_numpy())
    return found


def aliased(frame: pd.DataFrame, factors: Sequence[str]) -> list[str]:
    """Sentences on main effects that a fraction of the factorial cannot tell from interactions of two other factors."""
    from analysis.planning.fraction import estimable

    pairs = [f"{a}:{b}" for a, b in combinations(factors, 2)]
    cells = len(frame.groupby(list(factors), dropna=False))
    if len(factors) < 3 or len(pairs) > _MOST_PAIRS or cells == np.prod([frame[f].nunique() for f in factors]):
        return []
    table = estimable(frame[list(factors)].drop_duplicates(), [*factors, *pairs])
    found = []
    for factor in factors:
        partners = [t for t in str(table.loc[factor, "aliased"]).split(", ") if ":" in t]
        if partners:
            found.append(f"{factor} with {listed([' by '.join(t.split(':')) for t in partners])}")
    if not found:
        return []
    return [
        f"Aliased in this fraction, so that the runs cannot tell a factor from the interaction: {', '.join(found)}."
    ]


def default_terms(frame: pd.DataFrame, metric: str, factors: Sequence[str], block: str | None) -> list[str]:
    """The terms of the model where none were asked for: all factors, and the pairs that are found to act together."""
    pairs = acting_together(frame, metric, factors, block)
    found = [] if pairs is None else [str(t) for t in pairs.index[pairs["p_claim"] < ALPHA]]
    return [*factors, *found]


def explained(frame: pd.DataFrame, metric: str, terms: Sequence[str], block: str | None, type: int = 2) -> Part:
    """Each term of the joint model: what matters, largest share first, then what does not show."""
    table = verdicts(frame, metric, terms, block, type)
    tested = table[table["F"] >= 0].sort_values("omega2_partial", ascending=False, kind="stable")
    family = len(tested)
    found = tested[tested["p_claim"] < ALPHA]
    disputed = tested[(tested["p"] < ALPHA) & ~(tested["p_claim"] < ALPHA)]
    rest = tested[~(tested["p"] < ALPHA)]
    said = _found(found, metric, terms, block, family, type) if len(found) else []
    for term, row in disputed.iterrows():
        said.append(f"Undecided: {_name(term)} ({f_words(row)}, but {objection(row, family)}).")
    if len(rest):
        tests = "; ".join(f"{_name(str(term))} ({f_words(row)})" for term, row in rest.iterrows())
        names = listed(map(_name, rest.index), "or")
        units = table["units"].min()
        runs = f"These {units:.0f} runs" if units == table["units"].max() else "These runs"
        few = f"{runs} cannot tell whether {names} matters for {metric}: {tests}."
        said.append(f"Not shown to matter: {tests}." if said else few)
    lost = [_name(t) for t in table.index if t not in tested.index]
    said += [f"These runs cannot test {listed(lost, 'or')}."] if lost else []
    if lost and type == 3:
        said += [str(n) for n in table.loc[[t for t in table.index if t not in tested.index], "note"] if n]
    if type != 2:
        said.append(f"Tests of the joint model are of type {'I' * type}, {ADJUSTED_FOR[type]}.")
    return Part(said, [claim_of(str(t), row, metric) for t, row in tested.iterrows()])


def _found(
    found: pd.DataFrame, metric: str, terms: Sequence[str], block: str | None, family: int, type: int
) -> list[str]:
    """What matters: the term with the largest share, the others, and which factors act together."""
    first = str(found.index[0])
    row = found.loc[first]
    together = [listed(str(t).split(":")) for t in found.index if ":" in str(t)]
    if ":" in first:
        head = f"{together[0]} act together on {metric}, with an estimated share of"
    elif len(factors_of(terms)) > 1:
        head = f"Of {listed(factors_of(terms))}, {_name(first)} matters for {metric}, with the largest estimated share:"
    else:
        head = f"{_name(first)} matters for {metric}, with an estimated share of"
    others = f"the {'terms before it' if type == 1 else 'other terms'}{f' and the {block}' if block else ''} leave"
    said = [
        f"{head} {omega_words(row)} of the variance that {others} (omega squared, 90 % interval; "
        f"{test_words(row, family)})."
    ]
    more = [f"{_name(t)}, {omega_words(r)} ({test_words(r, family)})" for t, r in found.iloc[1:].iterrows()]
    said += [f"What matters, too: {'; '.join(more)}."] if more else []
    if together:
        pairs = f"{together[0]} act together" if len(together) == 1 else f"factors act together ({'; '.join(together)})"
        said.append(
            f"As {pairs}, what one of them does depends on the other, and a test of one alone is about its "
            f"average over the other{_weights(type)}."
        )
    return said


def _weights(type: int) -> str:
    """Over which levels a main effect beside its interaction is averaged; in balanced studies it is all the same."""
    return ", each of its levels counted alike" if type == 3 else ""


def claim_of(term: str, row: pd.Series, metric: str) -> Claim:
    """The claim on a term that was tested."""
    verdict = "yes" if row["p_claim"] < ALPHA else "undecided"
    kind = "acts together" if ":" in term else "matters"
    text = f"{start(name_of(term))} {'matters' if verdict == 'yes' else 'cannot be shown to matter'} for {metric}"
    return Claim(kind, term, verdict, text, row["omega2_partial"], row["omega2_low"], row["omega2_high"], LEVEL,
                 row["p_claim"], int(row["units"]), METHOD)  # fmt: skip


def _name(term: object) -> str:
    parts = str(term).split(":")
    return parts[0] if len(parts) == 1 else f"the interaction of {listed(parts)}"
