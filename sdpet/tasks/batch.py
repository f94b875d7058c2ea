"""Training batches: noisy latents, the target of the prediction, and the weight of each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch.nn import functional

from sdpet.models.base import BaseModel
from sdpet.models.sending import sent
from sdpet.seeds import generator


@dataclass(frozen=True)
class Batch:
    """B images at random timesteps. Batches can be concatenated, since the loss is a weighted sum over images.

    Parameters
    ----------
    noisy : Tensor (B, C, h, w)
        Noisy latents.
    timesteps : Tensor, (B,)
        Their timesteps: int64, or floats for flow matching.
    text : Tensor (B, L, D)
        Text states.
    target : Tensor (B, C, h, w)
        What the model should predict: the noise or the velocity.
    weight : Tensor (B,)
        Weight of each image's mean squared error in the loss.
    prompts : tuple of str, B
        The prompts that `text` was made from.
    """

    noisy: torch.Tensor  # (B, C, h, w)
    timesteps: torch.Tensor  # (B,)
    text: torch.Tensor  # (B, L, D)
    target: torch.Tensor  # (B, C, h, w), the noise or the velocity
    weight: torch.Tensor  # (B,), share of each image's mean squared error in the loss
    prompts: tuple[str, ...]  # B of them, what `text` was made from


@dataclass(frozen=True)
class MaskedBatch(Batch):
    """A batch whose images count more in some places than in others.

    Parameters
    ----------
    noisy, timesteps, text, target, weight, prompts
        See `Batch`.
    mask : Tensor (B, 1, h, w)
        Weight of each latent's squared error, with mean 1 over each image.
    """

    mask: torch.Tensor  # (B, 1, h, w)


def concat_batches(batches: Sequence[Batch]) -> Batch:
    """Concatenate batches.

    Parameters
    ----------
    batches : sequence of Batch
        At least one.

    Returns
    -------
    Batch
        All their images, in order.
    """
    if len(batches) == 1:
        return batches[0]
    kind = type(batches[0])
    tensors = [field.name for field in fields(kind) if field.name != "prompts"]
    parts = {name: torch.cat([getattr(batch, name) for batch in batches]) for name in tensors}
    return kind(**parts, prompts=tuple(prompt for batch in batches for prompt in batch.prompts))


def make_noisy_batch(
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
    """Add noise to latents at drawn timesteps. Noise and timesteps depend on (seed, step) alone.

    Parameters
    ----------
    base : BaseModel
        Its `process` draws the timesteps, adds the noise and gives the target.
    latents : Tensor (B, C, h, w)
        Clean latents.
    text : Tensor (B, L, D)
        Text states.
    prompts : sequence of str, B
        The prompts that `text` was made from.
    weight : Tensor (B,)
        Weight of each image in the loss.
    seed, step : int
        The run's seed and the training step.
    min_snr : float, optional
        Gamma of min-SNR weighting, see `sdpet.models.NoiseProcess.min_snr_weight`; None leaves it out.
    noise_offset : float
        Each channel of each image's noise is shifted by this times a normal number, so that the model learns to change
        an image's mean brightness.

    Returns
    -------
    Batch

    References
    ----------
    min_snr: Hang et al. 2023, arXiv 2303.09556, section 3.4.
    noise_offset: crosslabs.org, "Diffusion with offset noise", 2023.
    """
    process = base.process
    source = generator(seed, step, "noise")
    noise = torch.randn(latents.shape, generator=source)
    if noise_offset:
        shift = torch.randn(*latents.shape[:2], 1, 1, generator=generator(seed, step, "noise offset"))
        noise = noise + noise_offset * shift
    noise = sent(noise, latents.device).to(latents.dtype)
    t = sent(process.draw(len(latents), source), latents.device)
    if min_snr is not None:
        weight = weight * process.min_snr_weight(t, min_snr)
    target = process.target(latents, noise, t)
    return Batch(process.add_noise(latents, noise, t), t, text, target, weight, tuple(prompts))


def weighted_mse(prediction: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Sum over images of weight times mean squared error; the mean of a `MaskedBatch` is weighted by its mask.

    Parameters
    ----------
    prediction : Tensor (B, C, h, w)
        The model's output.
    batch : Batch
        Holds target and weight.

    Returns
    -------
    Tensor
        Scalar, float32.
    """
    error = functional.mse_loss(prediction.float(), batch.target.float(), reduction="none")
    if isinstance(batch, MaskedBatch):
        error = error * batch.mask
    return (error.mean(dim=(1, 2, 3)) * batch.weight).sum()


def epoch_indices(count: int, size: int, seed: int, step: int, stream: str) -> torch.Tensor:
    """Indices of the items for one training step. Each epoch goes through all items once, in a new order.

    They depend on (seed, step) alone: the step begins at position step * size of the sequence of epochs.

    Parameters
    ----------
    count : int
        Number of items.
    size : int
        Number of indices.
    seed, step : int
        The run's seed and the training step.
    stream : str
        Name of the items; other names give other orders.

    Returns
    -------
    Tensor of int64, (size,)
        Indices below `count`.
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
