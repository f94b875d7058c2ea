"""Over which tests the claims of a report are adjusted, and what it says of that."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

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


def test_a_page_with_another_type_says_what_its_conclusion_rests_on(table, tmp_path):
    report = write_report(table, "acc", ["a", "b"], out=tmp_path, type=3)
    assert any("by tests of type II; the type III that was asked for is in the table" in n for n in report.notes)
    assert not any("type II" in n for n in write_report(table, "acc", ["a", "b"], out=tmp_path).notes)
