"""Fleets against training one by one: python bench/fleet.py [--full] [--skip study,v1,peer].

Everything that is compared is measured in turn in one call; medians. Prints tables, and one JSON object as last line:
  step_ratio        seconds per design and step alone / at K = 16, one image a step, on the lab
  row_ratio         the same with four images a step, as in the lab's recipe, at K = 15 and 64 (goals: 3.2 and 5)
  v1_step_ratio     the same, K = 1 / K = 4, on a UNet of v1's widths with random weights and 8 x 8 latents (5 GB)
  study_vs_process  +sweeps=placement (20 designs x 3 seeds) as one process per run, one a core at a time / as fleets,
                    start-up included. Without --full the processes are a sample of runs, taken to stand for all
  study_vs_peer     diffusers + peft LoRA as its training scripts do it, one design after another in one process /
                    a fleet: same UNet, images a step, steps and samples. As the scripts do it they encode image and
                    caption at every step; `cached` gives them latents and text states made once, as a fleet has them
  compiled_ratio    seconds per design and step as it is / compiled (trainer.compile), K = 8, lab, with --compile;
                    and how long compiling took
Steps and the peer are measured in CPU time (on a GPU, wall time), the study in wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from workload import NoiseTask, clock_of, curve, timed, v1_base

from sdpet.adapters import PLACEMENTS
from sdpet.models import BaseModel, load_base

ROOT = Path(__file__).parent.parent
PROMPT = "a photo of a star"


def show(title: str, found: dict[int, Any]) -> None:
    first = min(found)
    print(f"\n{title}\n{'K':>4} {'ms per design and step':>24} {'times faster':>14} {'extra MB':>9}")
    for size, (seconds, extra) in found.items():
        faster = found[first][0] / seconds
        print(f"{size:>4} {1000 * seconds:>24.1f} {faster:>14.2f} {extra / 2**20:>9.0f}", flush=True)


def study(sampled: int | None, overrides: list[str]) -> dict[str, float]:
    """Seconds of the whole study by fleets, and by one process per run: all 60, or `sampled` ones, scaled up.

    A sample finds the scores of the untuned base made, which the study by fleets has paid for.
    """
    from sdpet.study import usable_cores

    out = Path(tempfile.mkdtemp(prefix="bench_fleet_"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "train.py")]
    runs = [(placement, seed) for seed in range(3) for placement in PLACEMENTS]
    taken = runs if sampled is None else runs[:: len(runs) // sampled][:sampled]

    def by_fleets() -> None:
        sweep = [*command, "-m", "+sweeps=placement", "quiet=true", *overrides, f"output_root={out}"]
        subprocess.run(sweep, env=environment, check=True, stdout=subprocess.DEVNULL)

    def by_processes() -> None:
        root, waiting, going = out / ("full" if sampled is None else ""), list(taken), []
        while waiting or going:
            while waiting and len(going) < usable_cores():
                placement, seed = waiting.pop(0)
                own = [f"adapter={placement}", f"seed={seed}", f"output_root={root}"]
                one = [*command, "quiet=true", *overrides, *own]
                going.append(subprocess.Popen(one, env=environment, stdout=subprocess.DEVNULL))
            if any(process.poll() for process in going):
                raise RuntimeError(f"a run of the study ended with an error: {' '.join(overrides)}")
            going = [process for process in going if process.poll() is None]
            time.sleep(0.02)

    try:
        fleets = timed(by_fleets)
        processes = timed(by_processes) * len(runs) / len(taken)
    finally:
        shutil.rmtree(out, ignore_errors=True)
    return {"fleets": fleets, "processes": processes, "ratio": processes / fleets, "processes_measured": len(taken)}


class Peer:
    """LoRA of rank 4 on the attention of the same UNet, as diffusers' training scripts do it: every step encodes the
    image and its caption, and the images of each design are drawn by a StableDiffusionPipeline."""

    def __init__(self, base: BaseModel) -> None:
        from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

        self.base = base
        self.pipe = StableDiffusionPipeline(
            vae=base.vae,
            text_encoder=base.text_encoder,
            tokenizer=base.tokenizer,
            unet=base.unet,
            scheduler=DPMSolverMultistepScheduler.from_config(base.scheduler.config),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        self.pipe.set_progress_bar_config(disable=True)

    @torch.no_grad()
    def encoded(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents (N, C, h, w) of pixels (N, 3, H, W), and the text states (1, L, D)."""
        latents = self.base.vae.encode(pixels).latent_dist.sample() * self.base.vae.config.scaling_factor
        return latents, self.base.encode_text([PROMPT])

    def train_and_sample(
        self, pixels: torch.Tensor, steps: int, images: int, sampling: int, guidance: float, cached: bool
    ) -> None:
        """pixels: (N, 3, H, W) in [-1, 1], from which each step takes one; cached: they are encoded only once."""
        from peft import LoraConfig

        base, unet = self.base, self.base.unet
        unet.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
        try:
            trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
            optimizer = torch.optim.AdamW(trained, lr=1e-4)
            every, text = self.encoded(pixels) if cached else (None, None)
            for step in range(steps):
                one = [step % len(pixels)]
                latents, text = (every[one], text) if cached else self.encoded(pixels[one])
                noise, t = torch.randn_like(latents), torch.randint(0, 1000, (1,))
                prediction = unet(base.scheduler.add_noise(latents, noise, t), t, text, return_dict=False)[0]
                torch.nn.functional.mse_loss(prediction, noise).backward()
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.step()
                optimizer.zero_grad()
            self.pipe(
                [PROMPT] * images,
                num_inference_steps=sampling,
                guidance_scale=guidance,
                output_type="np",
                height=base.image_size,
                width=base.image_size,
            )
        finally:
            unet.unload_lora()
            unet.requires_grad_(False)


def against_peer(base: BaseModel, designs: int, rounds: int, steps: int, images: int, sampling: int) -> dict[str, Any]:
    """Seconds per design, trained and sampled: `designs` as a fleet, and the peer's one after another."""
    from workload import fleet_designs

    from sdpet.methods import build_fleet
    from sdpet.sampling import SamplerConfig, sample_together
    from sdpet.tasks import FinetuneTask
    from sdpet.training import Member, TrainConfig, fit_together

    pictures = np.random.default_rng(0).integers(0, 256, (8, base.image_size, base.image_size, 3), dtype=np.uint8)
    captions = [PROMPT] * len(pictures)
    task = FinetuneTask(
        base, None, 1, images=pictures, captions=captions, heldout_images=pictures, heldout_captions=captions
    )
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1
    sampler, peer = SamplerConfig(steps=sampling), Peer(base)
    clock = clock_of(base)

    def ours() -> None:
        made, seeds = fleet_designs(base, designs, 24000)
        fleet = build_fleet(base, made, seeds)
        try:
            options = TrainConfig(steps, 1e-3, clip=1.0)
            fit_together(base, [Member(h, s, options) for h, s in zip(fleet.members, seeds, strict=True)], task, fleet)
            noise = [list(range(images)) for _ in fleet.active]
            sample_together(base, [PROMPT] * images, noise, sampler)
        finally:
            fleet.detach()

    def theirs(cached: bool = False) -> None:
        peer.train_and_sample(pixels, steps, images, sampling, sampler.guidance, cached)

    theirs()
    took: dict[str, list[float]] = {"fleet": [], "peer": [], "cached": []}
    for _ in range(rounds):
        took["fleet"].append(timed(ours, clock) / designs)
        took["peer"].append(statistics.median(timed(theirs, clock) for _ in range(2)))
        took["cached"].append(statistics.median(timed(lambda: theirs(cached=True), clock) for _ in range(2)))
    found = {name: statistics.median(values) for name, values in took.items()}
    ratios = {"ratio": found["peer"] / found["fleet"], "cached_ratio": found["cached"] / found["fleet"]}
    return {**found, **ratios, "designs": designs, "steps": steps, "images": images}


def compiled(base: BaseModel, task: NoiseTask, size: int, rounds: int, steps: int, params: int) -> dict[str, float]:
    """Seconds per design and step of a fleet as it is and compiled, in turn, and wall time of compiling once."""
    from workload import fleet_step

    fleet_step(base, task, size, 2, params)
    found: dict[str, list[float]] = {"plain": [], "compiled": [], "compiling": []}
    for _ in range(rounds):
        start = time.perf_counter()
        found["plain"].append(fleet_step(base, task, size, steps, params)[0])
        plain = time.perf_counter() - start
        start = time.perf_counter()
        found["compiled"].append(fleet_step(base, task, size, steps, params, compile=True)[0])
        found["compiling"].append(time.perf_counter() - start - plain)
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1,2,4,8,16,32", help="of the fleets on the lab")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="of each fleet in each round")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--params", type=int, default=24000)
    parser.add_argument("--peer", default="16,3,60,6,25", help="designs, rounds, steps, images, sampling steps")
    parser.add_argument("--skip", default="", help="parts to leave out, of v1,study,peer")
    parser.add_argument("--compile", action="store_true", help="measure compiled fleets, too; takes minutes")
    parser.add_argument("--full", action="store_true", help="run all 60 runs of the study one by one as well")
    parser.add_argument("--sampled", type=int, default=6, help="runs that stand for all, without --full")
    parser.add_argument("--study", nargs="*", default=[], metavar="KEY=VALUE", help="overrides of the study's config")
    arguments = parser.parse_args()
    skipped = set(filter(None, arguments.skip.split(",")))
    torch.set_num_threads(1)
    found: dict[str, Any] = {"step_ratio": None, "study_vs_process": None, "study_vs_peer": None}

    lab, sizes = load_base("lab"), [int(size) for size in arguments.sizes.split(",")]
    task = NoiseTask(lab, arguments.batch, tokens=lab.tokenizer.model_max_length)
    points = curve(lab, task, sizes, arguments.rounds, arguments.steps, arguments.params)
    show(f"lab, batch {arguments.batch}", points)
    found["curve"] = {size: {"seconds": s, "extra_bytes": b} for size, (s, b) in points.items()}
    if {1, 16} <= points.keys():
        found["step_ratio"] = points[1][0] / points[16][0]
    rows = curve(lab, NoiseTask(lab, 4, tokens=lab.tokenizer.model_max_length), [1, 15, 64], 3, 5, arguments.params)
    show("lab, batch 4", rows)
    found["row_ratio"] = {size: rows[1][0] / rows[size][0] for size in (15, 64)}
    if arguments.compile:
        found["compiled"] = compiled(lab, task, 8, 2, arguments.steps, arguments.params)
        found["compiled_ratio"] = found["compiled"]["plain"] / found["compiled"]["compiled"]
        text = "K = 8: {plain:.4f} s per design and step, compiled {compiled:.4f} s; compiling took {compiling:.0f} s"
        print("\n" + text.format(**found["compiled"]), flush=True)
    if "peer" not in skipped:
        found["peer"] = against_peer(lab, *[int(number) for number in arguments.peer.split(",")])
        found["study_vs_peer"] = found["peer"]["ratio"]
        found["study_vs_peer_cached"] = found["peer"]["cached_ratio"]
        text = (
            "per design, {steps} steps and {images} images: fleet of {designs} {fleet:.2f} s, peer {peer:.2f} s, "
            "with latents and text made once {cached:.2f} s"
        )
        print("\n" + text.format(**found["peer"]))
    if "v1" not in skipped:
        base = v1_base(8)
        points = curve(base, NoiseTask(base, 1), [1, 2, 4], 2, 2, 1_500_000)
        show("UNet of v1's widths, 8 x 8 latents, batch 1", points)
        found["v1_curve"] = {size: {"seconds": s, "extra_bytes": b} for size, (s, b) in points.items()}
        found["v1_step_ratio"] = points[1][0] / points[4][0]
        del base
    if "study" not in skipped:
        found["study"] = study(None if arguments.full else arguments.sampled, arguments.study)
        found["study_vs_process"] = found["study"]["ratio"]
        said = "" if arguments.full else " (all 60, as {processes_measured} of them took)".format(**found["study"])
        print(
            "\nstudy of 60 runs: fleets {fleets:.0f} s, one process per run {processes:.0f} s".format(**found["study"])
            + said
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
