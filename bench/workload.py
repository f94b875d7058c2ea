"""What the benchmarks train: all placements in turn, on noise, without images or texts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch

from sdpet.adapters import PLACEMENTS, AdapterSpec, mid_dim_for
from sdpet.methods import Design, build, build_fleet
from sdpet.models import BaseModel
from sdpet.seeds import generator
from sdpet.tasks import Batch, make_noisy_batch, weighted_mse
from sdpet.training import Member, PeakMemory, TrainConfig, fit_together


class NoiseTask:
    """Batches of random latents with a random text: what a step costs does not depend on their content."""

    def __init__(self, base: BaseModel, batch: int, tokens: int = 77) -> None:
        self.base, self.size = base, batch
        self.latents = torch.randn(batch, *base.latent_shape, generator=generator("latents"))
        text = torch.randn(batch, tokens, base.unet.config.cross_attention_dim, generator=generator("text"))
        self.text = text.to(base.device, base.dtype)

    def batch(self, seed: int, step: int) -> Batch:
        latents = self.latents.to(self.base.device, self.base.dtype)
        weight = torch.full((self.size,), 1 / self.size, device=self.base.device)
        return make_noisy_batch(self.base, latents, self.text, [""] * self.size, weight, seed, step)

    def loss(self, prediction: torch.Tensor, batch: Batch) -> torch.Tensor:
        return weighted_mse(prediction, batch)


def v1_base(side: int, device: str = "cpu", dtype: torch.dtype = torch.float32, tiny: bool = False) -> BaseModel:
    """A UNet of Stable Diffusion v1's widths with random weights for latents (4, side, side), and nothing else.

    tiny: a tenth of the widths, to try the code.
    """
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel

    widths = (320, 640, 1280, 1280)
    with torch.device(device):
        unet = UNet2DConditionModel(
            sample_size=side,
            block_out_channels=tuple(width // 10 for width in widths) if tiny else widths,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            cross_attention_dim=48 if tiny else 768,
            attention_head_dim=8,
            norm_num_groups=8 if tiny else 32,
        )
    unet = (unet if dtype == torch.float32 else unet.to(dtype)).requires_grad_(False).eval()
    vae = AutoencoderKL(  # only its number of levels matters here
        block_out_channels=(32,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    return BaseModel(unet, vae, None, None, scheduler, "v1", "")


def fleet_designs(base: BaseModel, size: int, params: int) -> tuple[list[Design], list[int]]:
    """All placements in turn, of `params` parameters each, and their seeds."""
    specs = [AdapterSpec.parse(PLACEMENTS[i % len(PLACEMENTS)], mid_dim=1) for i in range(size)]
    specs = [replace(spec, mid_dim=mid_dim_for(base.unet, spec, params)) for spec in specs]
    return [Design("adapter", spec) for spec in specs], [i // len(PLACEMENTS) for i in range(size)]


def fleet_step(
    base: BaseModel, task: Any, size: int, steps: int, params: int, precision: str = "32-true", **trainer: Any
) -> tuple[float, int]:
    """(seconds per design and step, median of the steps; peak bytes) of a fleet of `size` designs.

    Further arguments are those of `TrainConfig`.
    """
    designs, seeds = fleet_designs(base, size, params)
    fleet = build_fleet(base, designs, seeds) if size > 1 else None
    handles: Any = fleet.members if fleet else [build(base, designs[0], 0)]
    options = TrainConfig(steps, 1e-3, precision=precision, **trainer)
    members = [Member(handle, seed, options) for handle, seed in zip(handles, seeds, strict=True)]
    clock, marks = clock_of(base), []
    members[0].on_step = lambda step, loss: marks.append(clock())
    try:
        result = fit_together(base, members, task, fleet)[0]
        took = statistics.median(b - a for a, b in pairwise(marks))
        return took / size, result.peak_memory_bytes
    finally:
        for handle in handles:
            handle.detach()
        if fleet:
            fleet.detach()


def curve(
    base: BaseModel, task: Any, sizes: list[int], rounds: int, steps: int, params: int, precision: str = "32-true"
) -> dict[int, tuple[float, int]]:
    """{size: (seconds per design and step, extra bytes)}: sizes in turn, round after round, and medians over rounds.

    Extra bytes are those on top of what the process held before; sizes grow, so that what it keeps hides nothing.
    """
    fleet_step(base, task, 1, 2, params, precision)  # libraries load what they need on first use
    before = PeakMemory(base.device).peak()
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    extra: dict[int, int] = {}
    for _ in range(rounds):
        for size in sorted(sizes):
            took, peak = fleet_step(base, task, size, steps, params, precision)
            seconds[size].append(took)
            extra.setdefault(size, max(0, peak - before))
    return {size: (statistics.median(seconds[size]), extra[size]) for size in sizes}


def clock_of(base: BaseModel) -> Callable[[], float]:
    """CPU time where the CPU computes, as other work on a machine changes it little; else wall time."""
    return time.process_time if base.device.type == "cpu" else time.perf_counter


def timed(work: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    work()
    return clock() - start
