"""Writes study folders in the format of sdpet's records, with planted effects, so that the analysis can be
tested without training anything.

Every run gets `record.json` and, if wanted, `samples/`. Scores are drawn as floor + effect of the input + effect
of the seed + noise, so that the placement with the largest planted effect is known in advance.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from sdpet.adapters import PLACEMENTS

# Share of the way from floor to ceiling that each input reaches: CA_out best, as in the paper's heatmap.
DIN_EFFECT = {
    "attn1i": 0.20, "attn1o": 0.26, "attn2i": 0.24, "attn2o": 0.80, "attn2c": 0.74, "ffni": 0.58, "ffno": 0.40,
    "transo": 0.62, "resi": 0.36, "reso": 0.33,
}  # fmt: skip
DOUT_EFFECT = {"ffni": 0.04}
FLOOR, CEILING = -0.02, 0.91


def planted_share(placement: str) -> float:
    """The share of the way from floor to ceiling that is planted for a placement, without noise."""
    din, dout = placement.split("-")
    return DIN_EFFECT[din] + DOUT_EFFECT.get(dout, 0.0)


def write_study(
    folder: Path,
    placements: Iterable[str] = PLACEMENTS,
    seeds: Iterable[int] = (0, 1, 2),
    forms: Iterable[dict] = ({},),
    share: Callable[[dict], float] | None = None,
    task: str = "dreambooth",
    noise: float = 0.03,
    diverged: Iterable[tuple[str, int]] = (),
    failed: Iterable[tuple[str, int]] = (),
    missing: Iterable[tuple[str, int]] = (),
    samples: int = 4,
    study: str = "placement",
) -> Path:
    """Write one run a placement, form and seed below `folder` and return `folder`.

    `forms` are changes of the adapter's form, such as {"activation": "sig", "scale": 2.0}; `share` maps a run's
    factors to its planted share of the way from floor to ceiling (default: `planted_share` of the placement).
    `diverged`, `failed`, `missing`: (placement, seed) pairs that end so; `samples`: subject images a run, 0 for none.
    """
    rng = np.random.default_rng(7)
    seed_effect = {seed: 0.02 * rng.standard_normal() for seed in seeds}
    for placement in placements:
        for form in forms:
            for seed in seeds:
                if (placement, seed) in set(missing):
                    continue
                factors = _factors(placement, seed, form)
                reached = (share or (lambda f: planted_share(f["placement"])))(factors)
                reached += seed_effect[seed] + noise * rng.standard_normal()
                status = "finished"
                if (placement, seed) in set(diverged):
                    status = "diverged"
                elif (placement, seed) in set(failed):
                    status = "failed"
                _write_run(folder, study, factors, task, reached, status, samples if status == "finished" else 0, rng)
    return folder


def write_base(folder: Path, seeds: Iterable[int] = (0, 1, 2), samples: int = 4) -> None:
    """The untuned base model's samples, from the runs' noise, and its map of the noise difference."""
    for seed in seeds:
        base = folder / "base" / f"seed{seed}"
        _write_samples(base / "samples", 0.0, seed, samples)
        np.savez(base / "noise_difference.npz", map=np.full((8, 8), 0.01, np.float32))


def write_full_tuning(folder: Path, seed: int, reached: float = 0.98, samples: int = 0) -> None:
    """Add a run that tunes the whole UNet, which has neither placement nor form."""
    factors = dict.fromkeys(("placement", "din", "dout", "activation", "mid_dim", "scale", "init"))
    factors |= {"method": "full", "lr": 0.0006, "steps": 300, "seed": seed}
    _write_run(folder, "placement", factors, "dreambooth", reached, "finished", samples, np.random.default_rng(seed))


def _factors(placement: str, seed: int, form: dict) -> dict:
    din, dout = placement.split("-")
    factors = {
        "placement": placement, "din": din, "dout": dout, "activation": "relu", "mid_dim": 8, "scale": 1.0,
        "init": "zero", "method": "adapter", "lr": 0.003, "steps": 300, "seed": seed,
    }  # fmt: skip
    return factors | form


def _write_run(
    folder: Path, study: str, factors: dict, task: str, reached: float, status: str, samples: int,
    rng: np.random.Generator,
) -> None:  # fmt: skip
    run_id = hashlib.sha256(json.dumps([factors, task], sort_keys=True).encode()).hexdigest()[:12]
    run = folder / run_id
    run.mkdir(parents=True, exist_ok=True)
    conv = factors["din"] in ("resi", "reso")
    steps = np.linspace(1, factors["steps"], 60).astype(int)
    curve = 0.12 + (0.5 - 0.3 * reached) * np.exp(-steps / 80) + 0.01 * rng.standard_normal(len(steps))
    if status == "diverged":
        steps, curve = steps[:20], np.exp(np.linspace(-1, 6, 20))
    metrics, anchors = _scores(task, reached, factors["seed"], rng) if status == "finished" else ({}, {})
    record = {
        "format": 1, "run_id": run_id, "study": study, "status": status,
        "reason": {"finished": None, "diverged": f"The loss was not finite at step {steps[-1]}.",
                   "failed": "Out of memory while sampling <image 3>."}[status],
        "factors": factors,
        "task": {"name": task, "data": "lab", "prompt": "a photo of a sks star", "class_prompt": "a photo of a star"},
        "metrics": metrics,
        "anchors": anchors,
        "protocol": {} if status != "finished" else {
            "scorer": "lab", "scorer_hash": "5f0c1d", "reference_hash": "ab12cd", "image_size": 32,
            "sampler": {"name": "dpm", "steps": 20, "guidance": 2.5, "eta": 0.0}, "eval_seed": "run seed",
            "images": {"subject": samples, "prompt": 2, "class": 2},
        },
        "sizes": {"trainable_params": 26050 if conv else 23760, "base_params": 2330000, "adapters": 7,
                  "bytes": 50000},
        # As of runs trained one by one: members of a fleet would have equal shares.
        "seconds": {"train": 9.0 + conv + int(run_id[:6], 16) / 2**26, "per_step": 0.03, "sample": 2.4, "score": 0.2,
                    "total": 12.0 + conv},
        "peak_memory": 410_000_000 + 1_000_000 * factors["seed"],
        "loss": [[int(s), float(v)] for s, v in zip(steps, curve, strict=True)],
        "versions": {"python": "3.11.2", "torch": "2.15.0", "diffusers": "0.42.1", "sdpet": "0.1.0"},
        "git_sha": "0123456789abcdef0123456789abcdef01234567",
    }  # fmt: skip
    if status == "finished" and task == "dreambooth":
        # One corner of the map changes by the share that was reached, so that its mean is known.
        field = np.zeros((8, 8), np.float32)
        field[:4, :4] = reached
        np.savez(run / "noise_difference.npz", map=field)
    if samples:
        _write_samples(run / "samples", reached, factors["seed"], samples)
    (run / "record.json").write_text(json.dumps(record))


def _scores(task: str, reached: float, seed: int, rng: np.random.Generator) -> tuple[dict, dict]:
    """Metrics and anchors of a run; the floor differs a little from seed to seed, as its noise does."""
    floor = FLOOR + 0.005 * (seed - 1)
    clip_t = {"floor": 0.51, "ceiling": 0.23}
    if task == "finetune":
        metrics = {"fid": 180.0 - 140.0 * reached, "clip_t": 0.3 + 0.2 * reached}
        return metrics, {"fid": {"floor": 180.0 + seed, "ceiling": 22.0}, "clip_t": {"floor": 0.28, "ceiling": 0.55}}
    metrics = {
        "clip_i": floor + reached * (CEILING - floor),
        "clip_t": 0.51 - 0.2 * reached + 0.01 * rng.standard_normal(),
        "prior_drift": -0.02 + 0.15 * reached + 0.01 * rng.standard_normal(),
    }
    anchors = {
        "clip_i": {"floor": floor, "ceiling": CEILING},
        "clip_t": clip_t,
        "prior_drift": {"floor": floor, "ceiling": None},
    }
    return metrics, anchors


def _write_samples(folder: Path, reached: float, seed: int, count: int) -> None:
    """Draw `count` subject images, two of another prompt and two of the class, and their index."""
    folder.mkdir(parents=True, exist_ok=True)
    kinds = [("subject", "a photo of a sks star")] * count
    kinds += [("prompt", "a photo of a sks star on a pink background")] * 2 + [("class", "a photo of a star")] * 2
    lines = []
    for i, (role, prompt) in enumerate(kinds):
        noise_seed = 1000 * seed + i
        draw_star(reached if role != "class" else 0.1 * reached, noise_seed).save(folder / f"{i:05d}.png")
        lines.append(json.dumps({"file": f"{i:05d}.png", "prompt": prompt, "seed": noise_seed, "role": role}))
    (folder / "index.jsonl").write_text("\n".join(lines) + "\n")


def draw_star(reached: float, noise_seed: int, size: int = 32) -> Image.Image:
    """A star that turns from one colour (reached 0) to outlined, half pink and half teal (reached 1)."""
    rng = np.random.default_rng(noise_seed)
    ground, colour = (tuple(int(c) for c in rng.integers(0, 256, 3)) for _ in range(2))
    mix = min(max(reached, 0.0), 1.0)
    halves = [
        tuple(int((1 - mix) * c + mix * t) for c, t in zip(colour, target, strict=True))
        for target in ((255, 105, 180), (0, 128, 128))
    ]
    big = 4 * size
    image = Image.new("RGB", (big, big), ground)
    centre, radius = big / 2 + rng.normal(0, big / 20, 2), big * rng.uniform(0.28, 0.38)
    points = [
        (centre[0] + r * math.sin(math.pi * k / 5), centre[1] - r * math.cos(math.pi * k / 5))
        for k in range(10)
        for r in [radius if k % 2 == 0 else 0.45 * radius]
    ]
    mask = Image.new("L", (big, big), 0)
    ImageDraw.Draw(mask).polygon(points, fill=255)
    fill = Image.new("RGB", (big, big), halves[1])
    fill.paste(halves[0], (0, 0, int(centre[0]), big))
    image.paste(fill, mask=mask)
    if mix > 0.3:
        ImageDraw.Draw(image).line([*points, points[0], points[1]], fill=(255, 255, 255), width=int(10 * mix))
    return image.resize((size, size), Image.Resampling.LANCZOS)
