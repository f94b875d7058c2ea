"""Comparisons, robust tests, assumptions, mixed models, strata, power, several metrics and conclusions, against R."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import warnings

import numpy as np
import pandas as pd
import pytest
from r_reference import FOLDER, data, r
from scipy import stats

import analysis
from analysis.linear_model import quadrature

HEAT = analysis.load_paper_heatmap()


def pairs_agree(table: pd.DataFrame, case: str, atol: dict[str, float]) -> None:
    """R names a pair "later-earlier"; ours may be the other way round."""
    for row, values in r(case).iterrows():
        b, a = (part.strip() for part in str(row).split("-"))
        ours = table[((table["a"] == a) & (table["b"] == b)) | ((table["a"] == b) & (table["b"] == a))].iloc[0]
        flip = ours["a"] == a
        low, high = (-ours["high"], -ours["low"]) if flip else (ours["low"], ours["high"])
        found = {
            **ours.to_dict(),
            "estimate": -ours["estimate"] if flip else ours["estimate"],
            "low": low,
            "high": high,
        }
        for column, tolerance in atol.items():
            assert found[column] == pytest.approx(values[column], abs=tolerance), (case, row, column)


def test_pairs_agree_with_r():
    plant, sprays = data("PlantGrowth"), data("sprays")
    exact = {"estimate": 1e-9, "p": 1e-8, "low": 1e-7, "high": 1e-7}
    pairs_agree(analysis.tukey(plant, "weight", "group"), "tukey_plant", exact)
    pairs_agree(analysis.tukey(sprays, "count", "spray"), "tukey_sprays", exact)
    pairs_agree(
        analysis.games_howell(sprays, "count", "spray"), "games_howell", {"estimate": 1e-9, "df": 1e-9, "p": 1e-7}
    )
    # R's critical values for Dunnett are random to about 1e-4, its p values in so few dimensions nearly exact.
    loose = {"estimate": 1e-9, "p": 1e-6, "low": 1e-3}
    pairs_agree(analysis.dunnett(plant, "weight", "group", "ctrl"), "dunnett_plant", loose)
    pairs_agree(analysis.dunnett(sprays, "count", "spray", "A"), "dunnett_sprays", loose)
    means = analysis.contrasts(data("warp"), "breaks", "tension", terms="wool*tension")
    tukey = analysis.tukey(data("warp"), "breaks", "tension", "wool*tension")
    reference = r("tukey_means_warp")
    assert np.allclose(sorted(tukey["p"]), sorted(reference["p"]), atol=1e-8) and np.allclose(tukey["t"], means["t"])


def test_letters_agree_with_r():
    ours = analysis.letters(analysis.tukey(data("sprays"), "count", "spray"))
    theirs = pd.read_csv(FOLDER / "letters.csv", index_col="spray")["letters"]
    for x in ours.index:
        for y in ours.index:
            assert bool(set(ours[x]) & set(ours[y])) == bool(set(theirs[x]) & set(theirs[y]))


@pytest.mark.parametrize("seed", range(5))
def test_letters_say_exactly_what_the_tests_say(seed):
    rng = np.random.default_rng(seed)
    names = [f"m{i}" for i in range(9)]
    rows = [(a, b, rng.random()) for i, a in enumerate(names) for b in names[i + 1 :]]
    pairs = pd.DataFrame(rows, columns=["a", "b", "p"])
    shown = analysis.letters(pairs, order=names, alpha=0.4)
    for a, b, p in rows:
        assert bool(set(shown[a]) & set(shown[b])) == (p >= 0.4)


def test_adjusted_p_values_agree_with_r():
    p = [0.001, 0.011, 0.02, 0.04, 0.04, 0.2, 0.7]
    for ours, theirs in {"holm": "holm", "bh": "BH", "by": "BY", "bonferroni": "bonferroni"}.items():
        assert np.allclose(analysis.adjust(p, ours), r("adjust")[theirs], rtol=1e-12)
    assert np.isnan(analysis.adjust([0.01, np.nan], "holm")[1]) and analysis.adjust([0.01, np.nan], "holm")[0] == 0.01


def test_quadrature_against_scipy_and_simulation():
    for k, df, q in [(3, 2, 5.0), (20, 40, 5.3), (5, 1e6, 3.0), (8, 12, 4.2)]:
        assert quadrature.studentized_range_sf(np.array(q), k, df) == pytest.approx(
            stats.studentized_range.sf(q, k, df), abs=2e-8
        )
    loading = np.array([0.9, 0.5, 0.2, 0.7])
    rng = np.random.default_rng(0)
    z = loading * rng.normal(size=(400_000, 1)) + np.sqrt(1 - loading**2) * rng.normal(size=(400_000, 4))
    t = z / np.sqrt(rng.chisquare(7, (400_000, 1)) / 7)
    for two, largest in ((True, np.abs(t).max(axis=1)), (False, t.max(axis=1))):
        p = quadrature.one_factor_sf(np.array(2.0), loading, 7, two)
        assert p == pytest.approx(np.mean(largest > 2.0), abs=3e-3)
    assert np.allclose(quadrature.one_factor_loadings(np.outer(loading, loading) + np.diag(1 - loading**2)), loading)


def test_the_best_is_in_the_best_set_as_often_as_promised():
    """Hsu: the truly best level is in the set in at least 95 % of studies, and exactly so when all are equal."""
    rng, hits, size = np.random.default_rng(5), 0, 0
    frame = pd.DataFrame({"g": np.repeat(list("abcd"), [3, 3, 4, 2])})
    for _ in range(120):
        found = analysis.best_set(frame.assign(y=rng.normal(size=12)), "y", "g")
        hits += bool(found.loc["a", "in_set"])
        size += int(found["in_set"].sum())
    assert 0.89 <= hits / 120 <= 0.995 and size / 120 < 4
    far = analysis.best_set(frame.assign(y=[0, 1, 2, 50, 51, 52, 50, 51, 52, 51, 0, 1]), "y", "g")
    assert far["in_set"].to_dict() == {"b": True, "c": True, "a": False, "d": False}
    assert (far["low"] <= far["gap"]).all() and (far["gap"] <= far["high"]).all()
    fewer = analysis.best_set(frame.assign(fid=np.arange(12.0)), "fid", "g")
    assert fewer.index[0] == "a" and not fewer.attrs["maximize"]


def test_robust_tests_agree_with_r():
    sprays, warp = data("sprays"), data("warp")
    for case, ours in (("welch", analysis.welch), ("kruskal", analysis.kruskal)):
        row, reference = ours(sprays, "count", "spray").loc["spray"], r(case).loc["spray"]
        for column, value in reference.items():
            assert row[column] == pytest.approx(value, rel=1e-9)
    for kind in ("hc0", "hc1", "hc2", "hc3"):
        table, reference = analysis.robust_anova(warp, "breaks", "wool*tension", covariance=kind), r(f"warp_{kind}")
        for term in table.index:
            assert table.loc[term, "F"] == pytest.approx(reference.loc[term, "F"], rel=1e-9)
            assert table.loc[term, "p"] == pytest.approx(reference.loc[term, "p"], rel=1e-9)
    ranks, art = analysis.aligned_ranks(data("warpbreaks"), "breaks", ["wool", "tension"]), r("art")
    for term, row in {"wool": "A", "tension": "B", "wool:tension": "AB"}.items():
        assert ranks.loc[term, "F"] == pytest.approx(art.loc[row, "F"], rel=1e-9)


def test_permutation_p_values():
    warp = data("warp")
    one = analysis.permutation(warp, "breaks", "wool*tension", n_permutations=4999)
    table = analysis.anova(warp, "breaks", "wool*tension")
    for term in one.index:
        assert one.loc[term, "F"] == pytest.approx(table.loc[term, "F"], rel=1e-10)
        assert one.loc[term, "p"] == pytest.approx(table.loc[term, "p"], abs=0.015)
    assert analysis.permutation(warp, "breaks", "wool*tension", n_permutations=4999).equals(one)
    # Few runs: all 20 ways to split six runs in two groups; F is largest for 2 of them.
    six = pd.DataFrame({"g": list("aaabbb"), "y": [1.0, 2, 3, 11, 12, 13]})
    assert analysis.permutation(six, "y", ["g"], n_permutations=9999).loc["g", "p"] == pytest.approx(0.1, abs=0.01)
    # Within blocks only: each seed's two runs can be exchanged or not, F is largest for 2 of 16.
    pairs = pd.DataFrame({"g": list("ab") * 4, "seed": [0, 0, 1, 1, 2, 2, 3, 3], "y": [0, 1, 10, 12, 20, 21.5, 5, 7.0]})
    p = analysis.permutation(pairs, "y", ["g"], block="seed", n_permutations=9999).loc["g", "p"]
    assert p == pytest.approx(0.125, abs=0.01)


def test_assumptions_agree_with_r():
    checks = analysis.check_assumptions(data("sprays"), "count", "spray")
    for name, center in (("equal variances", "median"), ("equal variances (means)", "mean")):
        assert checks.loc[name, "statistic"] == pytest.approx(r("levene").loc[center, "F"], rel=1e-9)
        assert checks.loc[name, "p"] == pytest.approx(r("levene").loc[center, "p"], rel=1e-9)
    assert not checks.loc["equal variances", "ok"] and "Welch" in checks.loc["equal variances", "sentence"]
    checks = analysis.check_assumptions(data("warp"), "breaks", "wool*tension")
    assert checks.loc["normal residuals", "statistic"] == pytest.approx(r("shapiro").loc["warp", "W"], rel=1e-5)
    assert checks.loc["normal residuals", "p"] == pytest.approx(r("shapiro").loc["warp", "p"], rel=1e-3)
    out = analysis.residuals(data("warp"), "breaks", "wool*tension")
    for row, values in r("influence").iterrows():
        ours = out.iloc[int(str(row)) - 1]
        assert ours[["leverage", "studentized", "cook"]].to_numpy(float) == pytest.approx(
            values[["hat", "rstudent", "cook"]].to_numpy(float), rel=1e-9
        )


@pytest.mark.parametrize(
    ("case", "name", "metric", "fixed", "random", "numeric"),
    [
        ("mixed_sleep", "sleepstudy", "Reaction", "Days", "Subject", ["Days"]),
        ("mixed_oats", "oats", "yield", "variety + nitro", ["block", "block:variety"], ()),
        ("mixed_oats2", "oats2", "yield", "variety*nitro", ["block", "block:variety"], ()),
        ("mixed_study", "study", "clip_i", "placement", "seed", ()),
        ("mixed_penicillin", "Penicillin", "diameter", "1", ["plate", "sample"], ()),
    ],
)
def test_mixed_models_agree_with_lmertest_and_pbkrtest(case, name, metric, fixed, random, numeric):
    reference = r(case)
    # R stops its optimiser at about 1e-4 of a variance and differentiates it numerically; Kenward-Roger does not.
    for kind, full, rel in (("satterthwaite", "Satterthwaite", 3e-4), ("kenward-roger", "Kenward-Roger", 1e-6)):
        table = analysis.mixed(data(name), metric, fixed, random, df=kind, numeric=numeric)
        for term in table.index:
            assert table.loc[term, "F"] == pytest.approx(reference.loc[term, f"F_{full}"], rel=1e-6)
            assert table.loc[term, "df"] == reference.loc[term, f"df_{full}"]
            assert table.loc[term, "df_residual"] == pytest.approx(reference.loc[term, f"df_residual_{full}"], rel=rel)
    for group, value in table.attrs["variances"].items():
        parts = set(group.replace("residual", "Residual").split(":"))  # R may name a nested group the other way round
        row = next(i for i in reference.index if set(i.split(":")) == parts)
        assert value == pytest.approx(reference.loc[row, "variance"], rel=1e-4)


def test_mixed_model_of_a_disconnected_design():
    table = analysis.mixed(data("study"), "clip_i", "din + dout", "seed")
    assert table["df"].tolist() == [7, 4]  # lmerTest counts 9 for din
    big = data("study")
    big = big[~big["din"].isin(["attn2c", "resi", "reso"])]
    connected, reference = analysis.mixed(big, "clip_i", "din + dout", "seed", df="kenward-roger"), r("mixed_big")
    for term in ("din", "dout"):
        assert connected.loc[term, "F"] == pytest.approx(reference.loc[term, "F_Kenward-Roger"], rel=1e-6)


def test_error_strata_agree_with_r():
    for case, table in (
        ("strata", analysis.strata(data("oats"), "yield", "variety*nitro", ["block", "block:variety"])),
        ("strata_npk", analysis.strata(data("npk"), "yield", "N*P*K", ["block"])),
    ):
        for stratum in table.index.get_level_values(0).unique():
            reference = r(f"{case} {stratum.replace('within', 'Within')}")
            ours = table.loc[stratum]
            assert set(ours.index) == set(reference.index)
            for column in ("sum_sq", "df", "F", "p"):
                if column in reference:
                    assert np.allclose(ours.loc[reference.index, column], reference[column], rtol=1e-8, equal_nan=True)
    row = analysis.repeated_measures(data("sleepstudy"), "Reaction", "Days", "Subject").loc["Days"]
    columns = ["F", "gg", "hf", "p_gg"]
    assert row[columns].tolist() == pytest.approx(r("repeated").loc["d", columns].tolist())


def test_power_agrees_with_r():
    reference = r("power")
    assert analysis.power(0.4, 4, 6) == pytest.approx(reference.loc["k=4 n=6 f=.4", "power"], rel=1e-6)
    assert analysis.power(0.6, 20, 3) == pytest.approx(reference.loc["k=20 n=3 f=.6", "power"], rel=1e-6)
    assert analysis.runs_needed(0.25, 5) == int(np.ceil(reference.loc["k=5 f=.25 power=.8", "n"]))
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"g": np.repeat(np.arange(20), 3), "y": rng.normal(size=60)})
    found = analysis.detectable(frame, "y", "g")
    assert found["cohen_f"] == pytest.approx(reference.loc["k=20 n=3 power=.8", "f"], rel=1e-4)  # R stops at 1e-4
    assert analysis.power(found["cohen_f"], 20, 3) == pytest.approx(0.8)


def test_trends_add_up():
    tooth = data("tooth")
    parts = analysis.trends(tooth, "len", "dose", ["supp"])
    whole = analysis.anova(tooth, "len", ["supp", "dose"])
    assert parts["sum_sq"].sum() == pytest.approx(whole.loc["dose", "sum_sq"])
    assert parts.loc["linear", "slope"] == pytest.approx(9.763571, rel=1e-6)  # coef(lm(len ~ supp + dose)) in R
    assert analysis.anova(tooth, "len", ["dose"], numeric=["dose"]).loc["dose", "df"] == 1


def test_several_metrics():
    study = data("study").assign(fid=lambda d: -d["clip_i"] + 3, seconds_total=1.0)
    agree = analysis.rank_agreement(study, "placement", ["clip_i", "fid"])
    assert agree.loc[0, "spearman"] == pytest.approx(1) and agree.loc[0, "best_a"] == agree.loc[0, "best_b"]
    front = analysis.pareto(study, ["clip_i", "seconds_total"], by="placement")
    assert front["front"].sum() == 1 and front.index[0] == study.groupby("placement")["clip_i"].mean().idxmax()
    table = analysis.anova_all(study, ["clip_i", "fid"], ["din", "dout"], block="seed")
    assert table.loc[("clip_i", "din"), "F"] == pytest.approx(table.loc[("fid", "din"), "F"])
    assert table.loc[("clip_i", "dout"), "p_adjusted"] == pytest.approx(2 * table.loc[("clip_i", "dout"), "p"])
    ranks = analysis.importance(study, "clip_i", ["din", "dout", "seed"])
    assert ranks.index[0] == "din" and ranks["fanova"].between(0, 1).all() and ranks.loc["din", "fanova"] > 0.5


def test_conclusions_say_what_the_tests_say():
    text = analysis.conclude(HEAT, "clip_similarity", "din")
    assert "The input position (din) matters" in text and "F(9, 10) = 11.97" in text and "83 % [60, 91]" in text
    text = analysis.conclude(HEAT, "clip_similarity")
    assert "cannot be tested" in text and "(dout) cannot be shown to matter" in text and "3 parts" in text
    study = data("study").assign(clip_i_floor=0.6, clip_i_ceiling=0.9)
    text = analysis.conclude(study, "clip_i", "placement")
    for part in ("F(19, 36) = 57.74", "seed taken out as a block", "the best is among these", "attn2c-attn2c"):
        assert part in text
    assert "94 % of the way from the floor (0.6" in text and "gained over its floor" in text
    rng = np.random.default_rng(0)
    noise = study.assign(clip_i=rng.normal(0.6, 0.02, len(study)))
    text = analysis.conclude(noise, "clip_i", "placement")
    assert "cannot tell whether the placement matters" in text and "95 % confidence the best" not in text
    assert "Whether training moved clip_i from its floor these runs cannot tell" in text
    assert "every placement is worse in clip_i than the model untuned" in analysis.conclude(
        study.assign(clip_i_floor=1.0), "clip_i", "placement"
    )
    single = study.groupby("placement").head(1)  # one run a level: nothing says what chance does
    text = analysis.conclude(single, "clip_i")
    assert "of the way from the floor" in text and "nothing says whether such a gain is chance" in text
    assert "nothing to explain" in analysis.conclude(study.assign(clip_i=0.5), "clip_i")
    two = pd.concat([study.assign(task="dreambooth"), noise.assign(task="finetune")])
    two.attrs["metrics"] = ["clip_i"]  # of records, in which tasks are told apart; elsewhere a task is a factor
    assert analysis.conclude(two, "clip_i").count("\n") == 1


def test_conclusions_of_several_factors_are_those_of_the_joint_model():
    """Planted: activation and the width matter, scale does not; rates follow the activation and are no factor."""
    rng, rows = np.random.default_rng(1), []
    for activation, height in {"relu": 0.7, "sig": 0.4, "silu": 0.65}.items():
        for width, more in {8: 0.0, 16: 0.04, 32: 0.08}.items():
            for scale in (0.5, 1.0):
                for seed in range(3):
                    score = height + more + 0.02 * seed + rng.normal(0, 0.01)
                    rows.append((activation, width, scale, len(activation) / 10, seed, score))
    frame = pd.DataFrame(rows, columns=["activation", "mid_dim", "scale", "lr", "seed", "clip_i"])
    frame["method"], frame["placement"] = "adapter", "attn2o-ffni"
    text = analysis.conclude(frame, "clip_i")
    table = analysis.anova(frame, "clip_i", ["activation", "mid_dim", "scale"], block="seed")
    order = table["omega2_partial"].drop(["residual", "seed"], errors="ignore").sort_values(ascending=False)
    assert list(order.index) == ["activation", "mid_dim", "scale"] and table.loc["scale", "p"] > 0.05
    assert text.index("activation matters for") < text.index("too: mid_dim") < text.index("Not shown to matter: scale")
    for term in order.index:
        row = table.loc[term]
        assert f"F({row['df']:.0f}, {table.loc['residual', 'df']:.0f}) = {row['F']:.2f}" in text
    assert f"estimated share: {100 * order.iloc[0]:.0f} %" in text and "the other terms and the seed leave" in text
    assert "lr" not in text and "relu, mid_dim 32, scale" in text
    asked = analysis.conclude(frame, "clip_i", terms=["activation", "scale", "activation:scale"])
    assert "the interaction of activation and scale (F(2, 46)" in asked and "mid_dim" not in asked
    noise = frame.assign(clip_i=rng.normal(0.5, 0.02, len(frame)))
    assert "cannot tell whether" in analysis.conclude(noise, "clip_i")


DEGENERATE = {
    "two runs": {"g": list("ab"), "h": [1, 2], "y": [1.0, 2.0]},
    "one run": {"g": ["a"], "h": [1], "y": [1.0]},
    "one level": {"g": list("aaaa"), "h": [1, 2, 1, 2], "y": [1.0, 2, 3, 5]},
    "one run a cell": {"g": list("abcd"), "h": [1, 2, 3, 4], "y": [1.0, 2, 3, 5]},
    "zero variance": {"g": list("aabb"), "h": [1, 2, 1, 2], "y": [1.0, 1, 2, 2]},
    "constant": {"g": list("aabb"), "h": [1, 2, 1, 2], "y": [0.1] * 4},
    "missing": {"g": ["a", "a", "b", None, "b"], "h": [1, 2, 1, 2, 2], "y": [1.0, np.nan, 2, 3, 4]},
    "confounded": {"g": list("aabb"), "h": [1, 1, 2, 2], "y": [1.0, 2, 3, 5]},
    "all missing": {"g": list("aabb"), "h": [1, 1, 2, 2], "y": [np.nan] * 4},
}
CALLS = {
    "tukey": lambda d: analysis.tukey(d, "y", "g"),
    "games_howell": lambda d: analysis.games_howell(d, "y", "g"),
    "dunnett": lambda d: analysis.dunnett(d, "y", "g", "a"),
    "best_set": lambda d: analysis.best_set(d, "y", "g"),
    "best_set block": lambda d: analysis.best_set(d, "y", "g", block="h"),
    "welch": lambda d: analysis.welch(d, "y", "g"),
    "kruskal": lambda d: analysis.kruskal(d, "y", "g"),
    "permutation": lambda d: analysis.permutation(d, "y", ["g", "h"], n_permutations=99),
    "robust_anova": lambda d: analysis.robust_anova(d, "y", ["g", "h"]),
    "aligned_ranks": lambda d: analysis.aligned_ranks(d, "y", ["g", "h"]),
    "check_assumptions": lambda d: analysis.check_assumptions(d, "y", ["g"]),
    "mixed": lambda d: analysis.mixed(d, "y", "g", "h"),
    "mixed kr": lambda d: analysis.mixed(d, "y", "g", "h", df="kenward-roger"),
    "strata": lambda d: analysis.strata(d, "y", "g", "h"),
    "repeated_measures": lambda d: analysis.repeated_measures(d, "y", "g", "h"),
    "detectable": lambda d: analysis.detectable(d, "y", "g"),
    "trends": lambda d: analysis.trends(d, "y", "h"),
    "importance": lambda d: analysis.importance(d, "y", ["g", "h"]),
    "rank_agreement": lambda d: analysis.rank_agreement(d, "g", "y", split="h"),
    "anova_all": lambda d: analysis.anova_all(d, ["y"], ["g"]),
    "pareto": lambda d: analysis.pareto(d, ["y"], by="g"),
    "contrasts": lambda d: analysis.contrasts(d, "y", "g", terms="g + h"),
    "conclude": lambda d: analysis.conclude(d.assign(seed=d["h"]), "y"),
    "conclude g": lambda d: analysis.conclude(d, "y", "g"),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_input_is_a_sentence_or_a_defined_result(call, case):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            out = CALLS[call](pd.DataFrame(DEGENERATE[case]))
        except ValueError as error:
            assert str(error).endswith(".") and "\n" not in str(error), error
            return
    if isinstance(out, str):
        assert out.endswith(".") and "nan" not in out
    elif "p" in out and isinstance(out, pd.DataFrame) and len(out) and out["p"].isna().all():
        columns = [c for c in ("note", "sentence") if c in out]
        assert out.attrs.get("notes") or (out[columns] != "").any(axis=None), out


MODULES = [m.name for m in pkgutil.iter_modules(analysis.__path__) if not m.ispkg and not m.name.startswith("__")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    module = importlib.import_module(f"analysis.{name}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE).failed == 0


def test_every_public_function_has_an_example():
    missing = [n for n in analysis.__all__ if ">>>" not in (getattr(analysis, n).__doc__ or "")]
    results = {"RaceResult", "Surface"}  # what functions with an example return
    assert set(missing) - results <= {"higher_is_better"}
