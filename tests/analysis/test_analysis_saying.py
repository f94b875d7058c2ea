"""What a conclusion says is what tests support: units, blocks, robust companions, the best, floors, and error rates."""

from __future__ import annotations

import importlib.util
import json
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_study import write_study
from r_reference import FOLDER, data

import analysis
from analysis.conclusions.claims import Conclusion
from analysis.linear_model.units import with_units
from analysis.report import write_report
from sdpet.adapters import PLACEMENTS

CASES = Path(__file__).parents[1] / "data" / "cases"
BENCH = Path(__file__).parents[2] / "bench" / "claims.py"


def case(name: str) -> pd.DataFrame:
    return pd.read_csv(CASES / f"{name}.csv")


@cache
def base_r(name: str) -> pd.DataFrame:
    frame = pd.read_csv(FOLDER / "saying.csv")
    return frame[frame["case"] == name].pivot(index="row", columns="column", values="value")


@cache
def claims_bench():
    spec = importlib.util.spec_from_file_location("claims_bench", BENCH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["claims_bench"] = module
    spec.loader.exec_module(module)
    return module


def grid(rng: np.random.Generator, seeds: int = 3) -> pd.DataFrame:
    """A placement study in which nothing matters."""
    frame = pd.DataFrame([(p, s) for s in range(seeds) for p in PLACEMENTS], columns=["placement", "seed"])
    frame[["din", "dout"]] = frame["placement"].str.split("-", expand=True).to_numpy()
    return frame.assign(clip_i=0.7 + 0.02 * rng.normal(size=len(frame)) + 0.05 * rng.normal(size=seeds)[frame["seed"]])


# Units and blocks


def test_a_seed_with_one_design_costs_itself_and_not_the_block():
    whole, lost = (analysis.conclude(case(name), "acc") for name in ("block_ok", "block_lost"))
    assert "F(4, 8) = 40.19" in whole and "F(4, 8) = 40.19" in lost and "with seed taken out as a block" in lost
    assert "1 run with seed 3 is set aside" in lost and "set aside" not in whole


@pytest.mark.usefixtures("undrawn")
def test_a_report_names_the_seed_that_it_sets_aside(tmp_path):
    report = write_report(CASES / "block_lost.csv", out=tmp_path)
    assert "1 run with seed 3 is set aside" in " ".join(report.conclusion)
    assert pd.read_csv(tmp_path / "tables" / "additive.csv", index_col="term").loc["model", "F"] == pytest.approx(
        40.192, abs=1e-3
    )


def test_parts_of_the_grid_are_found_with_a_block_too():
    study = data("study")
    plain, blocked = (analysis.anova(study, "clip_i", ["din", "dout"], block=b) for b in (None, "seed"))
    assert plain.attrs["components"] == blocked.attrs["components"] == 3
    whole = study.groupby("placement").filter(lambda runs: len(runs) == 3)
    means = [
        analysis.marginal_means(whole, "clip_i", "din", ["din", "dout"], block=b, over="component")["mean"]
        for b in (None, "seed")
    ]
    assert means[0].notna().all() and means[1].to_numpy() == pytest.approx(means[0].to_numpy())


def test_images_of_a_run_are_no_runs():
    """40 images of 9 runs: F(2, 4) = 1.83 on their means, where F(2, 316) = 133 takes each image for a run."""
    frame, said = with_units(case("images_within_run"), ["model"])
    assert said.startswith("The 360 rows come from 9 runs")
    table = analysis.anova(frame, "clip_score", ["model"], block="seed")
    assert table.loc["model", ["F", "p"]].tolist() == pytest.approx([1.831, 0.2726], abs=1e-3)
    assert table.loc["model", ["df", "df_residual", "units"]].tolist() == [2, 4, 9]
    text = analysis.conclude(case("images_within_run"), "clip_score")
    assert "These 9 runs cannot tell whether model matters" in text and "image" not in text.replace("images", "")


def test_a_split_plot_agrees_with_r():
    oats = data("oats")
    oats["unit"] = oats["block"].astype(str) + oats["variety"]
    table = analysis.anova(oats, "yield", "variety*nitro", block="block")
    for stratum, ours in {"block:variety": "residual between units", "Within": "residual"}.items():
        reference = base_r(f"split {stratum}")
        for term, row in reference.iterrows():
            name = ours if term == "Residuals" else term
            for column in ("sum_sq", "df", "F", "p"):
                assert table.loc[name, column] == pytest.approx(row[column], rel=1e-8, nan_ok=True), (name, column)
    assert table.loc["variety", "units"] == 18 and table.loc["nitro", "units"] == 72
    means = analysis.contrasts(oats, "yield", "variety", block="block")  # on 18 plots, with their own error
    assert (means["df"] == 10).all()
    assert table.loc["variety", "F"] == pytest.approx(
        analysis.strata(oats, "yield", "variety", ["block", "block:variety"]).loc[("block:variety", "variety"), "F"]
    )


@pytest.mark.usefixtures("undrawn")
def test_runs_that_share_a_training_are_one_unit_from_record_to_page(tmp_path):
    """The guidance study: 72 records of 9 trainings, in which the training decides most of the noise."""
    rng, of_training, first = np.random.default_rng(0), {}, {}

    def share(factors: dict) -> float:
        key = (factors["placement"], factors["seed"])
        return 0.5 + of_training.setdefault(key, 0.05 * rng.standard_normal())

    strengths = [{"guidance": g} for g in (1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)]
    tried = ["attn2o-ffni", "attn2c-attn2c", "ffni-ffni"]
    write_study(tmp_path, tried, forms=strengths, share=share, noise=0.005, samples=0, study="guidance")
    for path in sorted(tmp_path.glob("*/record.json")):
        record = json.loads(path.read_text())
        key = (record["factors"]["placement"], record["factors"]["seed"])
        if first.setdefault(key, record["run_id"]) != record["run_id"]:
            path.write_text(json.dumps(record | {"trained_in": first[key]}))
    runs = analysis.load_results(tmp_path)
    assert runs["trained_in"].notna().sum() == 63
    table = analysis.anova(runs, "clip_i", ["placement", "guidance"], block="seed")
    means = runs.groupby(["placement", "seed"], as_index=False)["clip_i"].mean()
    assert table.loc["placement", "F"] == pytest.approx(
        analysis.anova(means, "clip_i", ["placement"], block="seed").loc["placement", "F"]
    )
    said = analysis.conclude(runs, "clip_i")
    assert "The 72 rows come from 9 trainings" in said and "placement (F(2, 4)" in said
    report = write_report(tmp_path)
    page = report.page.read_text(encoding="utf-8")
    assert "placement on 9 and guidance on 72" in page
    additive = pd.read_csv(report.page.parent / "tables" / "additive.csv", index_col="term")
    assert additive.loc["placement", "F"] == pytest.approx(table.loc["placement", "F"]) and "din" not in additive.index


# Tests beside F


def test_friedman_and_equivalence_agree_with_r():
    study = data("study")
    whole = study.groupby("placement").filter(lambda runs: runs["seed"].nunique() == study["seed"].nunique())
    ours, theirs = analysis.friedman(whole, "clip_i", "placement").loc["placement"], base_r("friedman").loc["placement"]
    assert [ours[c] for c in ("Q", "df", "p")] == pytest.approx([theirs[c] for c in ("Q", "df", "p")])
    pairs = analysis.equivalence(data("PlantGrowth"), "weight", "group", within=1.0, adjust="none")
    assert pairs["p_equal"].to_dict() == pytest.approx(base_r("tost")["p_equal"].to_dict())
    assert pairs["verdict"].tolist() == ["equal", "equal", "different"]
    assert set(analysis.equivalence(data("PlantGrowth"), "weight", "group", within=0.1)["verdict"]) <= {
        "undecided",
        "different",
    }


def test_the_wild_bootstrap_counts_sets_of_signs():
    """Ten runs of two levels: p is the share of the 2^10 sets of signs with an F at least as large."""
    frame = pd.DataFrame({"g": list("aaaaabbbbb"), "y": [1.0, 2, 4, 3, 5, 6, 4, 8, 7, 9]})
    e = (frame["y"] - frame["y"].mean()).to_numpy()
    signs = np.array(np.meshgrid(*[[-1.0, 1.0]] * 10)).reshape(10, -1)
    y = e[:, None] * signs
    a, b = y[:5], y[5:]
    between = 2.5 * (a.mean(0) - b.mean(0)) ** 2
    F = between / (((a - a.mean(0)) ** 2).sum(0) + ((b - b.mean(0)) ** 2).sum(0))
    seen = F[np.argmax(np.all(signs == 1, axis=0))]
    found = analysis.wild_bootstrap(frame, "y", ["g"], flips=19_999).loc["g"]
    assert found["p"] == pytest.approx(np.mean(seen * (1 - 1e-9) <= F), abs=0.004) and found["groups"] == 10


def test_noise_shared_by_seed_and_input_is_not_taken_for_an_effect_of_the_input():
    found = {"F": 0, "claim": 0}
    for number in range(60):
        rng = np.random.default_rng(number)
        frame = grid(rng)
        shared = frame.groupby(["seed", "din"]).ngroup()
        frame["clip_i"] += 0.02 * rng.normal(size=shared.max() + 1)[shared]
        row = analysis.verdicts(frame, "clip_i", ["din", "dout"], "seed").loc["din"]
        found["F"] += row["p"] < 0.05
        found["claim"] += row["p_claim"] < 0.05
    assert found["F"] >= 8 and found["claim"] <= 6  # of 60; 3 at a true 5 %


def test_an_objection_is_said():
    """One placement is ten times as noisy: F finds something, the test that allows it does not."""
    for number in range(300):
        rng = np.random.default_rng(number)
        frame = grid(rng)
        noisy = frame["placement"] == "attn2o-ffni"
        frame.loc[noisy, "clip_i"] += 0.2 * rng.normal(size=noisy.sum())
        row = analysis.verdicts(frame, "clip_i", ["placement"], "seed").loc["placement"]
        if row["p"] < 0.04 and row["p_wild"] > 0.06 and not row["p_seed"] >= 0.05:
            text = analysis.conclude(frame, "clip_i")
            assert "Whether the placement matters for clip_i is undecided" in text and "(wild bootstrap)" in text
            assert "the best is" not in text.replace("whether it is the best", "")
            assert analysis.conclude(frame, "clip_i").claims[0].verdict == "undecided"
            return
    pytest.fail("no such study was drawn")


def test_three_runs_a_cell_allow_no_test_of_variances():
    checks = analysis.check_assumptions(grid(np.random.default_rng(0)), "clip_i", ["placement"], block="seed")
    assert checks.loc[["equal variances", "equal variances (means)"], "ok"].tolist() == [None, None]
    assert "3 runs in a cell are too few" in checks.loc["equal variances", "sentence"]


# What is said


@pytest.mark.usefixtures("undrawn")
def test_replicates_tell_that_factors_act_together(tmp_path):
    text = analysis.conclude(case("crossover"), "acc")
    assert text.startswith("act and norm act together on acc") and "F(1, 9) = 2071.22" in text
    assert "average over the other" in text
    report = write_report(CASES / "crossover.csv", out=tmp_path)
    assert "act and norm act together" in report.conclusion[0]
    joint = pd.read_csv(tmp_path / "tables" / "additive.csv", index_col="term")
    assert joint.loc["act:norm", "F"] == pytest.approx(2071.22, abs=0.01)


def test_aliases_of_a_fraction_are_named():
    text = analysis.conclude(case("fraction_alias"), "acc")
    assert "Aliased in this fraction" in text and "c with a by b" in text


def test_nothing_is_said_of_the_others_where_nothing_matters():
    text = analysis.conclude(case("null_contradiction"), "clip_i")
    assert "cannot tell whether the placement matters" in text and "F(19, 38) = 1.28" in text
    assert "worse" not in text and "95 % confidence" not in text


def test_a_partial_study_claims_no_lack_of_training():
    """21 of 60 runs whose best is far above the floor, under seeds that differ much."""
    rng = np.random.default_rng(2)
    frame = grid(rng).assign(clip_i_floor=0.234)
    frame["clip_i"] += 0.06 * rng.normal(size=60)
    text = analysis.conclude(frame.sample(21, random_state=1), "clip_i")
    assert "No level moved" not in text and "lies" not in text  # no ceiling is known
    assert "The floor (the model untuned) is 0.234" in text


def test_a_conclusion_is_a_text_with_claims():
    said = analysis.conclude(data("study").drop(columns="scale"), "clip_i", within=0.05)
    assert isinstance(said, str) and isinstance(said, Conclusion) and said.split(". ")[0] in str(said)
    claims = {claim.kind: claim for claim in said.claims}
    assert claims["matters"].verdict == "yes"
    table = analysis.verdicts(data("study"), "clip_i", ["placement"], "seed").loc["placement"]
    first = said.claims[0]
    assert (first.estimate, first.low, first.high) == tuple(table[["omega2_partial", "omega2_low", "omega2_high"]])
    best = claims["best set"]
    expected = analysis.best_set(data("study"), "clip_i", "placement", block="seed", variances="moderated")
    assert list(best.levels) == list(expected.index[expected["in_set"]])
    mean = claims["best mean"]
    raw = analysis.marginal_means(data("study"), "clip_i", "placement", block="seed").loc[mean.subject]
    assert mean.high - mean.low > 1.7 * (raw["high"] - raw["low"])  # 20 levels, few degrees of freedom
    assert mean.low < raw["low"] < mean.estimate < raw["mean"] < raw["high"] < mean.high
    near = [c for c in said.claims if c.kind == "equivalent"]
    assert {c.verdict for c in near} >= {"undecided", "no"} and len(said.table()) == len(said.claims)
    assert "Undecided whether within 0.05 of the best" in said


def test_pairs_that_no_number_of_seeds_can_tell():
    table = analysis.seeds_needed(case("pilot_null"), "clip_i", "din", 0.05, terms=["din", "dout"])
    pairs = table.attrs["pairs"]
    assert len(pairs) == 45 and (~pairs["estimable"]).sum() == 23
    five = pd.concat([case("pilot_null"), case("pilot_null").assign(seed=lambda d: d["seed"] + 3)]).query("seed < 5")
    power = analysis.seeds_needed(five, "clip_i", "din", 0.05, terms=["din", "dout"]).attrs["pairs"]["power_factor"]
    assert (round(power.min(), 1), round(power.max(), 1)) == (0.2, 1.0)


@pytest.mark.usefixtures("undrawn")
def test_all_numbers_of_the_conclusion_stand_in_a_table(tmp_path):
    import re

    def share(factors: dict) -> float:
        return {"relu": 0.7, "sig": 0.5, "silu": 0.65}[factors["activation"]]

    forms = [{"activation": a, "scale": s} for a in ("relu", "sig", "silu") for s in (0.5, 1.0, 2.0)]
    write_study(tmp_path, ["attn2o-ffni", "ffni-ffni"], forms=forms, share=share, samples=0)
    report = write_report(tmp_path)
    shown = {
        f"{F:.2f}"
        for name in ("additive", "trends")
        for F in pd.read_csv(report.page.parent / "tables" / f"{name}.csv")["F"]
    }
    said = re.findall(r"F\(\d+, \d+\) = ([\d.]+)", " ".join(report.conclusion))
    assert said and set(said) <= shown
    claims = pd.read_csv(report.page.parent / "tables" / "claims.csv")
    assert {"matters", "best set", "best mean", "above floor"} <= set(claims["kind"])


# Error rates


@pytest.mark.parametrize("condition", ["unequal", "shared"])
def test_claims_are_false_no_more_often_than_promised(condition):
    """The harness in small, with bounds that a true 5 % (10 % for shares) passes nearly always, a true 25 % hardly."""
    bench = claims_bench()
    table = bench.rates(["placement", "placement, real"], [condition], 40, report=lambda line: None)[condition]
    for (kind, _), rate in table.drop(index="found", level=0, errors="ignore").items():
        assert not rate > (0.25 if kind == "share" else 0.15), (kind, rate)
    assert table[("found", "placement, real")] > 0.8


def test_the_harness_sees_what_it_is_there_to_see(monkeypatch):
    """With F alone as the judge, noise shared by seed and input gives false claims that the harness must show."""
    from analysis.variance import verdict

    bench = claims_bench()
    monkeypatch.setattr(
        verdict, "wild_bootstrap", lambda frame, metric, terms, **_: pd.DataFrame({"p": np.nan}, index=terms)
    )
    monkeypatch.setattr(verdict, "_against_seeds", lambda *_: float("nan"))
    sharing = bench.rates(["form"], ["shared"], 40, report=lambda line: None)["shared"]
    assert sharing[("matters", "form")] > 0.2


def test_unit_ids_that_are_used_again_in_each_group_are_said():
    """aov in R takes units numbered 1, 2, ... in each group for the same ones; here a sentence asks for ids."""
    from analysis.linear_model.units import with_units

    rows = [
        {"group": g, "unit": u, "cond": c, "score": float(i)}
        for i, (g, u, c) in enumerate((g, u, c) for g in "ab" for u in range(4) for c in "xy")
    ]
    frame = pd.DataFrame(rows)
    _, said = with_units(frame, ["group", "cond"])
    assert said.startswith("unit has the same ids in different levels of every factor")
    own = frame.assign(unit=frame["group"] + frame["unit"].astype(str))
    assert "The 16 rows come from 8 runs" in with_units(own, ["group", "cond"])[1]
