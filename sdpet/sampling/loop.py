"""Draw images: the denoising loop with classifier-free guidance; the update rules are in sdpet.sampling.samplers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sdpet.models.base import BaseModel
from sdpet.sampling.samplers import SAMPLERS, Sampler, add_noise
from sdpet.seeds import generator

Progress = Callable[[int, int], None]  # (UNet steps done, UNet steps in all)
NOT_FINITE = "sampling gave values that are not finite; the design has diverged."


@dataclass(frozen=True)
class SamplerConfig:
    """How images are drawn.

    name: dpm (DPM-Solver++ 2M), ddim or plms; steps: denoising steps; guidance: scale of classifier-free guidance,
    eps = eps(empty) + guidance * (eps(prompt) - eps(empty)), and 1 runs no unconditional pass;
    eta: share of fresh noise, for ddim only (0 is deterministic, 1 is ancestral).
    """

    name: str = "dpm"
    steps: int = 25
    guidance: float = 7.0
    eta: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in SAMPLERS:
            raise ValueError(f"sampler {self.name!r} is unknown; choose one of {', '.join(SAMPLERS)}.")
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or not 1 <= self.steps <= 1000:
            raise ValueError(f"sampler steps must be a whole number from 1 to 1000, not {self.steps!r}.")
        if self.name == "dpm" and self.steps > 999:  # its timesteps run from 999 to 1: one more would be there twice
            raise ValueError(f"the sampler dpm takes at most 999 steps, not {self.steps}.")
        if not 0 <= self.guidance < float("inf"):
            raise ValueError(f"guidance must be a number of at least 0, not {self.guidance!r}.")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie between 0 and 1, not {self.eta!r}.")
        if self.eta and self.name != "ddim":
            raise ValueError(f"eta {self.eta} needs the sampler ddim; {self.name} takes eta 0 only.")


@dataclass(frozen=True)
class Start:
    """Where denoising starts; by default at noise of the model's own size, drawn from each image's seed.

    size: (h, w) of the latents. seeds: of the starting noise of each image, instead of the image's own.
    latents: (N or 1, C, h, w) of images, to which the noise of the first step taken is added.
    strength: share of the sampler's steps that are taken, 0 to 1; int(strength * steps) of them, the last ones.
    """

    size: tuple[int, int] | None = None
    seeds: Sequence[int] | None = None
    latents: torch.Tensor | None = None
    strength: float = 1.0

    def skipped(self, steps: int) -> int:
        return steps - int(self.strength * steps)


def sample(
    base: BaseModel,
    prompts: Sequence[str],
    seeds: Sequence[int],
    sampler: SamplerConfig,
    progress: Progress | None = None,
    chunk: int = 32,
) -> np.ndarray:
    """Draw one image per prompt: uint8 (N, H, W, 3).

    All noise of image i comes from seeds[i] alone, so an image does not depend on its neighbours or on `chunk`, the
    number of images denoised together. `progress(done, total)` is called after each denoising step of a chunk.
    Raises FloatingPointError when the model's output is not finite (a diverged design).
    """
    images = sample_together(base, prompts, [seeds], sampler, progress, chunk)[0]
    if images is None:
        raise FloatingPointError(NOT_FINITE)
    return images


@torch.no_grad()
def sample_together(
    base: BaseModel,
    prompts: Sequence[str],
    seeds: Sequence[Sequence[int]],
    sampler: SamplerConfig,
    progress: Progress | None = None,
    chunk: int = 32,
) -> list[np.ndarray | None]:
    """Images of all members of a fleet in one denoising loop: as `sample` gives them for each, None where not finite.

    seeds: those of each member's images, in order of the members' rows; the prompts are the same for all.
    """
    wrong = next((len(own) for own in seeds if len(own) != len(prompts)), None)
    if wrong is not None:
        raise ValueError(f"{len(prompts)} prompts came with {wrong} seeds; give one seed an image.")
    unique = list(dict.fromkeys(prompts))
    states = base.encode_text(["", *unique])  # (1 + U, L, D), the empty prompt first
    rows = torch.tensor([1 + unique.index(prompt) for prompt in prompts])
    size = max(1, chunk // len(seeds))  # images of each member
    starts = range(0, len(prompts), size)
    drawn: list[list[np.ndarray]] = [[] for _ in seeds]
    finite = [True] * len(seeds)
    for number, start in enumerate(starts):
        part = slice(start, start + size)
        text = states[rows[part]].repeat(len(seeds), 1, 1)  # member after member
        report = _chunk_progress(progress, number, len(starts))
        latents = denoise(base, text, states[:1], [seed for own in seeds for seed in own[part]], sampler, report)
        shares = latents.unflatten(0, (len(seeds), -1))  # (K, n, C, h, w)
        for k, share in enumerate(shares):
            finite[k] = finite[k] and bool(torch.isfinite(share).all())
        images = base.decode(torch.nan_to_num(latents))
        for k, own_images in enumerate(np.split(images, len(seeds))):
            drawn[k].append(own_images)
        if not any(finite):
            break
    empty = np.zeros((0, base.image_size, base.image_size, 3), np.uint8)
    return [np.concatenate([empty, *own]) if ok else None for own, ok in zip(drawn, finite, strict=True)]


def denoise(
    base: BaseModel,
    text: torch.Tensor,
    empty: torch.Tensor,
    seeds: Sequence[int],
    sampler: SamplerConfig,
    report: Callable[[int, int], None] | None = None,
    start: Start | None = None,
) -> torch.Tensor:
    """Latents (N, C, h, w) for text states (N, L, D); `empty` (1, L, D) are those of the empty prompt."""
    start = start or Start()
    passes = SAMPLERS[sampler.name](base.scheduler, sampler.steps, start.skipped(sampler.steps), sampler.eta)
    sources = [generator(seed, "image") for seed in seeds]
    x = _begin(base, start, passes, sources)
    guided = sampler.guidance != 1
    if guided:  # an image's two rows stand together, so that the rows of each member of a fleet do
        text = torch.stack([empty.expand(len(seeds), -1, -1), text], dim=1).flatten(0, 1)  # (2 N, L, D)
    for i, t in enumerate(passes.timesteps):
        rows = x.to(base.dtype)
        if guided:
            rows = rows.repeat_interleave(2, dim=0)
        out = base.predict(rows, torch.tensor(t, device=base.device), text).to(x.dtype)
        if guided:
            without, with_text = out.unflatten(0, (-1, 2)).unbind(1)
            out = without + sampler.guidance * (with_text - without)
        x = passes.step(out, i, x, _noise(base, sources, x.shape[1:]) if sampler.eta else None)
        if report:
            report(i + 1, len(passes.timesteps))
    return x


def _begin(base: BaseModel, start: Start, passes: Sampler, sources: Sequence[torch.Generator]) -> torch.Tensor:
    """Latents (N, C, h, w) before the first step; the first draw of every source is taken, whether used or not."""
    channels, height, width = base.latent_shape
    if start.latents is not None:
        height, width = start.latents.shape[-2:]
    elif start.size is not None:
        height, width = start.size
    noise = _noise(base, sources, (channels, height, width))
    if start.seeds is not None:
        noise = _noise(base, [generator(seed, "image") for seed in start.seeds], (channels, height, width))
    if start.latents is None:
        return noise
    latents = start.latents.to(noise).expand_as(noise)
    return add_noise(base.scheduler, latents, noise, passes.timesteps[0]) if passes.timesteps else latents


def _noise(base: BaseModel, sources: Sequence[torch.Generator], shape: Sequence[int]) -> torch.Tensor:
    """Standard normal (N, C, h, w), image i from its own generator (on the CPU: the same on every device).

    At least float32: in half precision only the networks compute, for rounding would add up over the steps.
    """
    noise = torch.stack([torch.randn(tuple(shape), generator=source) for source in sources])
    return noise.to(base.device, torch.promote_types(base.dtype, torch.float32))


def _chunk_progress(progress: Progress | None, number: int, chunks: int) -> Callable[[int, int], None] | None:
    """Progress of one chunk as progress of the whole; PLMS has a step more than asked for."""
    if progress is None:
        return None
    return lambda done, steps: progress(number * steps + done, chunks * steps)
