"""Random effects: what the tests say where seeds, subjects or folds are a sample of those that could have been."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from analysis.report.page import Section, TableBlock, Text
from analysis.report.study import Study
from analysis.report.tables import Column, make_table
from analysis.report.words import factor_words, listing, number, p_cell
from analysis.runs.asked import column_named


def mixed_section(study: Study, out: Path, random: Sequence[str]) -> Section | None:
    """F of each term in a mixed model with the asked random effects; None where none are asked.

    random: columns, or columns joined by ":", each a grouping with its own random intercept.
    """
    if not random:
        return None
    from analysis import mixed

    columns = [str(c) for c in study.modelled.columns]
    groups = [":".join(column_named(part, columns) for part in _parts(group, columns)) for group in random]
    if "" in groups:
        raise ValueError("--random names columns, such as seed or seed:model.")
    fixed = [term for term in study.model or study.terms if term not in groups]
    if not fixed:
        raise ValueError(
            f"--random {','.join(random)} leaves no factor to test; the factors are {listing(study.factors)}."
        )
    table = mixed(study.modelled, study.metric, fixed, groups, df="kenward-roger")
    shares = [f"{factor_words(name)} {share:.0%}" for name, share in table.attrs["icc"].items()]
    said = (
        f"With {listing(map(factor_words, groups))} as random, the variance that the factors leave is shared out as "
        f"{listing(shares)}."
    )
    written = make_table("mixed", f"Mixed model of {study.words.label}: F by Kenward and Roger.",
                         table.reset_index(names="term"), {
        "term": Column("term", lambda v: factor_words(str(v)), numeric=False),
        "F": Column("F", lambda v: number(v, 2)),
        "df": Column("df", lambda v: number(v, 0)),
        "df_residual": Column("residual df", lambda v: number(v, 1)),
        "p": Column("p", lambda v: p_cell(float(str(v)))),
    }, out / "tables", tuple(table.attrs.get("notes", [])))  # fmt: skip
    return Section("mixed", "With random effects", [Text(said), TableBlock(written)])


def _parts(group: str, columns: Sequence[str]) -> list[str]:
    return [group] if group in columns else [part.strip() for part in group.split(":")]
