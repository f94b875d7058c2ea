"""Stage 6: the transformer. It predicts the velocity of the straight path from image to noise, in one process.

Noise levels are the logistic function of normal quantiles, stratified over the batch, as in Stable Diffusion 3 (Esser
et al. 2024, arXiv 2403.03206, section 3.1). Without pooled text, the words of a caption reach the image through the
blocks' text stream only.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from scipy.special import ndtri
from transformers import CLIPTextModel

from sdpet.lab.architecture import build_transformer
from sdpet.lab.pretrain.denoiser_data import CAPTIONS_EACH, prepare
from sdpet.lab.pretrain.loop import fit, save

STEPS, BATCH, LEARNING_RATE, EMA, DROPOUT = 7000, 32, 5e-3, 0.999, 0.1


def train(
    work: Path, quick: float, vae: AutoencoderKL, text_encoder: CLIPTextModel, pooled: bool
) -> dict[str, torch.Tensor]:
    """Train the transformer, or load it if it is trained.

    Parameters
    ----------
    work : Path
        Folder of checkpoints and figures.
    quick : float
        Factor on the number of steps.
    vae, text_encoder
        The trained networks.
    pooled : bool
        Whether the transformer gets the pooled text; if not, it gets zeros.

    Returns
    -------
    dict of str to Tensor
        State dict with the running average of the weights.
    """
    stage = "dit" if pooled else "dit_without_pooled"
    done = work / f"{stage}_done.pt"
    if done.exists():
        return torch.load(done, weights_only=True)
    data = torch.load(prepare(work, vae, text_encoder), weights_only=True)
    latents, captions, states = data["latents"] * vae.config.scaling_factor, data["captions"], data["states"]
    summaries = data["pooled"] if pooled else torch.zeros_like(data["pooled"])
    torch.manual_seed(4)
    transformer = build_transformer()

    def loss(step: int) -> torch.Tensor:
        rng = np.random.default_rng((19, step))
        rows = rng.integers(len(latents), size=BATCH)
        said = captions[rows, rng.integers(CAPTIONS_EACH, size=BATCH)]
        said = torch.where(torch.from_numpy(rng.random(BATCH) < DROPOUT), 0, said)
        quantiles = ndtri((rng.permutation(BATCH) + rng.random(BATCH)) / BATCH)
        level = torch.from_numpy(quantiles).float().sigmoid().view(-1, 1, 1, 1)
        noise = torch.from_numpy(rng.standard_normal(latents[rows].shape)).float()
        noisy = (1 - level) * latents[rows] + level * noise  # (B, 4, 8, 8)
        velocity = transformer(noisy, states[said], summaries[said], 1000 * level.flatten(), return_dict=False)[0]
        return (velocity - (noise - latents[rows])).square().mean()

    steps = int(STEPS * quick)
    fit(stage, transformer, loss, work=work, steps=steps, lr=LEARNING_RATE, ema_decay=EMA, warmup=300)
    save(done, transformer.state_dict())
    return transformer.state_dict()
