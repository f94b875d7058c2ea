"""What scoring costs: python bench/evaluation.py [--steps 300] [--images 256].

Images scored per second by each scorer that needs no download; features of a reference set, computed and from the
cache; and one run of the lab's default study, taken apart into training, sampling, scoring and the scores it is held
against (the untuned base and real images): by themselves, and where another run has left them. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from sdpet.adapters import AdapterSpec, mid_dim_for
from sdpet.config import LAB
from sdpet.lab import JudgeScorer, load_scorer, render, sample_scenes
from sdpet.methods import Design, build
from sdpet.models import load_base
from sdpet.sampling import SamplerConfig
from sdpet.scoring import EvalPlan, Scorers, evaluate_run, reference_scores
from sdpet.tasks import DreamBoothTask
from sdpet.training import fit


def median_seconds(work: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def scorers_speed(count: int, rounds: int) -> dict[str, float]:
    """Images per second of each scorer."""
    images = render(sample_scenes(count, seed=7))
    speed = {}
    for name, scorer in {"lab-clip": load_scorer(), "lab-judge": JudgeScorer()}.items():

        def score(scorer=scorer) -> None:
            Scorers({"clip": scorer}).features("clip", images)

        speed[name] = count / median_seconds(score, rounds)
    return speed


def cache_speed(count: int, rounds: int) -> dict[str, float]:
    """Seconds for the features of a reference set: computed, read from disk, and asked for again in one process."""
    images, scorer = render(sample_scenes(count, seed=8)), load_scorer()
    with tempfile.TemporaryDirectory() as folder:

        def computed() -> None:
            Scorers({"clip": scorer}).reference_features("clip", images)

        def from_disk() -> None:
            Scorers({"clip": scorer}, cache=Path(folder)).reference_features("clip", images)

        from_disk()
        known = Scorers({"clip": scorer}, cache=Path(folder))
        known.reference_features("clip", images)
        return {
            "computed": median_seconds(computed, rounds),
            "disk": median_seconds(from_disk, rounds),
            "memory": median_seconds(lambda: known.reference_features("clip", images), rounds),
        }


def one_run(steps: int, rounds: int) -> dict[str, float]:
    """Seconds of the parts of one run of the default study, the first with nothing cached."""
    base = load_base("lab")
    folders = [LAB / "data" / name for name in ("subject", "class")]
    task = DreamBoothTask(
        base, *folders, "a photo of a sks star", "a photo of a star", heldout_dir=LAB / "data" / "subject_heldout"
    )
    spec = AdapterSpec.parse("attn2o-ffni", mid_dim=1)
    spec = AdapterSpec("attn2o", "ffni", mid_dim=mid_dim_for(base.unet, spec, 24000))
    known = Scorers({"clip": load_scorer()})
    sampler, plan = SamplerConfig("dpm", 20, 2.5), EvalPlan()
    with tempfile.TemporaryDirectory() as folder:

        def frame(seed: int) -> float:
            start = time.perf_counter()
            reference_scores(base, task, known, sampler, seed, plan, folder)
            return time.perf_counter() - start

        made = [frame(seed) for seed in range(1, rounds + 1)]
        kept = [frame(seed) for seed in range(1, rounds + 1)]
    handle, known = build(base, Design("adapter", spec), 0), Scorers({"clip": load_scorer()})
    try:
        result = fit(base, handle, task, steps=steps, lr=3e-3, seed=0)
        fresh = evaluate_run(base, task, known, sampler, 0, plan).seconds
        later = [evaluate_run(base, task, known, sampler, seed, plan).seconds for seed in range(1, rounds + 1)]
    finally:
        handle.detach()
    return {
        "train": result.seconds * 300 / steps,  # the default study's steps
        "sample": statistics.median(seconds["sample"] for seconds in later),
        "score_first": fresh["score"],
        "score": statistics.median(seconds["score"] for seconds in later),
        "anchors_first": statistics.median(made),
        "anchors": statistics.median(kept),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300, help="training steps to time; scaled to the study's 300")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    speed = scorers_speed(arguments.images, arguments.rounds)
    cache = cache_speed(arguments.images, arguments.rounds)
    run = one_run(arguments.steps, arguments.rounds)
    for name, value in speed.items():
        print(f"{name:<12} {value:10.0f} images scored per second")
    for name, value in cache.items():
        print(f"references  {name:<10} {1000 * value:10.2f} ms for {arguments.images} images")
    for name, value in run.items():
        print(f"one run     {name:<13} {value:8.3f} s, {100 * value / run['train']:6.2f} % of training")
    shares = {name: run[name] / run["train"] for name in run}
    for when, ending in (("before", "_first"), ("after", "")):
        spent = run["sample"] + run[f"score{ending}"] + run[f"anchors{ending}"]
        shares[f"evaluation_{when}"] = spent / (spent + run["train"])
        print(f"evaluation is {100 * shares[f'evaluation_{when}']:.1f} % of a run {when} anything is kept")
    print(
        json.dumps({"images_per_second": speed, "reference_seconds": cache, "run_seconds": run, "of_training": shares})
    )


if __name__ == "__main__":
    main()
