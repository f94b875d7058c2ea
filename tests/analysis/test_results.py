"""The published results come from the published data."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pandas as pd
import pytest

import analysis
from analysis.conclusions.joint import own_factors

RESULTS = Path(__file__).parents[2] / "docs" / "results"


def text_of(page: str) -> str:
    """A page without its line breaks."""
    return " ".join((RESULTS / f"{page}.md").read_text(encoding="utf-8").split())


def shown_by(page: str, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """What the page's Python shows at its end, run where a reader runs it."""
    monkeypatch.chdir(RESULTS.parents[1])
    blocks = re.findall(r"(?ms)^```python\n(.*?)^```", (RESULTS / f"{page}.md").read_text(encoding="utf-8"))
    *lines, last = ast.parse(blocks[-1]).body
    names: dict[str, object] = {"analysis": analysis}
    exec(compile(ast.Module(lines, []), page, "exec"), names)
    assert isinstance(last, ast.Expr)
    shown = eval(compile(ast.Expression(last.value), page, "eval"), names)
    assert isinstance(shown, pd.DataFrame)
    return shown


def between(low: float, high: float) -> str:
    return f"[{low:.3f}, {high:.3f}]".replace("-0.000", "0.000")


@pytest.mark.parametrize(
    ("study", "page", "numbers"),
    [
        ("placement_dit", "transformer-placements.md", ["F(15, 30) = 9.34", "F(6, 34) = 1.60", "F(4, 34) = 2.14"]),
        (
            "placement_dit_without_pooled",
            "transformer-placements.md",
            ["F(15, 30) = 13.82", "F(6, 34) = 9.47", "F(4, 34) = 0.36"],
        ),
    ],
)
def test_a_page_says_what_its_data_say(study: str, page: str, numbers: list[str]):
    runs = analysis.load_results(RESULTS / f"{study}.csv")
    said = str(analysis.conclude(runs, "clip_i"))
    text = " ".join((RESULTS / page).read_text(encoding="utf-8").split())
    for number in numbers:
        assert number in said and number in text
    means = runs.groupby("placement")["clip_i"].mean()
    stream = means.index.str.startswith("text_")
    for best in (means[stream].max(), means[~stream].max()):
        assert f"{best:.3f}" in text
    assert means[stream].idxmax() in text and means[~stream].idxmax() in text


def test_the_page_of_the_unets_placements_says_what_its_data_say():
    runs = analysis.load_results(RESULTS / "placement.csv")
    text = " ".join((RESULTS / "unet-placements.md").read_text(encoding="utf-8").split())
    for score, numbers in {
        "clip_i": ["F(19, 38) = 28.48", "90 % [84, 93]", "F(7, 44) = 45.87", "84 % [77, 88]", "F(4, 44) = 27.95",
                   "64 % [51, 73]"],
        "prior_drift": ["F(7, 44) = 6.05", "F(4, 44) = 1.67, p = 0.18"],
        "clip_t": ["F(19, 38) = 18.81"],
    }.items():  # fmt: skip
        said = str(analysis.conclude(runs, score))
        assert [number for number in numbers if number not in said or number not in text] == []
    means = runs.groupby("placement")["clip_i"].mean().sort_values(ascending=False)
    floor, ceiling = runs["clip_i_floor"].mean(), runs["clip_i_ceiling"].mean()
    for placement in (*means.index[:4], means.index[-1]):
        share = (means[placement] - floor) / (ceiling - floor)
        assert f"`{placement}` | {means[placement]:.3f} | {100 * share:.0f} %" in text
    assert "among these 3" in str(analysis.conclude(runs, "clip_i")) and "among the first three" in text


def test_the_page_of_the_backbones_says_what_its_data_say():
    runs = analysis.load_results(RESULTS / "backbones.csv")
    assert analysis.factor_columns(runs) == ["placement", "din", "dout", "unet"]  # guidance only follows the model
    said = str(analysis.conclude(runs, "clip_i", terms=["placement", "unet", "placement:unet"]))
    text = " ".join((RESULTS / "backbones.md").read_text(encoding="utf-8").split())
    for number in ("F(7, 30) = 10.33", "F(1, 30) = 376.37", "F(7, 30) = 21.83", "58 % [39, 70]"):
        assert number in said and number in text
    means = runs.pivot_table(index="placement", columns="unet", values=["clip_i", "clip_i_floor", "clip_i_ceiling"])
    for placement, row in means["clip_i"].iterrows():
        assert f"| `{placement}` | {row['lab']:.3f} | {row['lab_dit']:.3f} |" in text
    shares = (means["clip_i"] - means["clip_i_floor"]) / (means["clip_i_ceiling"] - means["clip_i_floor"])
    for value in (shares.min(), shares.max()):
        assert all(f"{share:.0%}".replace("%", " %") in text for share in value)
    ranks = means["clip_i"].rank()
    assert f"rank correlation of the eight means is {ranks['lab'].corr(ranks['lab_dit']):.2f}" in text


def test_the_page_of_depth_says_what_its_data_say():
    runs = analysis.load_results(RESULTS / "depth.csv")
    said = str(analysis.conclude(runs, "clip_i", terms=["placement", "blocks", "placement:blocks"]))
    text = " ".join((RESULTS / "depth.md").read_text(encoding="utf-8").split())
    for number in ("F(3, 22) = 25.02", "67 % [48, 78]", "F(6, 22) = 5.13", "F(2, 22) = 60.16"):
        assert number in said and number in text
    assert "among these 2: attn2o-ffni, blocks all; ffni-ffni, blocks all" in said
    for placement, row in runs.pivot_table(index="placement", columns="blocks", values="clip_i").iterrows():
        assert f"| `{placement}` | " + " | ".join(f"{row[k]:.3f}" for k in ("all", "down", "mid", "up")) in text


def test_the_page_of_subjects_says_what_its_data_say():
    runs = analysis.load_results(RESULTS / "subjects.csv")
    said = str(analysis.conclude(runs, "clip_i", terms=["placement", "subject", "placement:subject"]))
    text = " ".join((RESULTS / "subjects.md").read_text(encoding="utf-8").split())
    for number in ("F(10, 34) = 2.50, p = 0.023", "22 % [3, 41]", "F(5, 34) = 15.93"):
        assert number in said and number in text
    means = runs.groupby(["subject", "placement"], as_index=False)[["clip_i", "clip_i_floor"]].mean()
    row = analysis.anova(means, "clip_i", ["placement"], block="subject").loc["placement"]
    assert f"F({row['df']:.0f}, 10) = {row['F']:.2f}, p = {row['p']:.5f}" in text
    wide = means.pivot(index="subject", columns="placement", values="clip_i")
    assert (wide.rank(axis=1, ascending=False) == [1, 2, 3]).all(axis=None)
    for subject, values in wide.iterrows():
        floor = means.loc[means["subject"] == subject, "clip_i_floor"].mean()
        assert f"| `{subject}` | {floor:.3f} | " + " | ".join(f"{v:.3f}" for v in values) in text
    # levels that have floors of their own: what is said of the best is its own floor and its own mean
    assert "salmon_ring gained most over its own, from 0.22 to 0.91." in said


@pytest.mark.parametrize(("study", "column", "best"), [("atlas", 0, 2), ("atlas_dit", 2, 8)])
def test_the_page_of_the_atlas_says_what_its_data_say(study: str, column: int, best: int):
    runs, text = analysis.load_results(RESULTS / f"{study}.csv"), text_of("atlas")
    factors = ["placement", "form", "activation", "params", "scale"]
    assert sorted(own_factors(runs)) == sorted(factors)
    said = analysis.conclude(runs, "clip_i", terms=[*factors, "form:params"])
    verdict = {claim.subject: claim.verdict for claim in said.claims}
    table = analysis.verdicts(runs, "clip_i", [*factors, "form:params"], "seed")
    names = {"params": "number of parameters", "form:params": "form and number together"}
    for term, row in table.iterrows():
        cells = re.search(rf"\| {names.get(term, term)} \| (.*?) \| (.*?) \| (.*?) \| (.*?) \|", text).groups()
        low, high = max(row["omega2_low"], 0), row["omega2_high"]
        assert cells[column] == f"{row['omega2_partial']:.0%} [{low:.0%}, {high:.0%}]".replace("%]", "]").replace(
            "%,", ","
        ).replace("%", " %")
        words = "matters" if verdict[term] == "yes" else "undecided" if row["p"] < 0.05 else "not shown"
        assert cells[column + 1] == f"F({row['df']:.0f}, {row['df_residual']:.0f}) = {row['F']:.2f}, {words}"
    means = analysis.marginal_means(runs, "clip_i", "placement", factors, block="seed").sort_values(
        "mean", ascending=False
    )
    for placement, row in [*means.head(3).iterrows(), *means.tail(1).iterrows()]:
        assert f"`{placement}` | {row['mean']:.3f} {between(row['low'], row['high'])} |" in text
    among = analysis.best_set(runs, "clip_i", "placement", terms=factors, block="seed")["in_set"]
    assert among.sum() == best and among.index[among].isin(means.index[:best]).all()
    form = analysis.contrasts(runs, "clip_i", "form", terms=factors, block="seed").iloc[0]  # bottleneck minus gated
    size = analysis.contrasts(runs, "clip_i", "params", terms=factors, block="seed").iloc[0]  # small minus large
    cells = runs.assign(cell=runs["form"] + " " + runs["params"].astype(str))
    half = {"half": {"bottleneck 24000": -1, "gated 12000": 1}}
    model = ["placement", "cell", "activation", "scale"]
    gained = analysis.contrasts(cells, "clip_i", "cell", method=half, terms=model, block="seed").iloc[0]
    for row in (form, size):
        assert f"{-row['estimate']:.3f} {between(-row['high'], -row['low'])}" in text
    assert f"{gained['estimate']:.3f} {between(gained['low'], gained['high'])}" in text


@pytest.mark.parametrize(("study", "column"), [("atlas_finetune", 0), ("atlas_finetune_dit", 2)])
def test_the_page_of_the_atlas_of_finetuning_says_what_its_data_say(study: str, column: int):
    runs, text = analysis.load_results(RESULTS / f"{study}.csv"), text_of("atlas-finetuning")
    factors, score = ["placement", "form", "activation", "params", "scale"], "shape_right"
    question = json.loads((RESULTS / f"{study}.registered.json").read_text(encoding="utf-8"))
    terms = question["question"]["model"].split(" + ")
    assert question["question"]["score"] == score and question["ended"] == 0 and question["digest"][:12] in text
    assert set(runs["run_id"]) <= set(question["runs"])
    assert len(runs) == len(question["runs"]) or "diverged" in text
    verdict = {claim.subject: claim.verdict for claim in analysis.conclude(runs, score, terms=terms).claims}
    names = {"params": "number of parameters", "form:params": "form and number together",
             "placement:form": "placement and form together"}  # fmt: skip
    table = analysis.verdicts(runs, score, terms, "seed")
    for term, row in table.iterrows():
        cells = re.search(rf"\| {names.get(term, term)} \| (.*?) \| (.*?) \| (.*?) \| (.*?) \|", text).groups()
        low, high = max(row["omega2_low"], 0), row["omega2_high"]
        assert cells[column] == f"{100 * row['omega2_partial']:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"
        words = "matters" if verdict[term] == "yes" else "undecided" if row["p"] < 0.05 else "not shown"
        assert cells[column + 1] == f"F({row['df']:.0f}, {row['df_residual']:.0f}) = {row['F']:.2f}, {words}"
    means = analysis.marginal_means(runs, score, "placement", factors, block="seed")
    gains = gains_of_the_gated_form(runs, score)
    for placement, row in means.iterrows():
        gain = gains.loc[placement]
        shown = f"{gain['estimate']:.3f} {between(gain['low'], gain['high'])}"
        assert f"| `{placement}` | {row['mean']:.3f} {between(row['low'], row['high'])} | {shown} |" in text
    form = analysis.contrasts(runs, score, "form", terms=factors, block="seed").iloc[0]  # bottleneck minus gated
    assert f"{-form['estimate']:.3f} {between(-form['high'], -form['low'])}" in text


def gains_of_the_gated_form(runs: pd.DataFrame, score: str) -> pd.DataFrame:
    """The gated form minus the bottleneck at each placement, with intervals that hold for all placements together."""
    cells = runs.assign(cell=runs["placement"] + " " + runs["form"])
    gains = {p: {f"{p} gated": 1, f"{p} bottleneck": -1} for p in runs["placement"].unique()}
    terms = ["cell", "activation", "params", "scale"]
    level = 1 - 0.05 / len(gains)
    return analysis.contrasts(cells, score, "cell", method=gains, terms=terms, block="seed", level=level)


def test_the_page_of_the_low_rank_form_says_what_its_data_say(monkeypatch):
    runs, text = analysis.load_results(RESULTS / "lowrank.csv"), text_of("low-rank")
    assert json.loads((RESULTS / "lowrank.registered.json").read_text(encoding="utf-8"))["digest"][:12] in text
    said = str(analysis.conclude(runs, "clip_i", terms=["placement", "form", "placement:form"]))
    for number in ("95 % [94, 97]", "F(4, 56) = 386.13, p < 0.0001", "F(2, 56) = 1.99, p = 0.15",
                   "F(8, 56) = 0.82, p = 0.58"):  # fmt: skip
        assert number in said and number in text
    for placement, row in runs.pivot_table(index="placement", columns="form", values="clip_i").iterrows():
        cells = " | ".join(f"{row[form]:.3f}" for form in ("bottleneck", "lowrank", "gated"))
        assert f"| `{placement}` | {cells} |" in text
    found = shown_by("low-rank", monkeypatch)  # the bottleneck minus the other form
    for other in ("lowrank", "gated"):
        row = found.loc[f"bottleneck - {other}"]
        assert f"{-row['estimate']:.3f} {between(-row['high'], -row['low'])}" in text
    assert found.loc["bottleneck - lowrank", ["low", "high"]].abs().max() < 0.02


def test_the_page_of_the_papers_widths_says_what_its_data_say(monkeypatch):
    runs = analysis.load_results(RESULTS / "paper_widths.csv")
    text = text_of("paper-widths")
    # the width follows from the number of parameters and the placement: without terms it is no factor beside them
    assert own_factors(runs) == ["placement", "params"]
    said = str(analysis.conclude(runs, "clip_i", terms=["placement", "params", "placement:params"]))
    for number in ("86 % [82, 89]", "F(19, 78) = 39.91, p < 0.0001", "p = 0.23", "F(19, 78) = 0.33"):
        assert number in said and number in text
    joint = ["placement", "params", "placement:params"]
    size = analysis.contrasts(runs, "clip_i", "params", terms=joint, block="seed").iloc[0]  # the small minus the large
    assert f"give {-size['estimate']:.3f} {between(-size['high'], -size['low'])}" in text
    gains = runs.pivot_table(index="seed", columns="params", values="clip_i").diff(axis=1)[52800]
    assert "{:.3f}, {:.3f} and {:.3f} on the three seeds".format(*gains) in text
    means = runs.pivot_table(index="placement", columns="params", values="clip_i")
    inside = means.index.str.startswith("res")
    as_in_the_paper = means[24000].where(~inside, means[52800])
    ranks = [column.rank(ascending=False) for column in (means[24000], as_in_the_paper)]
    for placement, (small, large) in means[inside].iterrows():
        assert (
            f"| `{placement}` | {small:.3f} | {ranks[0][placement]:.0f} | {large:.3f} | {ranks[1][placement]:.0f} |"
            in text
        )
    assert ranks[0][inside].mean() - ranks[1][inside].mean() == 1
    paper = analysis.load_paper_heatmap().set_index("placement")["clip_similarity"][means.index]
    sizes, small, large = (
        a.corr(b, method="spearman")
        for a, b in ((means[24000], means[52800]), (means[24000], paper), (as_in_the_paper, paper))
    )
    assert f"rank correlation of the 20 means is {sizes:.2f}" in text
    assert f"heatmap is {small:.2f} at equal size and {large:.2f} with" in text
    for _, row in shown_by("paper-widths", monkeypatch).iterrows():
        assert f"lie {-row['estimate']:.3f} {between(-row['high'], -row['low'])} below" in text


def test_the_page_of_methods_says_what_its_data_say():
    runs, search = (analysis.load_results(RESULTS / f"{name}.csv") for name in ("methods_tuned", "method_rates"))
    text = text_of("methods")
    assert own_factors(runs) == ["method"]  # the rate follows it
    seven = runs[runs["method"] != "embedding"]
    for some, score, numbers in (
        (runs, "clip_i", ["F(7, 28) = 7.04, p < 0.0001", "51 % [30, 66]"]),
        (seven, "clip_i", ["F(6, 24) = 3.84, p = 0.008", "33 % [9, 53]"]),
        (runs, "prior_drift", ["F(7, 28) = 9.64, p < 0.0001"]),
    ):
        said = str(analysis.conclude(some, score))
        assert [number for number in numbers if number not in said or number not in text] == []
    best = analysis.best_set(runs, "clip_i", "method", block="seed", variances="moderated")["in_set"]
    assert sorted(best.index[~best]) == ["adapter", "embedding"]
    pairs = analysis.tukey(runs, "clip_i", "method", block="seed", variances="moderated")
    apart = pairs[pairs["p"] < 0.05]
    assert {frozenset(pair) - {"embedding"} for pair in zip(apart["a"], apart["b"], strict=True)} == {
        frozenset([method]) for method in ("full", "dora")
    }
    assert f"(p = {pairs.loc['adapter - full', 'p']:.2f}, Tukey)" in text
    tried = search.groupby(["method", "lr"], as_index=False)["clip_i"].mean()
    taken = tried.loc[tried.groupby("method")["clip_i"].idxmax()].set_index("method")
    for method, row in runs.groupby("method")[["lr", "trainable_params", "clip_i", "prior_drift"]].mean().iterrows():
        cells = [
            f"{row['lr']:g}",
            f"{row['trainable_params']:,.0f}",
            *(f"{row[k]:.3f}" for k in ("clip_i", "prior_drift")),
        ]
        assert f"| {method} | {' | '.join(cells)} |" in text and taken.loc[method, "lr"] == pytest.approx(row["lr"])
    lost = taken["clip_i"] - runs.groupby("method")["clip_i"].mean()
    assert f"scored {lost.mean():.3f} less" in text
    assert all(0 < list(rates).index(taken.loc[m, "lr"]) < 5 for m, rates in tried.groupby("method")["lr"])
    order = ["adapter", "lora", "dora", "lokr", "oft", "ia3", "embedding", "full"]
    rates = {method: some.sort_values("lr")["clip_i"] for method, some in tried.groupby("method")}
    for i, line in enumerate(("first", "second", "third", "fourth", "fifth", "sixth")):
        cells = [(f"{rates[m].iloc[i]:.3f}", rates[m].iloc[i] == rates[m].max()) for m in order]
        assert f"| {line} | " + " | ".join(f"**{cell}**" if most else cell for cell, most in cells) + " |" in text


@pytest.mark.parametrize(
    "table, dreambooth, numbers",
    [
        ("finetuning", "placement",
         ("F(9, 18) = 29.34", "89 % [80, 93]", "F(5, 19) = 47.64", "F(2, 19) = 5.32", "0.088")),
        ("finetuning_dit", "placement_dit",
         ("F(7, 14) = 205.79", "98 % [97, 99]", "F(3, 15) = 126.62", "F(2, 15) = 0.46")),
    ],
)  # fmt: skip
def test_the_page_of_finetuning_says_what_its_data_say(table, dreambooth, numbers):
    runs = analysis.load_results(RESULTS / f"{table}.csv")
    assert analysis.metric_columns(runs)[0] == "shape_right"
    said, text = str(analysis.conclude(runs, "shape_right")), text_of("finetuning")
    for number in numbers:
        assert number in said and number in text
    means = runs.groupby("placement")["shape_right"].mean()
    subject = analysis.load_results(RESULTS / f"{dreambooth}.csv").groupby("placement")["clip_i"].mean()
    for placement, value in means.items():
        assert f"| `{placement}` | {value:.3f} | {subject[placement]:.3f} |" in text
    two = pd.concat([means, subject.rename("clip_i")], axis=1, join="inner")
    count = {8: "eight", 10: "ten"}[len(two)]
    assert f"rank correlation of the {count} means is {two.corr(method='spearman').iloc[0, 1]:.2f}" in text
    assert f"With 95 % confidence `{means.idxmax()}` is the best of the {count}." in text


def test_the_page_of_noise_ranges_says_what_its_data_say(monkeypatch):
    runs = analysis.load_results(RESULTS / "noise_range.csv")
    text = text_of("noise-range")
    said = str(analysis.conclude(runs, "clip_i", terms=["placement", "when", "placement:when"]))
    for number in ("93 % [87, 96]", "F(2, 16) = 188.38", "69 % [47, 80]", "F(2, 16) = 30.95", "26 % [2, 50]",
                   "F(4, 16) = 3.33, p = 0.036"):  # fmt: skip
        assert number in said and number in text
    best = ("attn2c-attn2c, when [0, 1]", "attn2c-attn2c, when [0, 0.5]", "attn2o-ffni, when [0, 1]",
            "attn2o-ffni, when [0, 0.5]", "ffni-ffni, when [0, 1]")  # fmt: skip
    assert f"among these 5: {'; '.join(best)}." in said
    for placement, row in runs.pivot_table(index="placement", columns="when", values="clip_i").iterrows():
        assert f"| `{placement}` | {row['[0, 1]']:.3f} | {row['[0, 0.5]']:.3f} | {row['[0.5, 1]']:.3f} |" in text
    for placement, row in shown_by("noise-range", monkeypatch).iterrows():
        assert f"| `{placement}` | {row['estimate']:.3f} {between(row['low'], row['high'])} |" in text
