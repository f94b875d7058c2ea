"""Time and memory of a type II analysis of variance: sdpet's analysis, statsmodels' formula path, R's car::Anova.

    python bench/anova.py [--runs 100000] [--factors 6] [--levels 6] [--order 1] [--skip-statsmodels]

All three see the same frame; the F values are compared. R is used where `Rscript` with the package car is there.
Each way runs in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

R_CODE = """
args <- commandArgs(TRUE); d <- read.csv(args[1], stringsAsFactors = TRUE)
t <- system.time({m <- lm(as.formula(args[2]), d); a <- car::Anova(m, type = 2)})[["elapsed"]]
cat(sprintf('{"seconds": %.3f, "F": [%s]}', t, paste(format(a$`F value`[-nrow(a)], digits = 15), collapse = ", ")))
"""


def make(runs: int, factors: int, levels: int) -> pd.DataFrame:
    """An unbalanced study with text levels and runs missing at random."""
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.full(levels, 5.0), factors)
    codes = {f"f{j}": rng.choice(levels, runs, p=weights[j]) for j in range(factors)}
    frame = pd.DataFrame({name: np.array([f"level{i}" for i in range(levels)])[c] for name, c in codes.items()})
    frame["y"] = rng.normal(size=runs) + sum(np.sin(c) * (j + 1) / 50 for j, c in enumerate(codes.values()))
    return frame


def one(way: str, path: Path, terms: list[str]) -> dict[str, object]:
    """Seconds and F values of one way, in this process."""
    began = time.perf_counter()
    frame = pd.read_csv(path)
    loaded = time.perf_counter()
    if way == "analysis":
        import analysis

        began_table = time.perf_counter()
        values = analysis.anova(frame, "y", terms)["F"].iloc[:-1].tolist()
    else:
        from statsmodels.formula.api import ols
        from statsmodels.stats.anova import anova_lm

        began_table = time.perf_counter()
        values = anova_lm(ols(f"y ~ {' + '.join(terms)}", frame).fit(), typ=2)["F"].iloc[:-1].tolist()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds = time.perf_counter() - began_table
    return {"load": loaded - began, "seconds": seconds, "peak_mib": peak, "F": values}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--factors", type=int, default=6)
    parser.add_argument("--levels", type=int, default=6)
    parser.add_argument("--order", type=int, default=1, help="highest order of interactions")
    parser.add_argument("--skip-statsmodels", action="store_true")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    from analysis import interactions

    terms = interactions([f"f{j}" for j in range(args.factors)], args.order)
    if args.child:
        print(json.dumps(one(args.child[0], Path(args.child[1]), terms)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "runs.csv"
        make(args.runs, args.factors, args.levels).to_csv(path, index=False)
        results = {}
        for way in ["analysis"] + ["statsmodels"] * (not args.skip_statsmodels):
            command = [sys.executable, *sys.argv, "--child", way, str(path)]
            results[way] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        if shutil.which("Rscript"):
            formula = f"y ~ {' + '.join(terms)}"
            done = subprocess.run(["Rscript", "-e", R_CODE, str(path), formula], capture_output=True, text=True)
            if done.returncode == 0:
                results["car::Anova"] = json.loads(done.stdout)
    print(f"{args.runs} runs, {args.factors} factors of {args.levels} levels, {len(terms)} terms, type II")
    for way, found in results.items():
        gap = np.max(np.abs(np.array(found["F"]) / np.array(results["analysis"]["F"]) - 1))
        peak = f"{found['peak_mib']:7.0f} MiB peak" if "peak_mib" in found else ""
        print(f"  {way:12s} {found['seconds']:8.2f} s {peak:17s}  largest relative difference of F {gap:.1e}")


if __name__ == "__main__":
    main()
