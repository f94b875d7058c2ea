"""Response surfaces, contrasts of ordered levels, sphericity and variances of pairs: R and published numbers."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pandas as pd
import pytest
from fake_study import write_study
from r_reference import FOLDER, data

import analysis
from analysis.report import write_report


@cache
def more(case: str) -> pd.DataFrame:
    """The values of tests/r/more.R of a case, rows by name."""
    frame = pd.read_csv(FOLDER / "more.csv", dtype={"row": str})
    return frame[frame["case"] == case].pivot(index="row", columns="column", values="value")


@pytest.mark.parametrize(("case", "factors", "block", "log"), [
    ("chem", ["time", "temp"], "block", []), ("grid", ["width", "rate"], "seed", ["width", "rate"]),
])  # fmt: skip
def test_a_surface_agrees_with_r(case: str, factors: list[str], block: str, log: list[str]) -> None:
    frame = data(case).rename(columns={"yield": "y"})
    found, told = analysis.surface(frame, "y", factors, block=block, log=log), more(case)
    for row, name in zip(found.table.index, ["x1", "x2", "I(x1^2)", "I(x2^2)", "x1:x2"], strict=True):
        for column in ("estimate", "se", "p"):
            assert found.table.loc[row, column] == pytest.approx(told.loc[name, column], rel=1e-7), (row, column)
    assert found.curvature == pytest.approx(told.loc["curvature", ["low", "high"]].tolist())
    where = [np.log(v) if log else v for v in found.stationary]
    coded = [(v - c) / h for v, c, h in zip(where, found.center, found.half, strict=True)]
    assert coded == pytest.approx(told.loc["stationary", ["x1", "x2"]].tolist())
    assert [found.lack_of_fit[k] for k in ("F", "df", "p")] == pytest.approx(
        told.loc["lack", ["F", "df", "p"]].tolist()
    )
    assert found.r2 == pytest.approx(told.loc["r2", "r2"]) and found.kind == "maximum" and found.inside
    # At the stationary point the surface is level: no neighbour is higher.
    steps = np.array([-1e-3, 0.0, 1e-3])
    near = found.at(found.stationary[0] * (1 + steps[:, None]), found.stationary[1] * (1 + steps[None, :]))
    assert near.argmax() == 4 and near[1, 1] < frame["y"].max() + 1


def test_the_chemical_process_has_its_published_optimum() -> None:
    """Lenth, J. Stat. Softw. 32 (2009) 7, section 4: time 86.86, temperature 176.67."""
    found = analysis.surface(data("chem"), "yield", ["time", "temp"], block="block")
    assert found.stationary == pytest.approx((86.86, 176.67), abs=0.005)


def test_what_has_no_surface_is_told() -> None:
    frame = data("grid")
    with pytest.raises(ValueError, match="not numeric with three levels"):
        analysis.surface(frame[frame["width"] < 16], "y", ["width", "rate"])
    diagonal = pd.DataFrame({"a": [1, 2, 3, 4] * 2, "b": [1, 2, 3, 4] * 2, "y": range(8)})
    with pytest.raises(ValueError, match="cannot tell the curvatures"):
        analysis.surface(diagonal, "y", ["a", "b"])


@pytest.mark.parametrize("kind", ["steps", "cuts", "helmert"])
def test_contrasts_of_ordered_levels_agree_with_r(kind: str) -> None:
    found = analysis.contrasts(data("oats"), "yield", "nitro", kind, ["variety", "nitro"], block="block")
    for column in ("estimate", "se", "p"):
        assert found[column].tolist() == pytest.approx(more(kind)[column].tolist(), rel=1e-8)
    adjusted = analysis.contrasts(
        data("oats"), "yield", "nitro", kind, ["variety", "nitro"], block="block", adjust="bonferroni"
    )
    assert adjusted["p"].iloc[0] == pytest.approx(more(kind).loc["1", "bonferroni"])
    words = pd.Categorical(["low", "mid", "high"] * 3, ["low", "mid", "high"], ordered=True)
    named = analysis.contrasts(pd.DataFrame({"g": words, "y": range(9)}), "y", "g", kind)
    assert named.index[1] == {"steps": "high - mid", "cuts": "from high on - below"}.get(
        kind, "high - mean of those below"
    )


def test_sphericity_agrees_with_r() -> None:
    found, told = analysis.sphericity(data("oats"), "yield", "variety*nitro", "block"), more("sphericity")
    assert found.loc[told.index, "F"].tolist() == pytest.approx(told["F"].tolist())
    assert found.loc[told.index, "df_residual"].tolist() == told["df_residual"].tolist()
    for term in ("variety", "nitro"):
        for column in ("gg", "hf", "p_gg", "p_hf"):
            assert found.loc[term, column] == pytest.approx(told.loc[term, column]), (term, column)
    one = analysis.repeated_measures(data("sleepstudy"), "Reaction", "Days", "Subject").loc["Days"]
    same = analysis.sphericity(data("sleepstudy"), "Reaction", ["Days"], "Subject").loc["Days"]
    assert same[["F", "gg", "hf", "p_gg"]].tolist() == pytest.approx(one[["F", "gg", "hf", "p_gg"]].tolist())


def test_variances_of_pairs_agree_with_limma() -> None:
    means = data("oats").groupby(["block", "nitro"], as_index=False)["yield"].mean()
    found, told = analysis.tukey(means, "yield", "nitro", block="block", variances="moderated"), more("moderated")
    assert found["t"].tolist() == pytest.approx(told.loc[found.index, "t"].tolist())
    assert found["p"].tolist() == pytest.approx(told.loc[found.index, "p"].tolist(), abs=2e-8)  # R's ptukey is no finer
    half = found["estimate"] - found["low"]
    excluded = (found["low"] > 0) | (found["high"] < 0)
    assert (half > 0).all() and (excluded == (found["p"] < 0.05)).all()
    with pytest.raises(ValueError, match="pooled or moderated"):
        analysis.tukey(means, "yield", "nitro", variances="own")


@pytest.mark.usefixtures("undrawn")
def test_a_page_of_numeric_factors_has_surface_steps_and_sphericity(tmp_path) -> None:
    report = write_report(FOLDER / "data_grid.csv", out=tmp_path)
    page, tables = report.page.read_text().replace("\N{NO-BREAK SPACE}", " "), tmp_path / "tables"
    assert "has its maximum at width 4.50, rate 0.0108, within what was tried" in page
    assert "lack of fit, F(10, 45) = 1.10" in page and (tmp_path / "figures" / "surface.svg").is_file()
    surface = pd.read_csv(tables / "surface.csv", index_col="term")
    assert surface["estimate"].tolist() == pytest.approx(
        more("grid").loc[["x1", "x2", "I(x1^2)", "I(x2^2)", "x1:x2"], "estimate"].tolist()
    )
    joint = pd.read_csv(tables / "additive.csv", index_col="term")
    trends = pd.read_csv(tables / "trends.csv")
    assert "F(1, 45)" in " ".join(report.conclusion) and joint.loc["residual", "df"] == 45
    assert trends.loc[0, "sum_sq"] / joint.loc["residual", "mean_sq"] == pytest.approx(trends.loc[0, "F"])
    steps = pd.read_csv(tables / "steps.csv")
    assert ((steps["low"] > 0) | (steps["high"] < 0)).equals(steps["p"] < 0.05) and len(steps) == 6
    robust = pd.read_csv(tables / "robust.csv", index_col="term")
    frame = data("grid").rename(columns={"seed": "block"})
    assert robust["p_hf"].tolist() == pytest.approx(
        analysis.sphericity(frame, "y", list(robust.index), "block")["p_hf"].tolist()
    )
    pairs = pd.read_csv(tables / "pairs_of_designs.csv")
    assert len(pairs) == 120 and pairs["df"].max() <= 9  # 4 of the prior, and at most 5 of a pair of 4 seeds


@pytest.mark.usefixtures("undrawn")
def test_time_is_a_cost_only_of_runs_that_were_trained_one_by_one(tmp_path) -> None:
    alone = write_study(tmp_path / "alone", ["attn2o-ffni", "resi-reso", "ffni-ffni"], samples=0)
    page = write_report(alone).page.read_text()
    assert "training time" in page and "trained together in fleets" not in page
    for path in alone.glob("*/record.json"):  # members of a fleet have equal shares of its seconds
        record = json.loads(path.read_text())
        record["seconds"]["train"] = 3.25 + record["factors"]["seed"]
        path.write_text(json.dumps(record))
    page = write_report(alone).page.read_text()
    assert "trained together in fleets" in page and "training time (s)" not in page
    assert "seconds_train" not in (alone / "report" / "tables" / "sizes.csv").read_text()


@pytest.mark.usefixtures("undrawn")
def test_runs_of_another_task_are_no_failures(tmp_path) -> None:
    folder = write_study(tmp_path / "two", ["attn2o-ffni", "resi-reso", "ffni-ffni"], samples=0)
    write_study(folder, ["attn2o-ffni", "resi-reso", "ffni-ffni"], samples=0, task="finetune")
    report = write_report(folder)
    page = report.page.read_text()
    assert report.notes[0] == "9 of 18 runs, those of task finetune, have no clip_i and are left out."
    assert "Runs without a score" not in page and "Training loss of 9 runs" in page and "The task is dreambooth" in page
