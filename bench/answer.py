"""What a sure answer costs: as a fixed study with one process per run, and as a race in fleets.

    python bench/answer.py bank --seeds 48       make the bank: 20 placements of the lab on so many seeds; resumable
    python bench/answer.py costs                 measure the CPU time of a run alone and in fleets, on this machine
    python bench/answer.py replay --bank FILE    replay races and fixed studies over the bank's scores
    python bench/answer.py replay                the same over a simulated bank of stated means and SDs

A replay over a whole bank takes its seeds in random order, without training anything. A bank of fewer seeds than the
longest study is not enough for that, and seeds drawn with replacement repeat each other, so that the noise looks too
small: then scores are the bank's means plus residuals of its runs in random order. For each d it gives the least fixed
study 20 x n that proves d in 90 % of the replays (Hsu's comparison with the best at 5 %: the leader is worse than the
best by d at most), and what the race takes, with three fresh runs of the winner. False decisions are counted in worlds
whose truth is known: null, hard, unequal.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from analysis import Race  # noqa: E402
from analysis.sequential import LOOKS, World, critical_value, pooled_variance, simulate, summary  # noqa: E402
from sdpet.adapters import PLACEMENTS  # noqa: E402

BANK = ROOT / "bench" / "bank.csv"  # 20 placements x 48 seeds of the lab
RESIDUAL_SD, SEED_SD = 0.042, 0.049  # of that table
COLUMNS = ["placement", "seed", "clip_i"]
MOST_FIXED = 48  # seeds
FRESH = 3  # runs of the winner after a race
CORES = 2
# CPU seconds: a process of one run; what a launch of a fleet takes whatever its size; what each of its runs adds; what
# the first run of a seed draws and scores for all others, its floor and ceiling.
COSTS = {"alone": 18.0, "launch": 13.2, "run": 6.2, "seed": 2.0}  # `costs`, 2026-11-26, 2 quiet CPU cores


def lab_means() -> np.ndarray:
    return pd.read_csv(BANK).groupby("placement")["clip_i"].mean().to_numpy()


def worlds() -> dict[str, World]:
    """Worlds whose truth is known, with the lab's spread."""
    means = lab_means()
    centre, count = means.mean(), len(means)
    ratio = np.sqrt(np.linspace(1, 10, count))
    noise = tuple(RESIDUAL_SD * ratio / np.sqrt((ratio**2).mean()))
    return {
        "lab": World(tuple(means), RESIDUAL_SD, SEED_SD),
        "lab, unequal noise": World(tuple(means), noise[::-1], SEED_SD),
        "hard": World(tuple(centre + (means - centre) / 3), RESIDUAL_SD, SEED_SD),
        "null": World((0.0,) * count, RESIDUAL_SD, SEED_SD),
        "null, unequal noise, the noisiest is the best": World((0.0,) * count, noise[::-1], SEED_SD),
    }


def drawn(scores: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A study (seeds, designs) from a bank of scores (seeds, designs), see above."""
    count, designs = scores.shape
    if count >= MOST_FIXED:
        return scores[rng.permutation(count)]
    centred = scores - scores.mean(axis=0)
    residuals = centred - centred.mean(axis=1, keepdims=True)
    residuals *= np.sqrt(count * designs / ((count - 1) * (designs - 1)))  # so that their variance has no bias
    return scores.mean(axis=0) + rng.choice(residuals.ravel(), (MOST_FIXED, designs))


def proves(scores: np.ndarray, d: float) -> bool:
    """Whether a fixed study (seeds, designs) shows at 5 % that its leader is worse than the best by d at most."""
    n, count = scores.shape
    variance, df = pooled_variance(scores, np.full(count, n))
    means = np.sort(scores.mean(axis=0))
    return bool(means[-2] - means[-1] + critical_value(count, float(df), 0.05) * np.sqrt(2 * variance / n) <= d)


def least_fixed(draw: Callable[[], np.ndarray], d: float, replays: int) -> int | None:
    """The least number of seeds with which 90 % of fixed studies prove d; None beyond the bank."""
    studies = [draw() for _ in range(replays)]
    for n in range(2, min(MOST_FIXED, len(studies[0])) + 1):
        if np.mean([proves(scores[:n], d) for scores in studies]) >= 0.9:
            return n
    return None


def cost_of_race(looks: list[tuple[int, int]], costs: dict[str, float], workers: int = 1) -> float:
    """CPU seconds of a race in one worker, or wall seconds on so many cores.

    Each look is a launch of its own, with the same share of its runs in each worker; so are the fresh seeds at the end.
    """
    return sum(
        costs["launch"] + costs["run"] * -(-runs // workers) + costs["seed"] * -(-seeds // workers)
        for runs, seeds in [*looks, (FRESH, FRESH)]
    )


def looks_of(scores: np.ndarray, d: float) -> list[tuple[int, int]]:
    """The runs that each look of a race over these scores asks for, and how many seeds are new among them."""
    held, asked, seen = Race(range(scores.shape[1]), d, seeds=range(len(scores))), [], set()
    while runs := held.ask():
        held.tell({(design, seed): float(scores[seed, design]) for design, seed in runs})
        new = {seed for _, seed in runs} - seen
        asked.append((len(runs), len(new)))
        seen |= new
    return asked


def replay(arguments: argparse.Namespace) -> None:
    """Print the table of runs and CPU seconds, and that of false decisions."""
    costs = COSTS | (json.loads(arguments.costs) if arguments.costs else {})
    rng = np.random.default_rng(arguments.seed)
    if arguments.bank:
        table = pd.read_csv(arguments.bank).pivot(index="seed", columns="placement", values="clip_i").dropna()
        scores, means = table.to_numpy(), table.to_numpy().mean(axis=0)
        how = "its seeds" if len(scores) >= MOST_FIXED else "its means and residuals"
        source = f"a bank of {scores.shape[1]} x {scores.shape[0]} runs of the lab: {how} in random order"
    else:
        scores, means = None, lab_means()
        source = f"SIMULATED scores: the lab's means, residual SD {RESIDUAL_SD}, seed SD {SEED_SD}"
    world = worlds()["lab"]

    def draw() -> np.ndarray:
        return world.draw(rng) if scores is None else drawn(scores, rng)

    print(f"{arguments.replays} replays over {source}\nCPU seconds of a run: {json.dumps(costs)}\n")
    head = ("d", "least fixed study", "CPU s", "wall s", "race: mean runs", "90th", "CPU s", "wall s", "fewer runs",
            "less CPU", "less wall", "undecided", "false")  # fmt: skip
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for d in arguments.d:
        n = least_fixed(draw, d, arguments.replays)
        studies = [draw() for _ in range(arguments.replays)]
        found = summary(tuple(means), iter(studies), d, most=max(n for n in LOOKS if n <= len(studies[0])))
        races = [looks_of(study, d) for study in studies[: arguments.costed]]
        cpu, wall = (float(np.mean([cost_of_race(race, costs, n) for race in races])) for n in (1, CORES))
        fixed = float("nan") if n is None else 20 * n
        alone = fixed * costs["alone"] + (0 if n is None else n * costs["seed"])
        cells = (
            f"{d:g}", "-" if n is None else f"20 x {n} = {fixed}", f"{alone:,.0f}", f"{alone / CORES:,.0f}",
            f"{found.runs.mean():.0f}", f"{np.percentile(found.runs, 90):.0f}", f"{cpu:,.0f}", f"{wall:,.0f}",
            f"{fixed / found.runs.mean():.1f}", f"{alone / cpu:.1f}", f"{alone / CORES / wall:.1f}",
            f"{1 - found.decided.mean():.1%}", f"{found.false:.1%}",
        )  # fmt: skip
        print("| " + " | ".join(cells) + " |", flush=True)
    head = ("world (simulated)", "d", "mean runs", "90th", "undecided", "best lost", "leader wrong")
    print("\n| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for name, place in worlds().items():
        for d in (0.05, 0.03):
            found = simulate(place, d, races=arguments.replays, seed=arguments.seed)
            print(
                f"| {name} | {d:g} | {found.runs.mean():.0f} | {np.percentile(found.runs, 90):.0f} | "
                f"{1 - found.decided.mean():.1%} | {found.lost_best.mean():.1%} | {found.leader_wrong.mean():.1%} |",
                flush=True,
            )


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "train.py"), *arguments]


def cpu_of(*arguments: str) -> float:
    """CPU seconds of a command with all its processes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command(*arguments), env=environment, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure_costs(arguments: argparse.Namespace) -> None:
    """A run alone, and fleets of two sizes in one worker: a line through both gives a launch and a run."""
    few, many = ["attn2o-ffni", "ffni-ffni"], PLACEMENTS[:12]
    with tempfile.TemporaryDirectory() as folder:
        root = f"output_root={folder}"
        cpu_of(root, "study=warm", "adapter=attn2o-ffni", "trainer.steps=2")  # caches, floor and ceiling
        alone = cpu_of(root, "study=alone", "adapter=attn2o-ffni")
        of_new_seed = cpu_of(root, "study=alone", "adapter=attn2o-ffni", "seed=1")
        sizes = {2: few, 12: many}
        found = {
            size: cpu_of("-m", root, f"study=fleet{size}", f"adapter={','.join(names)}", "hydra.launcher.workers=1")
            for size, names in sizes.items()
        }
    run = (found[12] - found[2]) / 10
    costs = {"alone": alone, "launch": found[2] - 2 * run, "run": run, "seed": of_new_seed - alone}
    print(json.dumps({name: round(seconds, 1) for name, seconds in costs.items()}))


def make_bank(arguments: argparse.Namespace) -> None:
    """Run what is missing of the bank, some seeds at a time, and write its scores so far after each of these steps."""
    from analysis import load_results

    for done in range(0, arguments.seeds, arguments.step):
        seeds = min(done + arguments.step, arguments.seeds)
        subprocess.run(
            command("-m", "+sweeps=placement", "study=bank", f"output_root={arguments.output}",
                    f"seed=range(0,{seeds})"),
            cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True,
        )  # fmt: skip
        runs = load_results(Path(arguments.output) / "bank")
        whole = runs.groupby("seed")["placement"].transform("nunique") == len(PLACEMENTS)
        runs[whole][COLUMNS].sort_values(["seed", "placement"]).to_csv(BANK, index=False, float_format="%.6f")
        print(f"{BANK}: {runs[whole]['seed'].nunique()} complete seeds of {arguments.seeds}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    bank = parts.add_parser("bank", help="train the bank; resumable")
    bank.add_argument("--seeds", type=int, default=48)
    bank.add_argument("--step", type=int, default=4, help="seeds that are trained before the scores are written")
    bank.add_argument("--output", default=str(ROOT / "outputs"))
    bank.set_defaults(call=make_bank)
    costs = parts.add_parser("costs", help="measure CPU seconds")
    costs.set_defaults(call=measure_costs)
    replays = parts.add_parser("replay", help="replay races over scores")
    replays.add_argument("--bank", help="a CSV with placement, seed and clip_i; without it scores are simulated")
    replays.add_argument("--replays", type=int, default=1000)
    replays.add_argument("--costed", type=int, default=100, help="of which the CPU time is added up look by look")
    replays.add_argument("--d", type=float, nargs="+", default=[0.05, 0.03, 0.02])
    replays.add_argument("--costs", help="CPU seconds as `costs` prints them")
    replays.add_argument("--seed", type=int, default=0)
    replays.set_defaults(call=replay)
    arguments = parser.parse_args()
    arguments.call(arguments)


if __name__ == "__main__":
    main()
