"""The registered question, term by term, and what else the page tests."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from analysis.comparisons.family import family
from analysis.linear_model.design import parse_terms
from analysis.planning.registered import Registration
from analysis.report.page import Section, TableBlock, Text
from analysis.report.registered import when
from analysis.report.study import Study
from analysis.report.tables import Column, make_table
from analysis.report.words import factor_words, number, p_cell


def registered_section(study: Study, out: Path) -> Section | None:
    """The registered terms with p against the registered alpha, divided by the looks; other terms as exploratory."""
    found = study.registration
    if found is None:
        return None
    question = found.question
    runs, alpha = study.modelled, question.alpha / question.looks
    text = (
        f"Registered on {when(found)}: score {question.score}, {'larger' if question.maximize else 'smaller'} is "
        f"better; factors {', '.join(question.factors)}; model {question.model or 'the main effects'}; alpha "
        f"{question.alpha:g} over {question.looks} {'look' if question.looks == 1 else 'looks'}, so {alpha:.3g} at "
        f"each (Bonferroni). Registered plan: {len(found.runs)} runs. SHA-256 of the registration: {found.digest}."
    )
    if not found.in_time:
        text += f" By then {found.ended} runs had ended: a question asked after results is not confirmatory."
    if study.metric != question.score:
        return Section("registered", "What was registered", [Text(f"{text} This page is of another score.")])
    table = make_table(
        "registered",
        "Each term, and whether it was registered. p is the largest of F, wild bootstrap and F against seeds, after "
        "Holm's adjustment over the terms.",
        _terms(study, runs, found, alpha),
        {
            "term": Column("term", lambda v: factor_words(str(v)), numeric=False),
            "registered": Column("registered", numeric=False),
            "F": Column("F", lambda v: number(v, 2)),
            "p_claim": Column("p", lambda v: p_cell(float(str(v)))),
            "decision": Column("decision", numeric=False),
        },
        out / "tables",
    )
    return Section("registered", "What was registered", [Text(text), TableBlock(table)])


def _terms(study: Study, runs: pd.DataFrame, found: Registration, alpha: float) -> pd.DataFrame:
    from analysis import verdicts

    question = found.question
    asked = [":".join(t) for t in parse_terms(question.model)] if question.model else list(question.factors)
    shown = [t for t in study.model_terms if all(runs[f].nunique() > 1 for f in t.split(":"))]
    with family("terms"):  # what was registered, whatever the page was asked for
        tables = [verdicts(runs, study.metric, terms, study.block) for terms in ([shown] if shown else [])]
    if "placement" in asked and {"din", "dout"} <= set(shown):  # the placement as one factor, in a model of its own
        tables.append(verdicts(runs, study.metric, ["placement"], study.block))
    rows = []
    for table in tables:
        for term, row in table.iterrows():
            was = any(set(str(term).split(":")) == set(t.split(":")) for t in asked)
            if row["p_claim"] < alpha:
                said = "matters" if was and found.in_time else "below alpha, exploratory"
            else:
                said = "not shown to matter" if row["F"] >= 0 else "cannot be tested"
            rows.append({"term": term, "registered": "yes" if was else "no", "F": row["F"], "p_claim": row["p_claim"],
                         "decision": said})  # fmt: skip
    rows += [
        {"term": t, "registered": "yes", "F": float("nan"), "p_claim": float("nan"),
         "decision": _untested(t, shown, runs)}
        for t in asked
        if frozenset(t.split(":")) not in {frozenset(str(r["term"]).split(":")) for r in rows}
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["term", "registered", "F", "p_claim", "decision"])


def _untested(term: str, shown: list[str], runs: pd.DataFrame) -> str:
    """Why a registered term has no test on this page."""
    if any(f not in runs or runs[f].nunique() < 2 for f in term.split(":")):
        return "not tested: it has one level in these runs"
    if ":" in term:
        return "not tested: the model of this page has no such pair (--model adds it)"
    if term in ("din", "dout") and "placement" in shown:
        return "part of the placement, which is tested as one factor"
    return "not tested: the model of this page has no such term (--model adds it)"
