"""Whether factors matter in a race: F on the seeds that every design has, never on its unbalanced whole.

Designs that a race drops early keep few seeds, and which ones do depends on their scores; F on all runs of a race finds
factors too often (6 % at 5 % in simulation). The first two seeds of a race are complete by design.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

LEVELS = {2: 0.03, 3: 0.01, 4: 0.005, 6: 0.005}  # of the looks at so many complete seeds; 5 % together


def complete_seeds(used: pd.Series) -> int:
    """The number of seeds that every design has; used: the number of each."""
    return int(used.min()) if len(used) else 0


def factor_tests(
    frame: pd.DataFrame, metric: str, terms: Sequence[str], block: str, seeds: Sequence[object]
) -> pd.DataFrame:
    """F of each term at every look for which all designs have the seeds.

    Parameters
    ----------
    frame
        One row a run; all designs have all of `seeds`.
    metric
        The score.
    terms
        Of the additive model, tested by type II.
    block
        The column of the seeds.
    seeds
        The complete seeds, in the order of the race.

    Returns
    -------
    pandas.DataFrame
        One row a look and term: look, term, F, df, df_residual, p, p_holm (over the terms), p_gg (Greenhouse and
        Geisser's correction, for a single term), level and matters (whether p_holm is below the level of the look, at
        this look or one before).
    """
    from analysis.comparisons.multiplicity import adjust
    from analysis.variance.error_strata import repeated_measures
    from analysis.variance.table import anova

    rows, found = [], set()
    for look, level in LEVELS.items():
        if look > len(seeds):
            break
        runs = frame[frame[block].isin(list(seeds[:look]))]
        table = anova(runs, metric, [*terms], block=block)
        tested = [term for term in terms if table.loc[term, "F"] >= 0]
        holm = dict(zip(tested, adjust([float(table.loc[t, "p"]) for t in tested]), strict=True)) if tested else {}
        corrected = repeated_measures(runs, metric, terms[0], block) if len(terms) == 1 else None
        for term in tested:
            found |= {term} if holm[term] < level else set()
            rows.append({
                "look": look, "term": term, "F": float(table.loc[term, "F"]), "df": float(table.loc[term, "df"]),
                "df_residual": float(table.loc["residual", "df"]), "p": float(table.loc[term, "p"]),
                "p_holm": float(holm[term]),
                "p_gg": float("nan") if corrected is None else float(corrected["p_gg"].iloc[0]),
                "level": level, "matters": term in found,
            })  # fmt: skip
    columns = ["look", "term", "F", "df", "df_residual", "p", "p_holm", "p_gg", "level", "matters"]
    return pd.DataFrame(rows, columns=columns)
