"""Over which tests the claims of a report are adjusted, and what it says of that."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from r_reference import FOLDER, data, r

import analysis
from analysis.__main__ import main
from analysis.comparisons.family import family
from analysis.report import write_report
from analysis.variance.verdict import verdicts


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Two factors and two scores; p of a is between 0.0125 and 0.025, so that each family decides otherwise."""
    rng = np.random.default_rng(0)
    for seed in range(2000):
        rng = np.random.default_rng(seed)
        rows = [(a, b, s) for a in "xyz" for b in "uvw" for s in range(4)]
        frame = pd.DataFrame(rows, columns=["a", "b", "seed"])
        frame["acc"] = 0.5 * (frame["a"] == "x") + rng.normal(0, 1, len(frame))
        frame["f1"] = rng.normal(0, 1, len(frame))
        with family("none"):
            found = verdicts(frame, "acc", ["a", "b"], "seed")
        p = found["p_claim"]
        if 0.0125 < p["a"] < 0.02 and found.loc["a", "p"] < 0.02 and p["b"] > 0.3:
            path = tmp_path_factory.mktemp("family") / "runs.csv"
            frame.to_csv(path, index=False)
            return path
    raise AssertionError("no such table was drawn")


@pytest.mark.usefixtures("undrawn")
def test_the_family_decides_what_is_claimed(table, tmp_path, capsys):
    asked = [str(table), "--metric", "acc", "--factors", "a,b", "--out", str(tmp_path)]
    said = {}
    for kind in ("terms", "scores", "none"):
        assert main([*asked, "--family", kind]) == 0
        said[kind] = capsys.readouterr().out
    assert "a matters" in said["terms"] and "a matters" in said["none"] and "a matters" not in said["scores"]
    assert "adjustment" in said["terms"].split("Not shown")[0] and "(--family none)" in said["none"]
    assert "over the 2 scores (--family scores)" in said["scores"]
    assert "with Holm's adjustment over the terms, times 2 scores, it has p" in said["scores"]
    with pytest.raises(ValueError, match="choose terms, scores, none"):
        write_report(table, family="all")


@pytest.mark.usefixtures("undrawn")
def test_the_type_of_the_sums_of_squares_counts_for_every_test(tmp_path):
    """Unbalanced warpbreaks: type III of car, also in the conclusion, the tests beside F and hc3 (R: white.adjust)."""
    report = write_report(FOLDER / "data_warp.csv", model="breaks ~ wool * tension", out=tmp_path, type=3)
    text = " ".join(report.conclusion)
    assert "wool (F(1, 42) = 5.05" in text and "Tests of the joint model are of type III" in text
    for name in ("additive", "robust"):
        F = pd.read_csv(tmp_path / "tables" / f"{name}.csv", index_col="term")["F"]
        assert F.drop("residual", errors="ignore").to_dict() == pytest.approx(
            {row: r("warp_3").loc[row, "F"] for row in ("wool", "tension", "wool:tension")}, rel=1e-8
        )
    warp, terms = data("warp"), "wool*tension"
    for kind in (1, 2, 3):
        of_r = r(f"warp_{kind}")["F"].drop("residual")
        for found in (analysis.wild_bootstrap, analysis.permutation):
            few = {"flips": 9} if found is analysis.wild_bootstrap else {"n_permutations": 9}
            assert found(warp, "breaks", terms, type=kind, **few)["F"].to_dict() == pytest.approx(of_r.to_dict())
    white = analysis.robust_anova(warp, "breaks", terms, type=3)["F"]
    assert white.tolist() == pytest.approx([3.99500, 6.94795, 3.16587], abs=1e-5)
    plain = write_report(FOLDER / "data_warp.csv", model="breaks ~ wool * tension", out=tmp_path)
    assert "wool (F(1, 42) = 4.01" in " ".join(plain.conclusion) and not any("type" in n for n in plain.notes)


def test_what_type_three_cannot_test_is_said():
    said = analysis.conclude(data("study"), "clip_i", terms=["din", "dout", "din:dout"], type=3)
    assert "The type III test of din is not estimable: an interaction with it has empty cells." in said
