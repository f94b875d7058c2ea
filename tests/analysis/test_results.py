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
