"""Analysis of variance of runs that share trainings: some terms are tested between units, the others within them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pandas as pd

from analysis.linear_model.units import UNIT, Stratum

BETWEEN = "residual between units"


def _is_whole(frame: pd.DataFrame, term: str, df: float) -> bool:
    """Whether a term has all degrees of freedom it can have: within units, factors between them have no main effect."""
    names = term.split(":")
    return len(names) > 1 and df == math.prod(frame[name].nunique() - 1 for name in names)


def split_table(strata: Sequence[Stratum], table_of: Callable[[Stratum], pd.DataFrame]) -> pd.DataFrame:
    """One table of several strata, each tested against its own residual.

    Parameters
    ----------
    strata
        As `units.strata_of` gives them: between units, then within.
    table_of
        The analysis of variance of one stratum, as `anova` returns it.

    Returns
    -------
    pandas.DataFrame
        As `anova`; the row "residual between units" is what the terms between units are tested against, the last row
        "residual" what the terms within units are. Sums of squares between units are on the scale of rows (times the
        rows of a unit, on average), so that a complete study's table adds up. attrs["strata"]: term -> between or
        within.

    References
    ----------
    Montgomery, Design and Analysis of Experiments (2017), ch. 14.5; as R's aov(y ~ terms + Error(unit)).
    """
    rows = sum(s.units for s in strata if s.within) or strata[0].units
    parts: list[pd.DataFrame] = []
    where: dict[str, str] = {}
    aliased: dict[str, int] = {}
    notes: list[str] = []
    for stratum in strata:
        table = table_of(stratum)
        notes += [note for note in table.attrs["notes"] if note not in notes]
        aliased |= {k: v for k, v in table.attrs["aliased"].items() if k != UNIT}
        if stratum.within:
            table = table.drop(index=UNIT)
            whole = [t for t in table.index if _is_whole(stratum.frame, str(t), table.loc[t, "df"])]
            notes = [note for note in notes if note not in set(table.loc[whole, "note"])]
            table.loc[whole, "note"] = ""
            aliased = {term: lost for term, lost in aliased.items() if term not in whole}
        else:
            table[["sum_sq", "mean_sq"]] *= rows / stratum.units
            table = table.rename(index={"residual": BETWEEN})
        where |= {str(t): "within" if stratum.within else "between" for t in table.index}
        attrs, units = table.attrs, stratum.units
        table["units"] = float(units)
        parts.append(table)
    out = pd.concat(parts)
    out.index.name = "term"
    if len(strata) == 1 and not strata[0].within:
        out = out.rename(index={BETWEEN: "residual"})
    total = out["sum_sq"].sum()
    out["eta2"] = out["sum_sq"] / total if total > 0 else float("nan")
    out.loc[[name for name in (BETWEEN, "residual") if name in out.index], "eta2"] = float("nan")
    between = next((s for s in strata if not s.within), None)
    if between is not None:
        terms = ", ".join(between.terms)
        notes.insert(0, f"Tested on {between.units} units, as rows of one unit share a training or a run: {terms}.")
    inner = next((s for s in strata if s.within), None)
    if inner is not None:
        notes.insert(1, f"Tested within units, on {inner.units} rows: {', '.join(inner.terms)}.")
    out.attrs = {**attrs, "n": rows, "strata": where, "aliased": aliased, "notes": notes}
    return out
