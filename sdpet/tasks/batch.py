"""One training batch: noised latents, what to predict, and how much each image counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch.nn import functional

from sdpet.models.base import BaseModel
from sdpet.seeds import generator


@dataclass(frozen=True)
class Batch:
    """B images at random timesteps. Batches can be concatenated, as the loss is a weighted sum over images."""

    noisy: torch.Tensor  # (B, C, h, w)
    timesteps: torch.Tensor  # (B,), int64
    text: torch.Tensor  # (B, L, D)
    target: torch.Tensor  # (B, C, h, w), the noise or the velocity
    weight: torch.Tensor  # (B,), share of each image's mean squared error in the loss
    prompts: tuple[str, ...]  # B of them, what `text` was made from


def concatenated(batches: Sequence[Batch]) -> Batch:
    """One batch of all their images, in order."""
    if len(batches) == 1:
        return batches[0]
    tensors = [field.name for field in fields(Batch) if field.name != "prompts"]
    parts = {name: torch.cat([getattr(batch, name) for batch in batches]) for name in tensors}
    return Batch(**parts, prompts=tuple(prompt for batch in batches for prompt in batch.prompts))


def noised(
    base: BaseModel,
    latents: torch.Tensor,
    text: torch.Tensor,
    prompts: Sequence[str],
    weight: torch.Tensor,
    seed: int,
    step: int,
    min_snr: float | None = None,
    noise_offset: float = 0.0,
) -> Batch:
    """Noise latents (B, C, h, w) at uniform timesteps; noise and timesteps come from (seed, step) alone.

    min_snr: gamma of Hang et al. 2023 (arXiv 2303.09556, section 3.4): an image counts min(SNR, gamma) / SNR for
    noise prediction and min(SNR, gamma) / (SNR + 1) for velocity prediction.
    noise_offset: each channel of each image's noise is shifted by a normal number times this, so that the model learns
    to change an image's mean brightness (crosslabs.org, "Diffusion with offset noise", 2023).
    """
    scheduler = base.scheduler
    source = generator(seed, step, "noise")
    noise = torch.randn(latents.shape, generator=source)
    if noise_offset:
        shift = torch.randn(*latents.shape[:2], 1, 1, generator=generator(seed, step, "noise offset"))
        noise = noise + noise_offset * shift
    noise = noise.to(latents)
    t = torch.randint(scheduler.config.num_train_timesteps, (len(latents),), generator=source).to(latents.device)
    velocity = base.prediction_type == "v_prediction"
    target = scheduler.get_velocity(latents, noise, t) if velocity else noise
    if min_snr is not None:
        kept = scheduler.alphas_cumprod.to(t.device)[t]
        snr = kept / (1 - kept)
        weight = weight * (snr.clamp(max=min_snr) / (snr + 1 if velocity else snr))
    return Batch(scheduler.add_noise(latents, noise, t), t, text, target, weight, tuple(prompts))


def weighted_mse(prediction: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Sum over images of weight times mean squared error (scalar, float32)."""
    error = functional.mse_loss(prediction.float(), batch.target.float(), reduction="none")
    return (error.mean(dim=(1, 2, 3)) * batch.weight).sum()


def draw(count: int, size: int, seed: int, step: int, stream: str) -> torch.Tensor:
    """Indices (size,) into `count` items for one step: epoch after epoch in fresh order, none left out.

    A function of (seed, step) alone: the position in the epochs is step * size.
    """
    first = step * size
    order: dict[int, torch.Tensor] = {}
    rows = []
    for position in range(first, first + size):
        epoch, place = divmod(position, count)
        if epoch not in order:
            order[epoch] = torch.randperm(count, generator=generator(seed, "epoch", epoch, stream))
        rows.append(order[epoch][place])
    return torch.stack(rows)
