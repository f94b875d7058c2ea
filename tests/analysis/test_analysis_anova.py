"""Analysis of variance tables, effect sizes, means and contrasts against R and NIST; degenerate input; invariance."""

from __future__ import annotations

import subprocess
import sys
import warnings
from fractions import Fraction
from importlib import resources

import numpy as np
import pandas as pd
import pytest
from r_reference import data, r

import analysis

HEAT = analysis.load_paper_heatmap()


def compare(table: pd.DataFrame, case: str, columns: str = "sum_sq df F p", rel: float = 1e-9, rename=None) -> None:
    reference = r(case)
    table = table.rename(index=rename or {})
    checked = 0
    for row in reference.index:
        for column in columns.split():
            if column in reference and np.isfinite(reference.loc[row, column]):
                expected = reference.loc[row, column]
                assert table.loc[row, column] == pytest.approx(expected, rel=rel, abs=1e-14), (case, row, column)
                checked += 1
    assert checked


def warp() -> pd.DataFrame:
    frame = data("warp")
    frame["tension"] = pd.Categorical(frame["tension"], ["L", "M", "H"])
    return frame


@pytest.mark.parametrize(
    ("case", "name", "metric", "terms", "kind", "options"),
    [
        ("warp_1", "warp", "breaks", "wool*tension", 1, {}),
        ("warp_2", "warp", "breaks", "wool*tension", 2, {}),
        ("warp_3", "warp", "breaks", "wool*tension", 3, {}),
        ("npk_1", "npk", "yield", "block + N*P*K", 1, {}),  # N:P:K is aliased with the blocks
        ("tooth_levels", "tooth", "len", "supp*dose", 2, {}),
        ("tooth_trend", "tooth", "len", "supp*dose", 2, {"numeric": ["dose"]}),
        ("tooth_trend_3", "tooth", "len", "supp*dose", 3, {"numeric": ["dose"]}),
        ("tooth_poly", "tooth", "len", "supp + dose", 2, {"numeric": {"dose": 2}}),
        ("heat_1", None, "clip_similarity", "din + dout", 1, {}),  # disconnected design from here
        ("heat_2", None, "clip_similarity", "din + dout", 2, {}),
        ("study_2", "study", "clip_i", "din + dout", 2, {}),
        ("study_block", "study", "clip_i", "placement", 2, {"block": "seed"}),
        ("study_interaction", "study", "clip_i", "seed + din*dout", 1, {}),
    ],
)
def test_tables_agree_with_r(case, name, metric, terms, kind, options):
    table = analysis.anova(HEAT if name is None else data(name), metric, terms, kind, **options)
    rename = {"tooth_levels": {"dose": "fdose", "supp:dose": "supp:fdose"}, "tooth_poly": {"dose": "poly(dose, 2)"}}
    compare(table, case, rename=rename.get(case))


def test_public_heatmap():
    oneway = analysis.oneway(HEAT, "clip_similarity", ["dout", "din"])
    assert list(oneway.index) == ["din", "dout"]  # largest F first
    assert oneway["F"].round(2).tolist() == [11.97, 0.77]
    assert oneway["p"].round(4).tolist() == [0.0003, 0.6084]
    table = analysis.anova(HEAT, "clip_similarity", ["din", "dout"])
    assert table["df"].tolist() == [7, 4, 6]
    assert table.loc["dout", "p"] == pytest.approx(0.64, abs=0.005)  # counting columns gives 0.047
    assert table.attrs["components"] == 3 and table.attrs["aliased"] == {"din": 2, "dout": 2}
    assert "7 of 9 degrees of freedom" in table.loc["din", "note"]
    assert list(table.columns[:5]) == ["sum_sq", "df", "mean_sq", "F", "p"] and table.index[-1] == "residual"
    assert sorted(HEAT.groupby("component")["din"].nunique()) == [1, 2, 7]


def _exact_f(groups: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """F and R squared of the stored doubles in exact arithmetic: as integers, multiples of 2**-20."""
    whole = [int(Fraction(float(v)) * 2**20) for v in y]
    parts: dict = {}
    for g, v in zip(groups, whole, strict=True):
        parts.setdefault(g, []).append(v)
    mean = Fraction(sum(whole), len(whole))
    between = sum(len(p) * (Fraction(sum(p), len(p)) - mean) ** 2 for p in parts.values())
    within = sum(sum(v * v for v in p) - Fraction(sum(p) ** 2, len(p)) for p in parts.values())
    F = (between / (len(parts) - 1)) / (within / (len(y) - len(parts)))
    return float(F), float(between / (between + within))


def _nist(name: str) -> tuple[np.ndarray, np.ndarray, float]:
    text = (resources.files("scipy.stats.tests.data") / "nist_anova" / f"{name}.dat").read_text().splitlines()
    certified = next(float(line.split()[-1]) for line in text if line.startswith("Between"))
    values = [line.split() for line in text[60:] if len(line.split()) == 2]
    return np.array([v[0] for v in values]), np.array([float(v[1]) for v in values]), certified


@pytest.mark.parametrize("name", ["SiRstv", "AtmWtAg", *[f"SmLs0{i}" for i in range(1, 10)]])
def test_nist_one_way(name):
    groups, y, certified = _nist(name)
    row = analysis.oneway(pd.DataFrame({"g": groups, "y": y}), "y", "g").loc["g"]
    # Values near 1e12 cannot hold the certified result in float64; there the target is the F of the stored doubles.
    if name in ("SmLs07", "SmLs08", "SmLs09"):
        F, eta2 = _exact_f(groups, y)
        assert row["F"] == pytest.approx(F, rel=1e-12) and row["eta2"] == pytest.approx(eta2, rel=1e-12)
    else:
        assert row["F"] == pytest.approx(certified, rel=1e-9)


def test_effect_sizes_agree_with_r():
    table = analysis.anova(warp(), "breaks", "wool*tension")
    names = {"eta_squared": "eta2_partial", "omega_squared": "omega2_partial"}
    names |= {"epsilon_squared": "epsilon2_partial", "cohens_f": "cohen_f"}
    for function, column in names.items():
        reference = r(f"effect_{function}")
        assert np.allclose(table.loc[reference.index, column], reference["value"], rtol=1e-10)
    reference = r("effect_eta_squared")
    for end in ("low", "high"):
        assert np.allclose(table.loc[reference.index, f"eta2_partial_{end}"], reference[end], atol=2e-7)
    row = analysis.oneway(HEAT, "clip_similarity", "din").loc["din"]
    lam = r("lambda_heat")["lambda"]
    assert row["omega2_partial_low"] == pytest.approx(lam["0.975"] / (lam["0.975"] + 20), rel=1e-7)
    assert row["omega2_partial_high"] == pytest.approx(lam["0.025"] / (lam["0.025"] + 20), rel=1e-7)


def test_means_and_contrasts_agree_with_emmeans():
    mean, pair = "mean se df low high", "estimate se df t p"
    study, tooth = data("study"), data("tooth")
    compare(analysis.marginal_means(warp(), "breaks", "tension", "wool*tension"), "means_warp", mean)
    compare(analysis.contrasts(warp(), "breaks", "tension", terms="wool*tension"), "pairs_warp", pair)
    for case, numeric in [("means_tooth_trend", {"dose": 1}), ("means_tooth_poly", {"dose": 2})]:
        compare(analysis.marginal_means(tooth, "len", "supp", "supp*dose", numeric=numeric), case, mean)
    compare(analysis.marginal_means(study, "clip_i", "placement", block="seed"), "means_study_block", mean)
    big = study[~study["din"].isin(["attn2c", "resi", "reso"])]
    means = analysis.marginal_means(big, "clip_i", "din", "din + dout")
    compare(means, "means_study_component", mean)
    within = analysis.marginal_means(study, "clip_i", "din", "din + dout", over="component")
    assert np.allclose(within.loc[means.index, "mean"], means["mean"], rtol=1e-12)


def test_what_is_not_estimable_is_the_same_as_in_emmeans():
    study = data("study")
    pairs = analysis.contrasts(study, "clip_i", "din", terms="din + dout")
    compare(pairs, "pairs_study", "estimate se df t p")
    reference = r("pairs_study")["estimate"].notna()
    assert pairs["estimable"].eq(reference.reindex(pairs.index)).all() and pairs["estimable"].sum() == 22
    assert pairs.loc[~pairs["estimable"], "estimate"].isna().all() and pairs.loc[~pairs["estimable"], "note"].all()
    means = analysis.marginal_means(study, "clip_i", "din", "din + dout")
    assert not means["estimable"].any() and means["mean"].isna().all() and (means["note"] != "").all()


def _random_study(rng: np.random.Generator, n: int = 60) -> pd.DataFrame:
    frame = pd.DataFrame({"a": rng.integers(0, 4, n), "b": rng.integers(0, 3, n), "c": rng.integers(0, 2, n)})
    frame["y"] = frame["a"] * 0.3 + rng.normal(size=n)
    return frame[rng.random(n) < 0.9]


@pytest.mark.parametrize("seed", range(8))
def test_invariance_and_sums_of_squares(seed):
    rng = np.random.default_rng(seed)
    frame = _random_study(rng)
    if seed % 2:  # an incomplete, disconnected design
        frame = frame[(frame["a"] < 2) == (frame["b"] < 1)]
    for kind in (1, 2, 3):
        table = analysis.anova(frame, "y", "a*b + c", kind)
        shuffled = analysis.anova(frame.sample(frac=1, random_state=seed), "y", "a*b + c", kind)
        named = frame.assign(a=frame["a"].map({0: "q", 1: "z", 2: "d", 3: "m"}), y=frame["y"] * -3e4 + 7e6)
        changed = analysis.anova(named, "y", "a*b + c", kind)
        numbers = ["df", "F", "p", "eta2", "omega2_partial", "eta2_partial_low"]
        for other in (shuffled, changed):
            assert np.allclose(table[numbers], other[numbers], rtol=1e-7, atol=1e-9, equal_nan=True)
        assert np.allclose(changed["sum_sq"], table["sum_sq"] * 9e8, rtol=1e-7, equal_nan=True)
    first = analysis.anova(frame, "y", "a*b + c", 1)
    total = float(np.sum((frame["y"] - frame["y"].mean()) ** 2))
    assert first["sum_sq"].sum() == pytest.approx(total, rel=1e-12) and first["df"].sum() == len(frame) - 1


def test_large_designs_take_another_path_to_the_same_numbers(monkeypatch):
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(rng.integers(0, 5, (3000, 4)), columns=list("abcd"))
    frame["y"] = rng.normal(size=3000) + frame["a"] * frame["b"] / 9 + 1e6
    terms = analysis.interactions(list("abcd"), 2)
    for numeric in ({}, {"d": 2}):
        dense = analysis.anova(frame, "y", terms, numeric=numeric)
        monkeypatch.setattr("analysis.linear_model.solve._DENSE_FLOPS", 0)
        gram = analysis.anova(frame, "y", terms, numeric=numeric)
        monkeypatch.undo()
        columns = ["sum_sq", "df", "F", "p"]
        assert np.allclose(dense[columns], gram[columns], rtol=1e-9, equal_nan=True)


DEGENERATE = {
    "one level": ({"a": list("xxxx"), "y": [1, 2, 3, 4.0]}, "only one level"),
    "one run a cell": ({"a": list("wxyz"), "y": [1, 2, 3, 4.0]}, "no residual is left"),
    "no variance in the cells": ({"a": list("xxyy"), "y": [0.1, 0.1, 0.3, 0.3]}, "without any residual"),
    "constant metric": ({"a": list("xxyy"), "y": [0.1] * 4}, "constant"),
    "missing values": ({"a": [*"xxyy", None], "y": [1, 2, np.nan, 4.0, 5]}, "2 of 5 runs are left out"),
    "infinite value": ({"a": list("xxyy"), "y": [1, 2, np.inf, 4.0]}, "1 of 4 runs are left out"),
    "two runs": ({"a": list("xy"), "y": [1.0, 2]}, "no residual is left"),
    "one run": ({"a": ["x"], "y": [1.0]}, "only one level"),
}


@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_input_gives_a_sentence(case):
    columns, sentence = DEGENERATE[case]
    frame = pd.DataFrame(columns)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in (1, 2, 3):
            table = analysis.anova(frame, "y", ["a"], kind)
            assert any(sentence in note for note in table.attrs["notes"]), table.attrs["notes"]
            if np.isnan(table.loc["a", "F"]):
                assert table.loc["a", "note"] or table.attrs["notes"]
        analysis.oneway(frame, "y", "a")
        analysis.marginal_means(frame, "y", "a")
        analysis.contrasts(frame, "y", "a")


def test_confounded_factors_are_named():
    frame = pd.DataFrame({"a": list("xxyyzz"), "b": list("ppqqrr"), "y": [1.0, 2, 4, 3, 6, 5]})
    table = analysis.anova(frame, "y", ["a", "b"])
    assert (table.loc[["a", "b"], "df"] == 0).all() and table.loc["a", "note"] == "a is not estimable: b determines a."
    assert analysis.anova(frame, "y", ["a", "b"], 1).loc["a", "df"] == 2


def test_wrong_requests_are_one_sentence():
    for call in (
        lambda: analysis.anova(HEAT, "clip_x", ["din"]),
        lambda: analysis.anova(HEAT, "clip_similarity", ["nope"]),
        lambda: analysis.anova(HEAT, "din", ["dout"]),
        lambda: analysis.anova(HEAT, "clip_similarity", []),
        lambda: analysis.anova(HEAT, "clip_similarity", ["din"], type=4),
        lambda: analysis.anova(HEAT, "clip_similarity", ["din"], numeric=["din"]),
        lambda: analysis.anova(HEAT.iloc[:0], "clip_similarity", ["din"]),
        lambda: analysis.contrasts(HEAT, "clip_similarity", "din", "baseline", baseline="nope"),
        lambda: analysis.marginal_means(HEAT, "clip_similarity", "din", "dout"),
    ):
        with pytest.raises(ValueError, match=r"^[^\n]+\.$"):
            call()


def test_analysis_never_imports_torch():
    names = ", ".join(analysis.__all__)
    code = f"import sys, analysis; from analysis import {names}; assert 'torch' not in sys.modules, 'torch'"
    subprocess.run([sys.executable, "-c", code], check=True)


if __name__ == "__main__":
    pytest.main([__file__])
