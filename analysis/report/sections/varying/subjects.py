"""Subjects as a sample: what the tests say of subjects like these, and how far each subject's runs went."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from analysis.report.page import Block, Section, TableBlock, Text
from analysis.report.study import Study
from analysis.report.tables import Column, Table, make_table
from analysis.report.words import factor_words, listing, number, p_cell

KEYS = ("data.subject", "data.subject_dir", "data")  # keys of the config that name a subject or a data set
LEAST = 3  # subjects or prompts from which the variance between them can be estimated
SHARE = "share of the way"


def subjects_section(study: Study, out: Path) -> Section | None:
    """Scores by subject, as they are and as the share of the way from floor to ceiling; tests over subjects."""
    name = subject_factor(study)
    if name is None:
        return None
    runs = with_share(study)
    blocks: list[Block] = [Text(
        "Subjects differ in how hard they are, so their scores compare only as shares of the way from each run's own "
        "floor (the model untuned) to its own ceiling (other photos of the subject)."
    ), TableBlock(_by_subject(study, runs, name, out))]  # fmt: skip
    metric = SHARE if SHARE in runs and runs[SHARE].notna().all() else study.metric
    fixed = [term for term in study.terms if term != name and runs[term].nunique() > 1]
    if fixed:
        blocks += _over_subjects(study, runs, metric, fixed, name, out)
    return Section("subjects", "Subjects", blocks)


def subject_factor(study: Study) -> str | None:
    """The factor that names the subject or data set of a run; None where there is one subject."""
    keys = study.done.attrs.get("keys", {})
    found = [name for key in KEYS for name, own in keys.items() if own == key and name in study.factors]
    return next((name for name in found if study.done[name].nunique() > 1), None)


def with_share(study: Study) -> pd.DataFrame:
    """The modelled runs, with the share of the way from floor to ceiling where each run has both."""
    runs = study.modelled
    ends = [f"{study.metric}_{end}" for end in ("floor", "ceiling")]
    if not set(ends) <= set(runs):
        return runs
    floor, ceiling = (runs[end].astype(float) for end in ends)
    way = (ceiling - floor).where(ceiling != floor)
    return runs.assign(**{SHARE: (runs[study.metric] - floor) / way})


def _by_subject(study: Study, runs: pd.DataFrame, name: str, out: Path) -> Table:
    columns = {study.metric: "score", f"{study.metric}_floor": "floor", f"{study.metric}_ceiling": "ceiling"}
    known = {c: words for c, words in {**columns, SHARE: "share"}.items() if c in runs}
    groups = runs.groupby(name)
    frame = groups[list(known)].mean().rename(columns=known)
    frame.insert(0, "runs", groups.size())
    frame = frame.reset_index().rename(columns={name: "subject"})
    digits = 3
    return make_table("subjects", f"Mean {study.words.label} by {factor_words(name)}.", frame, {
        "subject": Column(factor_words(name), str, numeric=False),
        "runs": Column("runs"),
        "score": Column("mean", lambda v: number(v, digits)),
        "floor": Column("floor", lambda v: number(v, digits)),
        "ceiling": Column("ceiling", lambda v: number(v, digits)),
        "share": Column("of the way", lambda v: "" if v != v else f"{v:.0%}"),
    }, out / "tables")  # fmt: skip


def _over_subjects(
    study: Study, runs: pd.DataFrame, metric: str, fixed: list[str], name: str, out: Path
) -> list[Block]:
    """Mixed models of runs, with random subjects, and of images, with random subjects and prompts."""
    count = int(runs[name].nunique())
    if count < LEAST:
        return [Text(
            f"With {count} subjects nothing can be said of others like them; from {LEAST} on, tests over subjects are "
            "made here."
        )]  # fmt: skip
    tables: list[pd.DataFrame] = []
    blocks: list[Block] = []
    models = [("runs", runs, metric, _random(runs, fixed, name))]
    images = _by_prompt(study, runs)
    if images is not None:
        more = [*_random(images, fixed, name), "template"]
        models.append(("prompts", images, study.metric, more))
    for what, frame, score, random in models:
        try:
            table = _mixed(frame, score, fixed, random)
        except (ValueError, np.linalg.LinAlgError) as error:
            blocks.append(Text(f"The mixed model of {what} cannot be fitted: {error}"))
            continue
        tables.append(table.reset_index(names="term").assign(model=what, score=score, random=" + ".join(random)))
    if not tables:
        return blocks
    written = make_table("over_subjects", "Tests over subjects like these: F by Kenward and Roger.",
                         pd.concat(tables, ignore_index=True), {
        "model": Column("rows", numeric=False),
        "score": Column("score", numeric=False),
        "term": Column("term", lambda v: factor_words(str(v)), numeric=False),
        "F": Column("F", lambda v: number(v, 2)),
        "df": Column("df", lambda v: number(v, 0)),
        "df_residual": Column("residual df", lambda v: number(v, 1)),
        "p": Column("p", lambda v: p_cell(float(str(v)))),
    }, out / "tables")  # fmt: skip
    said = (
        f"The {count} levels of {factor_words(name)} are taken as a sample: {listing(map(factor_words, fixed))} is "
        "tested against how much its effect differs from subject to subject, so what is found holds for subjects like "
        "these, not for these alone."
    )
    if len(models) > 1:
        said += " In the second model each row is the mean of a run's images of one prompt, and prompts are random too."
    return [Text(said), TableBlock(written), *blocks]


def _mixed(frame: pd.DataFrame, metric: str, fixed: list[str], random: list[str]) -> pd.DataFrame:
    from analysis import mixed

    return mixed(frame, metric, fixed, random, df="kenward-roger")


def _random(frame: pd.DataFrame, fixed: list[str], name: str) -> list[str]:
    """Random terms: subjects, how effects differ between them where runs are repeated, and seeds."""
    again = frame.groupby([name, *fixed]).size().max() > 1
    seed = ["seed"] if "seed" in frame and frame["seed"].nunique() >= LEAST else []
    return [name, *(f"{name}:{term}" for term in fixed if again), *seed]


def _by_prompt(study: Study, runs: pd.DataFrame) -> pd.DataFrame | None:
    """Mean score of each run's images of one prompt; None without such scores, or with few prompts."""
    from analysis.runs.images.load import load_image_scores

    if not study.source.is_dir():
        return None
    try:
        images = load_image_scores(runs, [study.metric])
    except ValueError:
        return None
    if study.metric not in images or images.loc[images[study.metric].notna(), "template"].nunique() < LEAST:
        return None
    keys = [c for c in dict.fromkeys(["run_id", "seed", *study.factors, "template"]) if c in images]
    return images.dropna(subset=[study.metric]).groupby(keys, as_index=False, dropna=False)[study.metric].mean()
