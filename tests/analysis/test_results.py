"""The published results come from the published data."""

from __future__ import annotations

from pathlib import Path

import pytest

import analysis

RESULTS = Path(__file__).parents[2] / "docs" / "results"


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
