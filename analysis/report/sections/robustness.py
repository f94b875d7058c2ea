"""F beside tests that assume less, for every term: do they agree, and where do they not?"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.linear_model.units import strata_of
from analysis.report.study import Study
from analysis.report.tables import Column, Table, make_table
from analysis.report.words import factor_words, listing, number, p_cell
from analysis.variance.verdict import ALPHA, verdicts

PERMUTATIONS = 1999
_WHAT = {
    "p_wild": "wild: signs of residuals flipped, for unequal variances",
    "p_seed": "against seeds: the factor's own change from seed to seed as the error",
    "p_permutation": "permutation: residuals permuted within seeds, for errors of any one distribution",
    "p_hc3": "hc3: covariance for unequal variances",
    "p_friedman": "Friedman: ranks within complete seeds",
}
LEAST = 5  # runs of a level for hc3: with 3 runs of 20 levels it rejects half of all studies without cause


def robust_table(study: Study, terms: list[str], out: Path, type: int = 2) -> Table:
    """p of F, of the wild bootstrap, against the seeds, of permutations within seeds, hc3 and Friedman."""
    runs, block = study.modelled, study.block
    frame = verdicts(runs, study.metric, terms, block, type)[["F", "p", "p_wild", "p_seed"]]
    frame = frame.join(_companions(study, terms, type)).reset_index(names="term")
    # The Greenhouse-Geisser p stands beside but opposes nothing: with few seeds it is far too large.
    tests = [c for c in ("p_wild", "p_seed", "p_permutation", "p_hc3", "p_friedman", "p_hf") if c in frame]
    split = [
        factor_words(row["term"])
        for row in frame.to_dict("records")
        if len({row[c] < ALPHA for c in ["p", *tests] if row[c] == row[c]}) > 1
    ]
    notes = [f"The tests disagree at 5% on {listing(split)}." if split else "All tests agree at 5%."]
    if "p_hc3" not in frame or frame["p_hc3"].isna().any():
        notes.append(f"hc3 is left out where a level has fewer than {LEAST} runs: there it is far too liberal.")
    shown = [words for column, words in _WHAT.items() if column in frame and frame[column].notna().any()]
    caption = f"p of each term by tests that assume less than F. {'; '.join(shown)}."
    if coarse := sorted(set(frame.get("coarse", pd.Series(dtype=str)).dropna())):
        notes.append(f"Permutations and ranks are left out for {listing(map(factor_words, coarse))}: with so few "
                     f"{block}s their p cannot fall below 5% whatever the runs are.")  # fmt: skip
    if "p_gg" in frame and frame["p_gg"].notna().any():
        caption += (
            f" HF and GG: F against the change from {block} to {block}, with degrees of freedom for differences that "
            "vary unequally (Huynh-Feldt, Greenhouse-Geisser)."
        )
        if (frame["n"] <= frame["df"]).any():
            notes.append(f"GG is far too cautious here, as {block}s are fewer than levels; HF is the one to read.")

    def p(head: str) -> Column:
        return Column(head, lambda v: p_cell(float(str(v))))

    return make_table("robust", caption, pd.DataFrame(frame), {
        "term": Column("term", lambda v: factor_words(str(v)), numeric=False),
        "F": Column("F", lambda v: number(v, 2)),
        "p": p("F: p"), "p_wild": p("wild"), "p_seed": p("against seeds"), "p_permutation": p("permutation"),
        "p_hc3": p("hc3"), "p_friedman": p("Friedman"), "p_hf": p("HF"), "p_gg": p("GG"),
    }, out / "tables", tuple(notes))  # fmt: skip


def _companions(study: Study, terms: list[str], type: int) -> pd.DataFrame:
    """Permutation, hc3 and Friedman of each term, in the stratum it is tested in."""
    from analysis import friedman, permutation, robust_anova

    rows: dict[str, dict[str, Any]] = {}
    for stratum in strata_of(study.modelled, study.metric, terms, study.block):
        data, block = stratum.frame, stratum.block
        shuffled = permutation(data, study.metric, stratum.terms, block=block, n_permutations=PERMUTATIONS, type=type)
        white = None if type == 1 else robust_anova(data, study.metric, stratum.terms, block=block, type=type)
        for term in stratum.terms:
            few = _least_p(data, term, block) >= ALPHA
            rows[term] = {"coarse": term} if few else {"p_permutation": shuffled.loc[term, "p"]}
            if white is not None and data.groupby(term.split(":")).size().min() >= LEAST:
                rows[term]["p_hc3"] = white.loc[term, "p"]
            if block == "seed" and len(stratum.terms) == 1 and not few:
                rows[term]["p_friedman"] = friedman(data, study.metric, term, block).loc[term, "p"]
        if block is not None and not stratum.within:
            _add_sphericity(rows, data, study.metric, stratum.terms, block, type)
    return pd.DataFrame.from_dict(rows, orient="index")


def _least_p(data: pd.DataFrame, term: str, block: str | None) -> float:
    """The smallest p that permutations within complete blocks can give a factor: one arrangement among all."""
    if block is None or ":" in term:
        return 0.0
    levels, blocks = data[term].nunique(), data[block].nunique()
    if len(data) != levels * blocks:
        return 0.0
    return float(math.factorial(levels)) ** (1 - blocks)


def _add_sphericity(
    rows: dict[str, dict[str, Any]], data: pd.DataFrame, metric: str, terms: list[str], block: str, type: int
) -> None:
    from analysis import sphericity

    if any(block in term.split(":") for term in terms):
        return
    table = sphericity(data, metric, terms, block, type)
    for term in terms:
        if table.loc[term, "p_hf"] == table.loc[term, "p_hf"]:
            rows[term] |= table.loc[term, ["p_hf", "p_gg", "gg", "hf", "df", "n"]].to_dict()
