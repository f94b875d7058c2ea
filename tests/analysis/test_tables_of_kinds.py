"""Kinds of tables that other tools and people write: each is read as the same plain study that it holds."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis.report.study import Study, read_study
from analysis.runs.columns import typed

ROWS = [
    (model, seed, round(mean + 0.01 * np.sin(7 * i + seed), 4))
    for i, (model, mean) in enumerate(zip("abc", (0.70, 0.75, 0.80), strict=True))
    for seed in range(4)
]
PLAIN = pd.DataFrame(ROWS, columns=["model", "seed", "acc"])
CSV = PLAIN.to_csv(index=False)
WITH_SEED = 346.6062  # F of model with the seed as block, from R: anova(lm(acc ~ factor(seed) + model))
LINES = CSV.splitlines()


def study_of(tmp_path: Path, text: str | pd.DataFrame, encoding: str = "utf-8", **asked) -> Study:
    path = tmp_path / "runs.csv"
    path.write_bytes((text if isinstance(text, str) else text.to_csv(index=False)).encode(encoding))
    return read_study(path, **asked)


def f_of(study: Study, factor: str = "model") -> float:
    return float(analysis.anova(study.modelled, study.metric, [factor], block=study.block).loc[factor, "F"])


def said(study: Study) -> str:
    return " ".join(study.notes)


def with_acc(write) -> str:
    return "\n".join([LINES[0], *(",".join([*line.split(",")[:2], write(line.split(",")[2])]) for line in LINES[1:])])


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (CSV + CSV, "1 line repeats the names of the columns and is left out (line 14)"),
        (CSV + f"mean,,{PLAIN['acc'].mean():.3f}\nstd,,{PLAIN['acc'].std():.3f}\n", "The last 2 rows are taken for"),
        (CSV.replace(",", "  "), "separated by blanks"),
        (CSV.replace(",", " "), "separated by blanks"),
        ("\n".join(["| " + line.replace(",", " | ") + " |" for line in [LINES[0], "--,--:,---", *LINES[1:]]]), "bars"),
        (with_acc(lambda v: f"{v} (0.01)"), "before ± or the bracket"),
        (with_acc(lambda v: f'"{v} [0.7, 0.8]"'), "before ± or the bracket"),
        (with_acc(lambda v: f"{v} pts"), "acc is read in pts, the unit in its cells"),
        (with_acc(lambda v: f"$ {v}"), ""),
        (with_acc(lambda v: f"**{v}**" if v > "0.79" else f"{v}*" if v > "0.74" else f"~{v}"), "Marks beside"),
        (with_acc(lambda v: f"{round(float(v) * 10_000)}/10000"), "17/20 is 0.85"),
        (PLAIN.pivot(index="model", columns="seed", values=["acc"]).to_csv(), "written one below the other"),
        (CSV.replace("seed", "random_state"), ""),
        (CSV.replace("seed", "train.random_seed"), ""),
        (CSV.replace("seed", "seed_idx"), ""),
        (PLAIN.to_json(orient="records", lines=True), "read as JSON"),
        (PLAIN.to_json(orient="records"), "read as JSON"),
    ],
)  # fmt: skip
def test_what_stands_around_the_runs_is_no_run(text: str, note: str, tmp_path: Path) -> None:
    study = study_of(tmp_path, text)
    assert (study.metric, study.factors, study.block) == ("acc", ["model"], "seed")
    assert f_of(study) == pytest.approx(WITH_SEED, rel=0.02 if "std" in text else 1e-4) and note in said(study)


def test_levels_that_are_called_mean_and_max_stay(tmp_path: Path) -> None:
    table = PLAIN.replace({"model": {"b": "max", "c": "mean"}})
    assert study_of(tmp_path, table).done["model"].nunique() == 3
    assert study_of(tmp_path, table.groupby("model", as_index=False)["acc"].mean()).done["model"].nunique() == 3


def test_scores_of_zero_and_one_and_ratings_make_no_runs(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    means = {"a": 0.4, "b": 0.6, "c": 0.9}
    rows = [(m, s, q, int(rng.random() < p)) for m, p in means.items() for s in range(3) for q in range(20)]
    table = pd.DataFrame(rows, columns=["model", "seed", "question_id", "correct"])
    means = table.groupby(["model", "seed"], as_index=False)["correct"].mean().rename(columns={"correct": "acc"})
    right = f_of(study_of(tmp_path, means))
    words = table.assign(correct=table["correct"].map({1: "yes", 0: "no"}))
    for given in (table, table.drop(columns="question_id"), table.assign(correct=table["correct"] == 1), words):
        study = study_of(tmp_path, given)
        assert (study.metric, study.factors) == ("correct", ["model"])
        found = analysis.anova(study.modelled, "correct", ["model"], block=study.block).loc["model"]
        assert (found["F"], found["units"]) == (pytest.approx(right), 9)
        assert "between" in (text := analysis.conclude(study.done, "correct")) and "9 runs" in text
    assert "and 1 for these seeds" in text, "a share is not above 1"
    stars = table.assign(correct=table["correct"] + rng.integers(1, 3, len(table))).rename(columns={"correct": "stars"})
    text = analysis.conclude(study_of(tmp_path, stars.drop(columns="question_id")).done, "stars")
    assert "The 180 rows come from 9 runs" in text


def test_scores_in_rows_become_columns(tmp_path: Path) -> None:
    tall = pd.concat([PLAIN.assign(metric=m, value=v) for m, v in (("acc", PLAIN["acc"]), ("loss", 1 - PLAIN["acc"]))])
    study = study_of(tmp_path, tall.drop(columns="acc"))
    assert (study.metric, study.metrics, study.factors) == ("acc", ["acc", "loss"], ["model"])
    assert f_of(study) == pytest.approx(WITH_SEED, rel=1e-4) and "row of its own (metric, value)" in said(study)
    other = tall.drop(columns="acc").replace({"metric": {"acc": "cosine", "loss": "euclid"}})
    assert "metric" in study_of(tmp_path, other).factors, "a factor that is called metric"


@pytest.mark.parametrize(
    "columns",
    [
        {"Experiment": lambda i: f"exp-{i}", "rev": lambda i: f"{i:07x}", "typ": lambda i: "base" if i < 1 else "exp"},
        {"run.hash": lambda i: f"h{i}", "run.name": lambda i: f"r{i}", "run.duration": lambda i: 3.5 * i},
        {"sha": lambda i: f"{99 * i:08x}"},
        {"patient_id": lambda i: 10**6 + 7919 * i},
        {"when": lambda i: f"{i % 3 + 1:02d}.03.2024"},
        {"day": lambda i: f"3/{i % 3 + 1}/24"},
        {"began": lambda i: f"2024/03/{i % 3 + 1:02d} 10:00"},
        {"elapsed": lambda i: f"0:{i:02d}:30"},
        {"comment": lambda i: "#N/A"},
        {"State": lambda i: "Finished"},
    ],
)
def test_books_of_tools_ids_and_dates_are_no_factors(columns: dict, tmp_path: Path) -> None:
    beside = pd.DataFrame({name: [write(i) for i in range(12)] for name, write in columns.items()})
    study = study_of(tmp_path, pd.concat([beside, PLAIN], axis=1))
    assert (study.metric, study.factors) == ("acc", ["model"]) and f_of(study) == pytest.approx(WITH_SEED, rel=1e-4)
    assert "no number" not in said(study)


@pytest.mark.parametrize(
    ("name", "cells", "values", "note"),
    [
        ("latency", ["12.5 ms", "9 ms"], [12.5, 9], "in ms"),
        ("time", ["1:42.5", "0:30"], [102.5, 30], "seconds"),
        ("duration", ["0 days 01:00:00", "1 days 00:00:01"], [3600, 86401], "seconds"),
        ("image", ["64px", "128px"], ["64px", "128px"], ""),
        ("model_size", ["7B", "13B"], ["7B", "13B"], ""),
        ("budget", ["$5", "$10"], ["$5", "$10"], ""),
        ("ratio", ["16:09", "4:30"], ["16:09", "4:30"], ""),
        ("points", ["1.234", "12.345"], [1234, 12345], "Points in points are read as separators of thousands"),
        ("loss", ["0.234", "12.345"], [0.234, 12.345], ""),
        ("acc", ["0,5", "#DIV/0!"], [0.5, None], '"#DIV/0!" in line 3'),
        ("opt", ["sgd", "#N/A", "#WERT!"], ["sgd", None, None], "2 cells"),
        ("success", ["pass", "fail"], [True, False], ""),
        ("use_score", ["yes", "no"], ["yes", "no"], ""),
    ],
)
def test_cells_with_units_times_and_errors_of_sheets(name: str, cells: list, values: list, note: str) -> None:
    column, notes = typed(name, cells, range(2, 9), ";", commas=True)
    assert [None if pd.isna(v) else v for v in column] == values and note in " ".join(notes)


def test_points_that_may_separate_thousands_are_a_doubt() -> None:
    column, notes = typed("score", ["1.234", "12.345"], (2, 3), ";")
    assert column.tolist() == [1.234, 12.345] and "(1.234 is 1.234)" in notes[0]
    assert typed("score", ["1.234", "12.345"], (2, 3), ",")[1] == []


def test_the_block_that_is_said_is_the_one_that_is_used(tmp_path: Path) -> None:
    own = PLAIN.assign(seed=range(12))
    study = study_of(tmp_path, own)
    assert study.block is None and "Block: none, as most runs have a seed that no other" in study.choices.said
    study = study_of(tmp_path, PLAIN.assign(seed=0))
    assert study.block is None and "Block: none, as all runs have the same seed" in study.choices.said
    people = PLAIN.rename(columns={"seed": "subject"}).assign(subject=[f"S{s}" for s in PLAIN["seed"]])
    guessed = study_of(tmp_path, people)
    assert (guessed.factors, guessed.block) == (
        ["model"],
        "subject",
    ) and "Block: subject (guessed" in guessed.choices.said
    assert f_of(guessed) == pytest.approx(WITH_SEED, rel=1e-4)
    asked = study_of(tmp_path, people.rename(columns={"subject": "site"}), block="site")
    assert (asked.factors, asked.block) == (["model"], "site"), "a block that is asked for is no factor beside it"
    for name in ("Fold", "k-fold", "cv"):
        assert study_of(tmp_path, PLAIN.rename(columns={"seed": name})).block == name
    assert study_of(tmp_path, PLAIN.rename(columns={"seed": "Trial #"})).factors == ["model"]
    both = study_of(tmp_path, people, factors=["model", "subject"])
    assert (both.factors, both.block) == (["model", "subject"], None)


def test_doubts_on_copies_curves_and_columns_that_are_levels(tmp_path: Path) -> None:
    plain = PLAIN.drop(columns="seed")
    assert "3 of 15 rows repeat another one in every column" in said(study_of(tmp_path, pd.concat([plain, plain[:3]])))
    assert "repeat" not in said(study_of(tmp_path, pd.concat([plain.round(1)] * 2)))
    merged = PLAIN.assign(model=PLAIN["model"].where(~PLAIN["model"].duplicated()))
    assert "if an empty cell stands for the value above it, fill it in." in said(study_of(tmp_path, merged))
    curve = pd.concat([PLAIN.assign(epoch=e, acc=PLAIN["acc"] - 0.1 / e) for e in range(1, 6)])
    assert "keep its last epoch only" in said(study_of(tmp_path, curve))
    assert "1 of 12 values of acc is above 10" in said(study_of(tmp_path, PLAIN.replace(PLAIN["acc"][0], 70.0)))
    means = PLAIN.groupby("model", as_index=False)["acc"].mean().assign(acc_std=[0.01, 0.02, 0.03])
    assert "acc_std looks like the spread of several runs" in said(study_of(tmp_path, means))
    wide = pd.DataFrame({"dataset": list("pqrs"), "svm": [0.7, 0.8, 0.6, 0.9], "knn": [0.6, 0.7, 0.5, 0.8]})
    assert "Each dataset has one row, and there are 2 columns of numbers (svm, knn)" in said(study_of(tmp_path, wide))


def test_where_nothing_else_varies_no_test_names_the_best(tmp_path: Path) -> None:
    exact = PLAIN.assign(acc=PLAIN["model"].map({"a": 0.5, "b": 0.6, "c": 0.75}) + 0.125 * (PLAIN["seed"] % 2))
    study = study_of(tmp_path, exact)
    assert "no test can say, as nothing else varies" in analysis.conclude(study.done, "acc")
    with pytest.raises(ValueError, match=r"^Not all levels of model can be compared with each other") as error:
        analysis.best_set(PLAIN.assign(seed=PLAIN["model"].map({"a": 0, "b": 0, "c": 1})), "acc", "model", block="seed")
    assert "placement" not in str(error.value)


@pytest.mark.parametrize(
    ("names", "better"),
    [
        ("l1 smooth_l1 val/l1 crps peak_mem_mb delta_E wall_clock_s angular_deviation minDCF hinge -elbo 1-acc FID↓ "
         "model_size_mb collision_rate mase hallucination_rate makespan reduced_chi2 val_ce ELBO_loss temps "
         "pérdida ошибка 验证损失", "small"),
        ("time_to_failure error_correction_rate collision_free_rate explained_variance runs_without_error -val_loss "
         "acc↑ mean_time_between_failures elbo", "large"),
    ],
)  # fmt: skip
def test_more_words_of_scores_tell_their_direction(names: str, better: str) -> None:
    for name in names.split():
        assert analysis.higher_is_better(name) == (better == "large"), name


def test_a_fraction_names_no_best_of_designs_that_were_run_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [(a, b, s) for a in "abcd" for b in "wxyz" for s in range(3)]
    table = pd.DataFrame(rows, columns=["act", "norm", "seed"]).sample(20, random_state=1)
    table["acc"] = table["act"].map(dict(zip("abcd", (0.5, 0.6, 0.7, 0.8), strict=True))) + 0.01 * rng.normal(size=20)
    study = study_of(tmp_path, table)
    counts = study.done.groupby(["act", "norm"]).size()
    assert counts.max() > 1 and counts.median() == 1
    text = analysis.conclude(study.done, "acc")
    assert "act matters" in text and f"best of the {len(counts)} designs, one run of most does not say" in text


def test_tests_that_cannot_find_anything_disagree_with_nothing(tmp_path: Path) -> None:
    from analysis.report.sections.robustness import robust_table

    pair = study_of(tmp_path, PLAIN[(PLAIN["model"] != "b") & (PLAIN["seed"] < 3)])  # 4 arrangements: p is 0.25 or more
    table = robust_table(pair, ["model"], tmp_path)
    assert "All tests agree at 5%." in table.notes and "left out for model: with so few seeds" in " ".join(table.notes)
    assert "Friedman" not in table.caption and "permutation" not in table.caption
    whole = robust_table(study_of(tmp_path, PLAIN), ["model"], tmp_path)
    assert "left out for" not in " ".join(whole.notes) and "Friedman" in whole.caption


def test_a_latin_square_keeps_its_rows_and_close_scores_their_digits(tmp_path: Path) -> None:
    square = pd.DataFrame(
        [(i, j, "ABCD"[(i + j) % 4]) for i in range(4) for j in range(4)], columns=["row", "col", "t"]
    )
    square["yield"] = square["row"] + 0.5 * square["col"] + np.sin(np.arange(16)) + 3 * (square["t"] == "A")
    study = study_of(tmp_path, square)
    assert study.factors == ["row", "col", "t"]
    table = analysis.anova(study.modelled, "yield", study.factors)
    assert table.loc["residual", "df"] == 6
    far = analysis.conclude(study_of(tmp_path, PLAIN.assign(acc=1000 + PLAIN["acc"])).done, "acc")
    assert "between 1000.79 and 1000.81" in far


def test_a_workbook_is_told_from_a_table(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_bytes(b"PK\x03\x04....")
    with pytest.raises(ValueError, match=r"Excel workbook .* save the sheet"):
        read_study(tmp_path / "runs.csv")


def test_power_counts_in_the_blocks_of_the_table(tmp_path: Path) -> None:
    from analysis.power_command import answer

    given = tmp_path / "runs.csv"
    seeds = study_of(tmp_path, PLAIN) and answer(str(given), None, None, 0.02, 0.8, 0.05)
    people = PLAIN.rename(columns={"seed": "rater"}).assign(rater=[f"r{s}" for s in PLAIN["seed"]])
    raters = study_of(tmp_path, people) and answer(str(given), None, None, 0.02, 0.8, 0.05)
    assert "of 12 runs, 4 raters: " in raters and raters == seeds.replace("seed", "rater")
    alone = study_of(tmp_path, PLAIN.drop(columns="seed")) and answer(str(given), None, None, 0.02, 0.8, 0.05)
    assert "of 12 runs, 4 runs of each level: " in alone and "4 runs of each level detect" in alone
    assert "3 runs of each level (up to" in alone  # noncentral t with 6 df: 0.84 with 3 runs, 0.50 with 2


@pytest.mark.parametrize(
    "frame",
    [
        PLAIN.astype(object),
        PLAIN.astype({"acc": str}),
        PLAIN.assign(acc=[Decimal(str(v)) for v in PLAIN["acc"]]),
        PLAIN.set_index(["model", "seed"]),
        PLAIN.assign(model=[[level] for level in PLAIN["model"]]),
        PLAIN.assign(model=[{"name": level} for level in PLAIN["model"]]),
        PLAIN.assign(model=pd.Categorical(PLAIN["model"], categories=list("abcz"))),
        PLAIN.convert_dtypes(),
    ],
    ids=["objects", "text", "decimals", "index", "lists", "dicts", "categories", "nullable"],
)
def test_frames_of_users_are_read_as_files_are(frame: pd.DataFrame) -> None:
    before = frame.copy()
    runs = analysis.load_results(frame)
    assert (analysis.metric_columns(runs), analysis.factor_columns(runs)) == (["acc"], ["model"])
    assert float(analysis.anova(runs, "acc", ["model"], block="seed").loc["model", "F"]) == pytest.approx(
        WITH_SEED, rel=1e-4
    )
    pd.testing.assert_frame_equal(frame, before)


def test_a_pivoted_frame_has_a_row_for_each_run_again() -> None:
    runs = analysis.load_results(PLAIN.pivot(index="model", columns="seed", values=["acc"]))
    assert len(runs) == 12 and analysis.factor_columns(runs) == ["model"] and "is wide" in runs.attrs["notes"][0]


def test_designs_that_were_run_once_each_have_the_scores_of_their_runs(tmp_path):
    """In a fraction of a factorial no design can be told from its seed: none is adjusted, left out or made up."""
    from analysis.report.sections.means import design_means

    random = np.random.default_rng(3)
    cells = [
        (a, b, c, (i + j + k) % 3)
        for i, a in enumerate("uvwxyz")
        for j, b in enumerate("pqr")
        for k, c in enumerate((1, 2, 4))
    ]
    cells = [cells[i] for i in random.permutation(len(cells))[:30]]
    frame = pd.DataFrame(cells, columns=["placement", "form", "scale", "seed"])
    frame["acc"] = random.uniform(0.2, 0.8, len(frame)) + 0.1 * frame["seed"]
    means = design_means(study_of(tmp_path, frame))
    assert means["mean"].tolist() == pytest.approx(sorted(frame["acc"], reverse=True))
    best = f"{frame['acc'].max():.3g}"
    assert f"has the highest mean ({best})" in str(analysis.conclude(frame, "acc"))
    floors = frame.assign(acc_floor=0.1 + 0.01 * frame["seed"], acc_ceiling=1.0)  # of seeds, and not of designs
    assert "floors of their own" not in str(analysis.conclude(floors, "acc"))
