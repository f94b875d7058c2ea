"""How often does some pair of equal designs seem to differ? Tukey's test with several variances of a pair.

    python bench/pairs.py --studies 4000 [--seeds 2 3 5]

Null studies of the 20 placements, each with the same seeds, which are blocks. A cell is the share of studies, in
percent, in which at least one of the 190 pairs falls below 0.05. Columns: the variance of a pair is a mean of its own
and the pooled one with the weight of P degrees of freedom; "own df" takes the P + seeds - 1 degrees of freedom that the
product uses (P = 4), "equal df" those that this mean has where all variances are equal (Satterthwaite). pooled: one
variance for all, Tukey's test. Conditions as in bench/claims.py; one: the first design has 10 times the variance of the
others.
"""

from __future__ import annotations

import argparse
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import studentized_range

sys.path.insert(0, str(Path(__file__).parent.parent))

from sdpet.adapters import PLACEMENTS

CONDITIONS = ("iid", "unequal", "one", "t3", "shared", "outlier", "ceiling")
WEIGHTS = ((4, "own df"), (8, "own df"), (12, "own df"), (4, "equal df"), (8, "equal df"), (np.inf, "pooled"))
INPUT = pd.factorize(pd.Series(PLACEMENTS).str.partition("-")[0])[0]


@cache
def critical(k: int, df: float) -> float:
    """The range of k means, over their standard error, that is exceeded in 5 % of null studies."""
    return float(studentized_range.ppf(0.95, k, df))


def draw(condition: str, studies: int, seeds: int, rng: np.random.Generator) -> np.ndarray:
    """Scores (studies, seeds, designs) in which no design differs from another."""
    k = len(PLACEMENTS)
    shape = (studies, seeds, k)
    scores = rng.standard_t(3, shape) if condition == "t3" else rng.normal(size=shape)
    if condition == "unequal":
        scores *= np.sqrt(np.geomspace(10, 1, k))
    if condition == "one":
        scores[:, :, 0] *= np.sqrt(10)
    if condition == "shared":
        scores += rng.normal(size=(studies, seeds, INPUT.max() + 1))[:, :, INPUT]
    if condition == "outlier":
        scores[np.arange(studies), rng.integers(seeds, size=studies), rng.integers(k, size=studies)] += 8
    return np.minimum(scores, 0) if condition == "ceiling" else scores


def found(scores: np.ndarray) -> list[float]:
    """For each way of WEIGHTS the share of studies in which some pair is found to differ."""
    _, seeds, k = scores.shape
    i, j = np.triu_indices(k, 1)
    means = scores.mean(axis=1)
    left = scores - means[:, None, :] - scores.mean(axis=2)[:, :, None] + means.mean(axis=1)[:, None, None]
    df, extra = (seeds - 1) * (k - 1), seeds - 1
    pooled = (left**2).sum(axis=(1, 2))[:, None] / df
    cross = np.einsum("nsi,nsj->nij", left, left)
    own = np.einsum("nii->ni", cross)
    spread = ((own[:, :, None] + own[:, None, :]) / 2 - cross)[:, i, j]
    difference = np.abs(means[:, i] - means[:, j])
    shares = []
    for weight, how in WEIGHTS:
        variance = pooled if np.isinf(weight) else (weight * pooled + spread) / (weight + extra)
        own_df = min(float(df), weight + extra)
        equal_df = 2 * (weight + extra) ** 2 / (2 * weight**2 / df + 2 * extra) if np.isfinite(weight) else df
        q = critical(k, float({"own df": own_df, "equal df": equal_df, "pooled": df}[how]))
        shares.append(float((difference / np.sqrt(variance / seeds) > q).any(axis=1).mean()))
    return shares


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--studies", type=int, default=4000)
    p.add_argument("--seeds", type=int, nargs="+", default=[2, 3, 5])
    asked = p.parse_args()
    heads = [how if how == "pooled" else f"P = {weight:.0f}, {how}" for weight, how in WEIGHTS]
    print("| seeds | condition | " + " | ".join(heads) + " |")
    print("|---|---|" + "---|" * len(heads))
    for seeds in asked.seeds:
        for number, condition in enumerate(CONDITIONS):
            rng = np.random.default_rng([seeds, number])
            shares = found(draw(condition, asked.studies, seeds, rng))
            print(f"| {seeds} | {condition} | " + " | ".join(f"{100 * share:.1f}" for share in shares) + " |")


if __name__ == "__main__":
    main()
