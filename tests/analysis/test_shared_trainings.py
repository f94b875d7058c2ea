"""Null studies whose runs share trainings: what training decides is found as often as chance says, not more."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import analysis

PLACEMENTS, STRENGTHS, SEEDS = 3, 8, 3  # as sweeps/guidance.yaml: 72 runs of 9 trainings


def null_study(rng: np.random.Generator) -> pd.DataFrame:
    """Nothing matters; all runs of a training share noise that is twice as large as their own."""
    rows = []
    of_seed = rng.normal(size=SEEDS)
    for placement in range(PLACEMENTS):
        for seed in range(SEEDS):
            shared = of_seed[seed] + rng.normal()
            for strength in range(STRENGTHS):
                name = f"{placement}-{seed}"
                rows.append({
                    "run_id": f"{name}-{strength}", "trained_in": f"{name}-0" if strength else None,
                    "placement": f"p{placement}", "guidance": float(strength), "seed": seed,
                    "clip_i": shared + rng.normal(0, 0.5),
                })  # fmt: skip
    return pd.DataFrame(rows)


def found(studies: int) -> dict[str, int]:
    """How often each term has p below 0.05 in so many null studies."""
    rng = np.random.default_rng(14)
    terms = ["placement", "guidance", "placement:guidance"]
    counts = dict.fromkeys([*terms, "as runs"], 0)
    for _ in range(studies):
        runs = null_study(rng)
        table = analysis.anova(runs, "clip_i", terms, block="seed")
        plain = analysis.anova(runs.drop(columns="trained_in"), "clip_i", terms, block="seed")
        for term in terms:
            counts[term] += bool(table.loc[term, "p"] < 0.05)
        counts["as runs"] += bool(plain.loc["placement", "p"] < 0.05)
    return counts


@pytest.mark.slow
def test_null_studies_with_shared_trainings_give_five_percent():
    studies = 60
    counts = found(studies)
    assert counts.pop("as runs") > studies / 2  # what the test can tell apart
    for term, count in counts.items():
        assert stats.binomtest(count, studies, 0.05, alternative="greater").pvalue > 0.001, (term, count)
