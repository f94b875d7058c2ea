"""Tables of any origin are read right: values, levels, roles and directions; what is left out or guessed is said."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_study import write_study

import analysis
from analysis.conclusions.words import objection
from analysis.report.study import Study, read_study
from analysis.runs.columns import typed
from analysis.runs.exports import bookkeeping
from analysis.runs.names import outer

TABLES = Path(__file__).parents[1] / "data" / "tables"
MATH = "$\\frac$"  # would stop a program that draws it as a formula
EFFECT = {"a": 0.70, "b": 0.75, "c": 0.80}


def runs(factor: str = "model", metric: str = "acc", levels=EFFECT, seeds: int = 4) -> pd.DataFrame:
    """A complete block design with planted level means; the last level is best."""
    rng = np.random.default_rng(1)
    return pd.DataFrame(
        [
            {factor: level, "seed": seed, metric: round(mean + 0.01 * rng.standard_normal(), 4)}
            for level, mean in zip(levels, EFFECT.values(), strict=True)
            for seed in range(seeds)
        ]
    )


def block_f(table: pd.DataFrame, factor: str, metric: str, block: str = "seed") -> float:
    """F of a factor in a complete block design, from its sums of squares."""
    cells = table.pivot(index=factor, columns=block, values=metric).to_numpy(float)
    grand, (levels, blocks) = cells.mean(), cells.shape
    between = blocks * np.sum((cells.mean(axis=1) - grand) ** 2) / (levels - 1)
    left = cells - cells.mean(axis=1, keepdims=True) - cells.mean(axis=0, keepdims=True) + grand
    return float(between / (np.sum(left**2) / (levels - 1) / (blocks - 1)))


def f_of(study: Study) -> dict[str, float]:
    table = analysis.anova(study.modelled, study.metric, study.model or study.terms, block=study.block)
    return {outer(str(term)): float(F) for term, F in table["F"].dropna().items() if term != study.block}


def written(path: Path, table: pd.DataFrame, encoding: str = "utf-8", **how) -> Path:
    path.write_bytes(table.to_csv(index=False, **how).encode(encoding))
    return path


@pytest.mark.parametrize(
    ("name", "metric", "expected"),
    [
        ("level_None", "acc", {"augment": 706.31}),
        ("same_last_name", "acc", {"optimizer.name": 272.73, "scheduler.name": 0.0027}),
        ("design_column", "acc", {"design": 2.10, "opt": 1499.03}),
        ("block_ok", "acc", {"model": 40.19}),
        ("wandb_generic", "val/accuracy", {"optimizer": 536.44, "model.learning_rate": 91.70}),
        ("din_numeric", "acc", {"din": 15.91, "dout": 0.37}),
        ("bool", "acc", {"model": 54.15}),
        ("col_task", "acc", {"task": 54.15}),
        ("col_aCOLONb", "acc", {"a:b": 54.15}),
        ("semicolon", "acc", {"model": 54.15}),
        ("decimal_comma", "acc", {"model": 54.15}),
        ("wide", "acc", {"model": 54.15}),
        ("percent", "acc", {"model": 272.85}),
        ("wandb_export", "clip_i", {"din": 88.65, "dout": 1.33}),
        ("dir_val_loss", "val_loss", {"model": 2818.00}),
    ],
)
def test_the_tables_of_others_give_the_right_tests(name: str, metric: str, expected: dict[str, float]) -> None:
    study = read_study(TABLES / f"{name}.csv")
    assert study.metric == metric
    found = f_of(study)
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, rel=2e-3, abs=5e-3)


def test_no_level_is_lost_and_what_is_left_out_is_said() -> None:
    study = read_study(TABLES / "level_None.csv")
    means = study.done.groupby("augment")["acc"].mean()
    assert len(study.done) == 15 and means.idxmax() == "None" and means["None"] == pytest.approx(0.799, abs=5e-4)
    study = read_study(TABLES / "inf_metric.csv")
    assert len(study.done) == 11 and "1 of 12 runs has infinite acc and is left out." in study.notes
    assert "the same in all runs of a seed" in " ".join(read_study(TABLES / "bool.csv").notes)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_encodings_and_separators(encoding: str, separator: str, tmp_path: Path) -> None:
    table = runs("modèle", "précision")
    for decimal in (".", ","):
        path = written(tmp_path / "t.csv", table, encoding, sep=separator, decimal=decimal, quoting=csv.QUOTE_MINIMAL)
        frame = analysis.load_results(path)
        assert list(frame.columns[:3]) == list(table.columns)
        assert frame["précision"].tolist() == table["précision"].tolist()
        assert ("decimal commas" in " ".join(frame.attrs["notes"])) == (decimal == ",")


@pytest.mark.parametrize(
    ("name", "cells", "values"),
    [
        ("acc", ["81.5 %", "70%", "69,9 %"], [81.5, 70, 69.9]),
        ("acc", ["0,705", "0,812", "1"], [0.705, 0.812, 1]),
        ("count", ["1,234", "12,345"], [1234, 12345]),
        ("acc", ["1.234,5", "2.000,1"], [1234.5, 2000.1]),
        ("acc", ["0.5", "oops", "0.6", "0.7"], [0.5, None, 0.6, 0.7]),
        ("acc", ["0.5", "None", "", "NaN"], [0.5, None, None, None]),
        ("loss", ["0.5", "inf", "-Infinity"], [0.5, np.inf, -np.inf]),
        ("x", ["\N{MINUS SIGN}1", "2e-3", "+.5"], [-1, 0.002, 0.5]),
        ("grad_clip", ["None", "None", "0.1", "0.1"], ["None", "None", "0.1", "0.1"]),
        ("width", ["4", "4", "8", "8", "full", "full"], ["4", "4", "8", "8", "full", "full"]),
        ("opt", ["NA", "null", "nan", ""], ["NA", "null", "nan", None]),
        ("opt", ["None", "sgd", ""], ["None", "sgd", None]),
        ("use_ema", ["True", "None", "false"], ["True", "None", "false"]),
        ("code", ["001", "010"], ["001", "010"]),
        ("opt", [" adam", " sgd"], ["adam", "sgd"]),
    ],
)
def test_cells_are_what_they_look_like(name: str, cells: list[str], values: list) -> None:
    column, _ = typed(name, cells, range(2, len(cells) + 2), ";" if name == "acc" else ",")
    assert [None if pd.isna(v) else v for v in column] == values


def test_one_broken_cell_costs_that_cell_and_is_named(tmp_path: Path) -> None:
    table = runs().astype({"acc": str})
    table.loc[3, "acc"] = "OOM"
    study = read_study(written(tmp_path / "t.csv", table))
    assert len(study.done) == 11 and '"OOM" in line 5' in " ".join(study.notes)
    text = runs().to_csv(index=False).replace("b,1,", "b,1,7,", 1)
    (tmp_path / "t.csv").write_text(text)
    study = read_study(tmp_path / "t.csv")
    assert len(study.done) == 11 and "line 7 of t.csv" in " ".join(study.notes)
    table = runs().astype({"seed": object})
    table.loc[5, "seed"] = None  # one lost seed does not cost the block
    study = read_study(written(tmp_path / "t.csv", table))
    assert study.block == "seed" and "1 of 12 runs has no seed and is left out." in study.notes


@pytest.mark.parametrize(
    "name",
    ["a:b", "a*b", "lr+wd", "x.y", "2nd", "1", "$model$", "learning rate", "x,y", "a~b", "C(x)", "größe", "design",
     "residual", "task", "data", "index", "metric", "seed.1", "method", "status", "reason", "path", "component",
     "level", "term", "factor", "mean", "n", "name", "group", "block", "study", "run", "steps", "p", "F"],
)  # fmt: skip
def test_factors_may_be_called_anything(name: str, tmp_path: Path) -> None:
    table = runs(name)
    second = table.assign(other="u", acc=table["acc"] + 0.001)
    both = pd.concat([table.assign(other="v"), second], ignore_index=True)
    path = written(tmp_path / "t.csv", both)
    expected = analysis.anova(both.rename(columns={name: "plain"}), "acc", ["plain", "other"], block="seed")["F"]
    for study in (read_study(path), read_study(path, factors=["other", name])):
        found = {key.lower(): F for key, F in f_of(study).items()}
        assert found[name.lower()] == pytest.approx(expected["plain"]) and len(found) == 2
        assert study.done[study.design].nunique() == 6
    frame = analysis.load_results(path)
    assert set(frame.columns) - {"Residual", "y"} <= set(both.columns), "a column of its own, such as 1 of seed.1"
    said = analysis.conclude(frame, "acc")
    assert f"Of {' and '.join(analysis.factor_columns(frame))}, " in said and name.lower() in said.lower()


def test_odd_names_reach_the_page_as_they_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from analysis.__main__ import main

    table = runs("a:b").rename(columns={"acc": "val*acc"})
    second = table.assign(**{MATH: "u"})
    path = written(tmp_path / "t.csv", pd.concat([table.assign(**{MATH: "v"}), second]))
    assert main([str(path), "--out", str(tmp_path / "out"), "--model", "`val*acc` ~ `a:b` + " + MATH]) == 0
    said = capsys.readouterr().out
    assert "Score: val*acc (as asked)" in said and f"Factors: a:b, {MATH} (as asked)" in said
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    figure = (tmp_path / "out" / "figures" / "factors.svg").read_text(encoding="utf-8")
    assert MATH in figure and "a:b" in page and "\N{RATIO}" not in page
    assert "a:b" in (tmp_path / "out" / "tables" / "oneway.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("names", "better"),
    [
        ("val_loss valLoss ValLoss train/MSELoss error_rate top-1_err wer CER testRMSE perplexity eval/ppl latency_ms "
         "time_to_target negative_log_likelihood false_positive_rate FID50k clip_fid prior_drift cross_entropy PER "
         "seconds_per_step mean_rank hamming bits_per_byte", "small"),
        ("acc val/accuracy clip_i mAP mrr r2 neg_mean_squared_error log_likelihood images_per_second tokens/s fps "
         "error_reduction time_saved lpips_diversity dropout glossiness something", "large"),
    ],
)  # fmt: skip
def test_the_words_of_a_score_tell_its_direction(names: str, better: str) -> None:
    for name in names.split():
        assert analysis.higher_is_better(name) == (better == "large"), name


@pytest.mark.usefixtures("undrawn")
def test_direction_is_said_and_overruled(tmp_path: Path) -> None:
    from analysis.report import write_report

    path, level = TABLES / "dir_error_rate.csv", {}
    for maximize in (None, False, True):
        report = write_report(path, out=tmp_path, maximize=maximize)
        level[maximize] = pd.read_csv(tmp_path / "tables" / "ranking.csv")["design"].iloc[0]
        assert ("larger" if maximize else "smaller") in report.choices
        assert ("as asked" in report.choices) == (maximize is not None)
    assert level == {None: "model a", False: "model a", True: "model c"}


@pytest.mark.parametrize(
    "pattern",
    [
        "acc_seed{}",
        "acc/seed={}",
        "seed_{}_acc",
        "acc (seed {})",
        "seed{}",
        "acc_s{}",
        "fold_{}",
        "acc.run{}",
        "{}",
        "4{}",
        "s{}",
    ],
)
def test_columns_of_seeds_become_rows(pattern: str, tmp_path: Path) -> None:
    table = runs()
    wide = table.pivot(index="model", columns="seed", values="acc").reset_index()
    wide.columns = ["model", *(pattern.format(seed) for seed in range(4))]
    study = read_study(written(tmp_path / "t.csv", wide))
    assert len(study.done) == 12 and study.factors == ["model"] and "The table is wide" in " ".join(study.notes)
    if "run" in pattern:  # runs of one number share nothing
        assert study.block is None
    else:
        assert f_of(study)["model"] == pytest.approx(block_f(table, "model", "acc"))


@pytest.mark.parametrize(
    ("column", "good", "bad"),
    [("State", "completed", "crashed"), ("status", "done", "running"), ("Status", "COMPLETED", "CANCELLED by 0"),
     ("state", "success", "killed"), ("status", "FINISHED", "FAILED"), ("job_state", "ok", "timeout")],
)  # fmt: skip
def test_ends_of_runs_in_the_words_of_other_tools(column: str, good: str, bad: str, tmp_path: Path) -> None:
    table = runs()
    table[column] = [bad if i in (2, 7) else good for i in range(12)]
    study = read_study(written(tmp_path / "t.csv", table))
    assert len(study.done) == 10 and study.factors == ["model"]
    assert study.notes[0].startswith("2 of 12 runs are left out, as they did not finish: 2 ")


def test_exports_of_trackers_have_the_users_scores_and_settings(tmp_path: Path) -> None:
    table = runs("params.opt", "metrics.acc").rename(columns={"seed": "params.seed"})
    table["metrics.loss"] = 1 - table["metrics.acc"]
    table = table.assign(run_id=[f"{i:08x}" for i in range(12)], experiment_id=1, status="FINISHED", start_time="x")
    table["tags.mlflow.runName"] = [f"r{i}" for i in range(12)]
    mlflow = read_study(written(tmp_path / "mlflow.csv", table))
    assert (mlflow.metric, mlflow.factors, mlflow.block) == ("metrics.acc", ["params.opt"], "seed")
    assert f_of(mlflow)["params.opt"] == pytest.approx(block_f(runs(), "model", "acc"))
    table = runs("opt").assign(
        _runtime=np.linspace(9, 10, 12), _timestamp=1.7e9, _step=range(12), _gpu=np.linspace(0, 1, 12), epoch=[1, 2] * 6
    )
    wandb = read_study(written(tmp_path / "wandb.csv", table))
    assert (wandb.metric, wandb.metrics, wandb.factors) == ("acc", ["acc"], ["opt"])
    with pytest.raises(ValueError, match=r"has a score; --metric takes .*_runtime"):
        read_study(written(tmp_path / "none.csv", table.drop(columns="acc")))
    assert read_study(tmp_path / "none.csv", metric="_runtime").metric == "_runtime"
    assert bookkeeping(["name", "Group", "state", "acc", "optimizer.name"]) == set()


@pytest.mark.parametrize("levels", [(0.001, 0.01, 0.1), (8, 16, 32), (0.25, 0.5, 1.0), (1, 2, 3)])
def test_numbers_are_factors_where_they_repeat_or_are_asked_for(levels: tuple, tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", runs("foo", "zap", levels=levels))
    assert (read_study(path).factors, read_study(path).metric) == (["foo"], "zap")
    rng = np.random.default_rng(0)
    many = pd.DataFrame({"k": np.repeat(np.arange(40) * 1.5, 2), "seed": [0, 1] * 40, "acc": rng.normal(size=80)})
    path = written(tmp_path / "many.csv", many)
    assert read_study(path, factors=["k"]).done["k"].nunique() == 40
    assert read_study(path, model="acc ~ k").factors == ["k"]


def test_columns_that_only_follow_others_are_no_factors(tmp_path: Path) -> None:
    table = runs()
    both = pd.concat([table.assign(size=8), table.assign(size=16, acc=table["acc"] + 0.01)], ignore_index=True)
    both["arch"] = both["model"].str.upper()  # changes where model does
    both["config"] = both["model"] + "-" + both["size"].astype(str)  # names the designs
    both["shuffle"] = both["seed"] % 2 == 0  # the same in all runs of a seed
    both["count"] = range(24)  # numbers the rows
    both["prompt"] = [f"prompt {i}" for i in range(24)]  # another one in every row
    study = read_study(written(tmp_path / "t.csv", both))
    said = " ".join(study.notes)
    assert (study.factors, study.metrics) == (["model", "size"], ["acc"])
    assert all(f"{name} " in said for name in ("arch", "config", "shuffle", "prompt"))
    images = pd.concat([table.assign(image=f"{i}.png", acc=table["acc"] + i / 99) for i in range(5)])
    assert analysis.factor_columns(analysis.load_results(written(tmp_path / "t.csv", images))) == ["model"]


def test_whole_numbers_are_scores_where_nothing_else_is(tmp_path: Path) -> None:
    table = runs(metric="zz")
    table["zz"] = (100 * table["zz"]).round().astype(int)
    study = read_study(written(tmp_path / "t.csv", table))
    assert study.metric == "zz" and f_of(study)["model"] == pytest.approx(block_f(table, "model", "zz"))


def test_guesses_are_said_and_overruled(tmp_path: Path) -> None:
    table = runs().assign(fold=[0, 1, 2, 3] * 3, site=["x", "y", "z", "x"] * 3, other=np.linspace(0, 1, 12))
    path = written(tmp_path / "t.csv", table)
    guessed = read_study(path)
    assert "Score: acc (guessed" in guessed.choices.said and "Block: seed (guessed" in guessed.choices.said
    asked = read_study(path, metric="other", factors=["model", "site"], block="fold", maximize=False)
    assert (asked.metric, asked.factors, asked.block) == ("other", ["model", "site"], "fold")
    assert "guessed" not in asked.choices.said and "smaller is better (as asked)" in asked.choices.said
    assert read_study(path, block="none").block is None
    for wrong in ({"block": "nope"}, {"metric": "model"}, {"factors": ["acc", "other"]}, {"factors": ["nope"]}):
        with pytest.raises(ValueError, match=r"^(Unknown|acc, other are asked)[^\n]+\.$"):
            read_study(path, **wrong)


def test_levels_that_look_alike_are_a_doubt(tmp_path: Path) -> None:
    for levels in (("adam", "Adam", "sgd"), ("adam", "adam ", "sgd"), ("u net", "unet", "x")):
        study = read_study(written(tmp_path / "t.csv", runs(levels=levels)))
        assert study.done["model"].nunique() == 3 and "differ only by case or blanks" in " ".join(study.notes)


def test_five_hundred_columns_take_seconds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = runs(seeds=20)
    noise = {f"cfg{i}": rng.choice(["x", "y"], 60) for i in range(250)} | {
        f"m{i}": rng.normal(size=60) for i in range(250)
    }
    path = written(tmp_path / "t.csv", pd.concat([table, pd.DataFrame(noise)], axis=1))
    start = time.perf_counter()
    study = read_study(path)
    assert (study.metric, study.factors) == ("acc", ["model"]) and len(study.metrics) < 20
    assert "250" in " ".join(study.notes) and time.perf_counter() - start < 10


def test_a_study_under_way_says_how_far_it_is(tmp_path: Path) -> None:
    write_study(tmp_path, samples=0, failed=[("attn2o-ffni", 0)])
    names = sorted(run.name for run in tmp_path.iterdir())
    plan = {"asked": 0.0, "command": [], "runs": {name: f"run {i}" for i, name in enumerate(names)} | {"x": "the last"}}
    (tmp_path / ".plan.json").write_text(json.dumps(plan))
    said = read_study(tmp_path).notes
    assert "1 of 60 runs is left out, as it did not finish: 1 failed." in said
    far = "59 of 61 planned runs are finished, 1 ended without a score, 1 has no record yet (the last)"
    assert far in " ".join(said)
    del plan["runs"]["x"]
    (tmp_path / ".plan.json").write_text(json.dumps(plan))
    assert "under way" not in " ".join(read_study(tmp_path).notes)


@pytest.mark.parametrize("number", ["seed", "run", "rep"])
@pytest.mark.parametrize("name", ["img_idx", "caption", "sampleId", "question", "patient", "whatever"])
def test_what_one_run_gave_many_times_is_one_run(name: str, number: str, tmp_path: Path) -> None:
    table = runs().rename(columns={"seed": number})
    copies = [table.assign(**{name: i}, acc=table["acc"] + 0.001 * np.sin(i + np.arange(12))) for i in range(30)]
    study = read_study(written(tmp_path / "t.csv", pd.concat(copies)))
    assert study.factors == ["model"]
    found = analysis.anova(study.modelled, "acc", ["model"], block=study.block).loc["model"]
    assert found["units"] == 12 and found["df_residual"] == (6 if number == "seed" else 9)
    setting = pd.concat([table.assign(image_size=size) for size in (64, 128)])
    assert read_study(written(tmp_path / "t.csv", setting)).factors == ["model", "image_size"]


def test_levels_and_numbers_of_a_sentence_are_told_apart_and_legible(tmp_path: Path) -> None:
    table = pd.DataFrame([(d, s, 6000.0 + 300 * d + 3 * s + d * s % 2) for d in (1, 2, 4) for s in range(4)])
    table.columns = ["depth", "seed", "score"]
    assert "depth 4 has the highest mean, 7204.5;" in analysis.conclude(table, "score")
    both = pd.concat([table.assign(din=table["depth"], dout=b, score=table["score"] + 10 * b) for b in (0.1, 0.2)])
    assert "din 4, dout 0.2 has the highest mean" in analysis.conclude(both, "score", terms=["din", "dout"])


def test_the_objection_names_the_test_that_objects() -> None:
    row = pd.Series({"p": 1e-6, "p_wild": 1e-3, "p_seed": 0.026, "p_holm": 4e-6, "p_claim": 0.104})
    assert objection(row, 4).startswith("against its change from seed to seed it has p = 0.026, 0.1 after Holm")
    assert "wild bootstrap) has p = 0.034, 0.068 after Holm" in objection(
        row.replace({0.026: np.nan, 1e-3: 0.034, 0.104: 0.068}), 2
    )
