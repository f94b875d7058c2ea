"""How often is a claim of a report false? Draws studies whose truth is known and counts, claim by claim.

    python bench/claims.py --studies 400 [--shapes placement form ...] [--conditions iid shared ...] [--markdown]

Every study goes through `analysis.conclude`, as a user's does. A row of the table is a kind of claim in one shape of
study; a cell is the share of studies in which a claim of that kind was made and was false, in percent. In null studies
nothing matters. In real studies six of the designs are equally good, and one of them, the noisiest where variances
differ, is taken as the best; the others are worse. What is promised: 5 % for each kind of claim in a study, all factors
of the study together, and 10 % for the 90 % interval of a share.

Conditions: iid, normal errors; unequal, variances of the designs from 1 to 10 in equal ratios; t3, Student's t with 3
degrees of freedom; ceiling, half of all scores are cut off at one value; outlier, one run is 8 standard deviations off;
failed, one run is missing; partial, 21 of 60 runs are there (35 % in other shapes); shared, runs of one seed and one
level of the first factor share noise as large as the rest.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parent.parent))

import analysis
from analysis import Claim, block_of, designs
from sdpet.adapters import PLACEMENTS

CONDITIONS = ("iid", "unequal", "t3", "ceiling", "outlier", "failed", "partial", "shared")
SEED_SD = 1.0  # of what all runs of a seed share, in units of a run's error
WITHIN = 0.5  # the margin that is asked for
TIED = 6  # designs of a real study that are equally good
KINDS = {
    "matters": "a factor matters",
    "acts together": "two factors act together",
    "best set": "the best is among these",
    "best mean": "the winner's interval",
    "equivalent": "within a margin of the best, or not",
    "above floor": "above the floor, or below it",
    "trend": "rises or falls with a numeric factor",
    "share": "90 % interval of the explained share",
    "found": "a factor that matters is found (no error: the power)",
}


@dataclass(frozen=True)
class Shape:
    """A kind of study: its rows, the columns that make a design, what shares noise, and whether effects are planted."""

    rows: pd.DataFrame
    design: list[str]
    sharing: str
    real: bool


def shapes() -> dict[str, Shape]:
    """The default shapes: sweeps/placement, form, width, baselines and guidance, and a placement study with effects."""
    grid = pd.DataFrame([(p, s) for s in range(3) for p in PLACEMENTS], columns=["placement", "seed"])
    grid[["din", "dout"]] = grid["placement"].str.split("-", expand=True).to_numpy()
    three = ["attn2o-ffni", "attn2c-attn2c", "ffni-ffni"]

    def crossed(**levels: list) -> pd.DataFrame:
        return pd.DataFrame(list(product(*levels.values())), columns=list(levels))

    form = crossed(activation=["relu", "sig", "silu", "ident"], scale=[0.5, 1.0, 2.0, 4.0], seed=[0, 1, 2])
    width = crossed(placement=three[:2], mid_dim=[4, 8, 16, 32, 64], seed=[0, 1, 2])
    methods = crossed(method=["adapter", "full", "lora", "embedding"], seed=[0, 1, 2, 3, 4])
    guidance = crossed(placement=three, guidance=[1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0], seed=[0, 1, 2])
    guidance["run_id"] = [f"r{i}" for i in range(len(guidance))]
    first = guidance.groupby(["placement", "seed"])["run_id"].transform("first")
    guidance["trained_in"] = first.where(first != guidance["run_id"])
    return {
        "placement": Shape(grid, ["placement"], "din", False),
        "placement, real": Shape(grid, ["placement"], "din", True),
        "form": Shape(form, ["activation", "scale"], "activation", False),
        "form, real": Shape(form, ["activation", "scale"], "activation", True),
        "width": Shape(width, ["placement", "mid_dim"], "mid_dim", False),
        "baselines": Shape(methods, ["method"], "method", False),
        "guidance": Shape(guidance, ["placement", "guidance"], "placement", False),
    }


@dataclass(frozen=True)
class Study:
    """A drawn study. effect: the true mean of each design, without its seeds; seed: what each seed adds to all runs;
    best: the design that counts as the best; share: the true share of the variance that designs explain, where it is
    defined; floor: whether the floor is the true mean of the best designs."""

    frame: pd.DataFrame
    effect: dict[str, float]
    seed: np.ndarray
    best: str
    share: float
    floor: bool


def names_of(frame: pd.DataFrame, shape: Shape) -> pd.Series:
    """The design of each row, as a conclusion names it."""
    return designs(frame, shape.design) if len(shape.design) > 1 else frame[shape.design[0]].astype(str)


def draw(shape: Shape, condition: str, rng: np.random.Generator) -> Study:
    """One study of a shape under a condition."""
    frame = shape.rows.copy()
    name = names_of(frame, shape)
    names, n = list(dict.fromkeys(name)), len(frame)
    order = rng.permutation(len(names))
    height = np.zeros(len(names))
    if shape.real:
        height[order[TIED:]] = -np.linspace(2.0, 8.0, len(names) - TIED)
    variance = np.ones(len(names))
    if condition == "unequal":
        variance[order] = np.geomspace(10, 1, len(names))  # the noisiest comes first: it is one of the best
    at = name.map({n: i for i, n in enumerate(names)}).to_numpy()
    noise = (rng.standard_t(3, n) if condition == "t3" else rng.normal(size=n)) * np.sqrt(variance[at])
    if condition == "shared":
        group = frame.groupby(["seed", shape.sharing]).ngroup().to_numpy()
        noise = noise + rng.normal(size=group.max() + 1)[group]
    if condition == "outlier":
        noise[rng.integers(n)] += 8.0
    score = height[at] + noise
    if condition == "ceiling":
        score = np.minimum(score, 0.0)
        height = np.minimum(height + rng.normal(size=(20_000, 1)), 0.0).mean(axis=0)
    if "trained_in" in frame:  # what a training gives to all its runs
        unit = pd.factorize(frame["trained_in"].fillna(frame["run_id"]))[0]
        score = score + rng.normal(size=unit.max() + 1)[unit]
    seed = SEED_SD * rng.normal(size=frame["seed"].max() + 1)
    frame["y"] = score + seed[frame["seed"]]
    frame["y_floor"] = (seed + 0.3 * rng.normal(size=len(seed)))[frame["seed"]]  # measured once a seed
    keep = np.ones(n, bool)
    if condition == "failed":
        keep[rng.integers(n)] = False
    if condition == "partial":
        keep = np.isin(np.arange(n), rng.permutation(n)[: round(0.35 * n)])
    signal = float(np.sum((height[at] - height[at].mean()) ** 2))
    share = signal / (signal + n) if condition == "iid" else float("nan")
    effect = dict(zip(names, map(float, height), strict=True))
    return Study(frame[keep].reset_index(drop=True), effect, seed, names[order[0]], share, condition != "ceiling")


def judge(study: Study, shape: Shape, claims: Sequence[Claim]) -> dict[str, bool]:
    """For each kind of claim that was made, whether one of them is false."""
    made: dict[str, bool] = {}
    for claim in claims:
        for kind, wrong in _judged(claim, study, shape):
            made[kind] = made.get(kind, False) or wrong
    return made


def _judged(claim: Claim, study: Study, shape: Shape) -> Iterator[tuple[str, bool]]:
    effect, top = study.effect, max(study.effect.values())
    if claim.kind in ("matters", "acts together", "trend"):
        if not shape.real:
            yield claim.kind, claim.verdict == "yes"
        elif claim.kind == "matters" and claim.subject == "placement" and study.share == study.share:
            yield "share", not claim.low <= study.share <= claim.high
        if shape.real and claim.kind == "matters":
            yield "found", claim.verdict == "yes"
    elif claim.kind == "best set" and shape.real and study.best in set(names_of(study.frame, shape)):
        yield claim.kind, study.best not in claim.levels
    elif claim.kind == "best mean" and claim.subject in effect:
        yield claim.kind, not claim.low <= effect[claim.subject] + _seeds(study, shape) <= claim.high
    elif claim.kind == "equivalent" and claim.subject in effect:
        present = [effect[name] for name in set(names_of(study.frame, shape))]
        behind = max(present) - effect[claim.subject]
        wrong = behind >= WITHIN if claim.verdict == "yes" else behind <= WITHIN
        yield claim.kind, wrong and claim.verdict != "undecided"
    elif claim.kind == "above floor" and study.floor:
        yield claim.kind, claim.verdict == "no" or (claim.verdict == "yes" and effect.get(claim.subject, top) <= 0)


def _seeds(study: Study, shape: Shape) -> float:
    """What the seeds add to the mean of a design, which is about the seeds that were run where they are blocks."""
    blocking = block_of(study.frame.assign(design=names_of(study.frame, shape)), "design")
    return float(study.seed[blocking.frame["seed"].unique()].mean()) if blocking.block else 0.0


def one(task: tuple[str, str, int]) -> dict[str, bool]:
    """Draw and judge one study."""
    name, condition, number = task
    shape = shapes()[name]
    rng = np.random.default_rng([number, list(shapes()).index(name), CONDITIONS.index(condition)])
    study = draw(shape, condition, rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        said = analysis.conclude(study.frame, "y", within=WITHIN)
    return judge(study, shape, said.claims)


def rates(
    names: Sequence[str],
    conditions: Sequence[str],
    studies: int,
    workers: int = 1,
    report: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Share of studies with a false claim: index (kind, shape), a column a condition; NaN where no study made one."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for name, condition in product(names, conditions):
        started = time.perf_counter()
        tasks = [(name, condition, number) for number in range(studies)]
        if workers > 1:
            with ProcessPoolExecutor(workers) as pool:
                results = list(pool.map(one, tasks, chunksize=10))
        else:
            results = [one(task) for task in tasks]
        for kind in KINDS:
            made = [result[kind] for result in results if kind in result]
            if made:
                found.setdefault((kind, name), {})[condition] = sum(made) / studies
        report(f"{name}, {condition}: {studies} studies in {time.perf_counter() - started:.0f} s")
    table = pd.DataFrame.from_dict(found, orient="index").reindex(columns=list(conditions))
    table.index = pd.MultiIndex.from_tuples(list(found), names=["claim", "study"])
    return table.sort_index(level=0, key=lambda k: k.map(list(KINDS).index), sort_remaining=False)


def main() -> None:
    known = shapes()
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--studies", type=int, default=400, help="studies of each shape and condition (default: 400)")
    p.add_argument("--shapes", nargs="+", choices=list(known), default=list(known))
    p.add_argument("--conditions", nargs="+", choices=CONDITIONS, default=list(CONDITIONS))
    p.add_argument("--workers", type=int, default=1)
    p.add_argument("--csv", type=Path, help="also write the shares to this file")
    asked = p.parse_args()
    table = rates(
        asked.shapes, asked.conditions, asked.studies, asked.workers, lambda line: print(line, file=sys.stderr)
    )
    if asked.csv:
        table.to_csv(asked.csv)
    error = 100 * np.sqrt(0.05 * 0.95 / asked.studies)
    print(f"False claims in % of {asked.studies} studies; a true 5 % shows as 5.0 +- {error:.1f}.\n")
    print("| claim | study | " + " | ".join(table.columns) + " |")
    print("|---|---|" + "---|" * len(table.columns))
    for (kind, name), row in table.iterrows():
        cells = ["" if v != v else f"{100 * v:.1f}" for v in row]
        print(f"| {KINDS[kind]} | {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
