"""Draw images: the denoising loop with classifier-free guidance. The update rules are in sdpet.sampling.samplers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch

from sdpet.choices import AUTOCASTS
from sdpet.models.base import BaseModel
from sdpet.models.sending import sent
from sdpet.sampling.compiling import compiled_chunks
from sdpet.sampling.config import SamplerConfig, Start
from sdpet.sampling.flow_samplers import FLOW_SAMPLER_CLASSES
from sdpet.sampling.samplers import SAMPLER_CLASSES, Sampler
from sdpet.seeds import generator

StepCallback = Callable[[int, int], None]  # (UNet steps done, UNet steps in all)
NOT_FINITE = "sampling gave values that are not finite; the design has diverged."


def sample(
    base: BaseModel,
    prompts: Sequence[str],
    seeds: Sequence[int],
    sampler: SamplerConfig,
    progress: StepCallback | None = None,
    chunk: int = 32,
) -> np.ndarray:
    """Draw one image for each prompt.

    All noise of image i comes from seeds[i] alone, so an image does not depend on the other images or on `chunk`.

    Parameters
    ----------
    base : BaseModel
        The model, with whatever is attached to it.
    prompts : sequence of str, N
        One prompt an image.
    seeds : sequence of int, N
        One seed an image.
    sampler : SamplerConfig
        How the images are drawn.
    progress : callable, optional
        Called as progress(UNet steps done, UNet steps in all) after every denoising step of a chunk.
    chunk : int
        Number of images that are denoised together; it affects memory and speed, not the images.

    Returns
    -------
    ndarray of uint8, (N, H, W, 3)

    Raises
    ------
    FloatingPointError
        The model's output is not finite, so the design has diverged.
    ValueError
        The numbers of prompts and seeds differ.
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
    progress: StepCallback | None = None,
    chunk: int = 32,
) -> list[np.ndarray | None]:
    """Draw the images of all members of a fleet in one denoising loop; each member's images are those of `sample`.

    Parameters
    ----------
    base : BaseModel
        The model with the fleet attached to it.
    prompts : sequence of str, N
        One prompt an image, the same for all members.
    seeds : sequence of K sequences of int, each N long
        Seeds of each member's images, in the order of the members' rows.
    sampler : SamplerConfig
        How the images are drawn.
    progress : callable, optional
        As in `sample`.
    chunk : int
        Number of images that are denoised together, over all members.

    Returns
    -------
    list of K arrays of uint8, (N, H, W, 3)
        None in place of the images of a member whose samples are not finite.

    Raises
    ------
    ValueError
        The numbers of prompts and seeds differ.
    """
    wrong = next((len(own) for own in seeds if len(own) != len(prompts)), None)
    if wrong is not None:
        raise ValueError(f"{len(prompts)} prompts came with {wrong} seeds; give one seed an image.")
    unique = list(dict.fromkeys(prompts))
    states = base.encode_text(["", *unique])  # (1 + U, L, D), the empty prompt first
    rows = sent(torch.tensor([1 + unique.index(prompt) for prompt in prompts], dtype=torch.long), states.device)
    size = max(1, min(chunk // len(seeds), len(prompts)))  # images a member in one chunk
    starts = range(0, len(prompts), size)
    drawn: list[list[np.ndarray]] = [[] for _ in seeds]
    finite = [True] * len(seeds)
    one_pass = partial(_one_pass, base, sampler, states[:1].expand(size * len(seeds), -1, -1))
    with compiled_chunks(base, sampler, one_pass, size * len(seeds), len(prompts) // size) as compiled:
        for number, start in enumerate(starts):
            part = slice(start, start + size)
            text = states[rows[part]].repeat(len(seeds), 1, 1)  # member after member
            chunk_progress = _chunk_progress(progress, number, len(starts))
            sources = [seed for own in seeds for seed in own[part]]
            with compiled(len(text)):
                latents = denoise(base, text, states[:1], sources, sampler, chunk_progress)
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
    progress: StepCallback | None = None,
    start: Start | None = None,
) -> torch.Tensor:
    """Denoise N images from their starting noise to clean latents.

    Parameters
    ----------
    base : BaseModel
        The model, with whatever is attached to it.
    text : Tensor (N, L, D)
        Text states of the images' prompts.
    empty : Tensor (1, L, D)
        Text states of the empty prompt.
    seeds : sequence of int, N
        One seed an image, for all of its noise.
    sampler : SamplerConfig
        How the images are drawn.
    progress : callable, optional
        Called as progress(UNet steps done, UNet steps in all) after each step.
    start : Start, optional
        Where denoising starts.

    Returns
    -------
    Tensor (N, C, h, w)
        Clean latents, at least float32.
    """
    start = start or Start()
    height, width = _latent_size(base, start)
    passes = _passes(base, sampler, start.skipped(sampler.steps), height * width // 4)
    sources = [generator(seed, "image") for seed in seeds]
    x = _starting_latents(base, start, passes, sources, (height, width))
    fresh = bool(sampler.eta) or getattr(passes, "needs_noise", False)
    guided = _is_guided(base, sampler)
    if guided:  # an image's two rows are adjacent, so that the rows of each member of a fleet stay together
        text = torch.stack([empty.expand(len(seeds), -1, -1), text], dim=1).flatten(0, 1)  # (2 N, L, D)
    timesteps = [torch.tensor(t, device=base.device) for t in passes.timesteps]  # now: the host waits for copies
    for i, t in enumerate(timesteps):
        rows = x.to(base.dtype)
        if guided:
            rows = rows.repeat_interleave(2, dim=0)
        with _precision(base, sampler):
            out = base.predict(rows, t, text, sampler.guidance).to(x.dtype)
        if guided:
            without, with_text = out.unflatten(0, (-1, 2)).unbind(1)
            out = without + sampler.guidance * (with_text - without)
        x = passes.step(out, i, x, _noise(base, sources, x.shape[1:]) if fresh else None)
        if progress:
            progress(i + 1, len(passes.timesteps))
    return x


def _is_guided(base: BaseModel, sampler: SamplerConfig) -> bool:
    """Whether each image has a row for the empty prompt beside its own."""
    return sampler.guidance != 1 and not base.family.embeds_guidance


def _one_pass(base: BaseModel, sampler: SamplerConfig, text: torch.Tensor) -> None:
    """Call the denoiser as `denoise` does, with text states (N, L, D) of N images; for measuring."""
    text = text.repeat_interleave(2, dim=0) if _is_guided(base, sampler) else text
    noisy = torch.zeros(len(text), *base.latent_shape, device=base.device, dtype=base.dtype)
    with torch.no_grad(), _precision(base, sampler):
        base.predict(noisy, torch.tensor(500.0, device=base.device), text, sampler.guidance)


def _precision(base: BaseModel, sampler: SamplerConfig) -> AbstractContextManager[Any]:
    """The precision in which the denoiser computes."""
    if sampler.autocast is None:
        return nullcontext()
    return torch.autocast(base.device.type, getattr(torch, AUTOCASTS[sampler.autocast]))


def _passes(base: BaseModel, sampler: SamplerConfig, skip: int, tokens: int) -> Sampler:
    """The update rule of a sampler for this kind of model; ValueError if the model does not go with it."""
    if sampler.make is not None:  # one of the user's own
        return sampler.make(scheduler=base.scheduler, steps=sampler.steps, skip=skip, **sampler.options)
    known = FLOW_SAMPLER_CLASSES if base.is_flow else SAMPLER_CLASSES
    if sampler.name not in known:
        kind = "flow matching" if base.is_flow else "diffusion"
        raise ValueError(
            f"the sampler {sampler.name} does not go with a {kind} model; choose one of {', '.join(known)}."
        )
    if base.is_flow:
        return known[sampler.name](base.scheduler, sampler.steps, skip, tokens)
    return known[sampler.name](base.scheduler, sampler.steps, skip, sampler.eta)


def _latent_size(base: BaseModel, start: Start) -> tuple[int, int]:
    """Height and width of the latents."""
    if start.latents is not None:
        return int(start.latents.shape[-2]), int(start.latents.shape[-1])
    return start.size or base.latent_shape[1:]


def _starting_latents(
    base: BaseModel, start: Start, passes: Sampler, sources: Sequence[torch.Generator], size: tuple[int, int]
) -> torch.Tensor:
    """Latents (N, C, h, w) before the first step. One draw is taken from every source, whether it is used or not."""
    shape = (base.latent_shape[0], *size)
    noise = _noise(base, sources, shape)
    if start.seeds is not None:
        noise = _noise(base, [generator(seed, "image") for seed in start.seeds], shape)
    if start.latents is None:
        return noise
    latents = start.latents.to(noise).expand_as(noise)
    if not passes.timesteps:
        return latents
    level = torch.full((len(noise),), passes.timesteps[0], device=noise.device)
    return base.process.add_noise(latents, noise, level)


def _noise(base: BaseModel, sources: Sequence[torch.Generator], shape: Sequence[int]) -> torch.Tensor:
    """Standard normal (N, C, h, w), image i from its own generator (on the CPU: all devices see the same noise).

    The dtype is at least float32: only the networks compute in half precision, since rounding would add up over steps.
    """
    noise = torch.stack([torch.randn(tuple(shape), generator=source) for source in sources])
    return sent(noise.to(torch.promote_types(base.dtype, torch.float32)), base.device)


def _chunk_progress(progress: StepCallback | None, number: int, chunks: int) -> StepCallback | None:
    """Turn the progress of one chunk into the progress of all. (PLMS takes one step more than was asked for.)"""
    if progress is None:
        return None
    return lambda done, steps: progress(number * steps + done, chunks * steps)
