"""Stage 4: the denoiser. It predicts noise on whitened latents; one process a core, gradients averaged.

Timesteps are drawn with a probability proportional to the min-SNR weight (Hang et al. 2023, arXiv 2303.09556, gamma 5;
for noise prediction min(SNR, 5) / SNR) instead of weighting the loss: the same mean gradient, with less variance. It is
trained first on latents of unit variance, where it learns fastest, then on latents times SCALING_FACTOR, as it is used.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from diffusers import AutoencoderKL
from transformers import CLIPTextModel

from sdpet.lab.architecture import SCALING_FACTOR, build_scheduler, build_unet
from sdpet.lab.pretrain.denoiser_data import CAPTIONS_EACH, prepare
from sdpet.lab.pretrain.loop import fit, save

STEPS, LOW_STEPS, BATCH, LEARNING_RATE, EMA, DROPOUT = 5500, 2200, 16, 1.2e-3, 0.999, 0.1


def _worker(rank: int, world: int, work: Path, quick: float) -> None:
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{work.resolve()}/rendezvous", rank=rank, world_size=world)
    data = torch.load(work / "denoiser_data.pt", weights_only=True)
    latents, captions, states = data["latents"], data["captions"], data["states"]
    torch.manual_seed(3)
    unet = build_unet().to(memory_format=torch.channels_last)
    alphas = build_scheduler().alphas_cumprod
    ratio = alphas / (1 - alphas)  # signal to noise, (1000,)
    weight = (ratio.clamp(max=5) / ratio).numpy()
    weight = weight / weight.sum()

    def loss(step: int, scale: float = 1.0, stream: int = 17) -> torch.Tensor:
        rng = np.random.default_rng((stream, step, rank))
        rows = rng.integers(len(latents), size=BATCH)
        said = captions[rows, rng.integers(CAPTIONS_EACH, size=BATCH)]
        said = torch.where(torch.from_numpy(rng.random(BATCH) < DROPOUT), 0, said)
        t = torch.from_numpy(rng.choice(len(weight), size=BATCH, p=weight))
        noise = torch.from_numpy(rng.standard_normal(latents[rows].shape)).float()
        a = alphas[t].view(-1, 1, 1, 1)
        noisy = a.sqrt() * scale * latents[rows] + (1 - a).sqrt() * noise  # (B, 4, 8, 8)
        return (unet(noisy, t, states[said]).sample - noise).square().mean()

    fit("unet", unet, loss, work=work, steps=int(STEPS * quick), lr=LEARNING_RATE, ema_decay=EMA, warmup=300)
    low = partial(loss, scale=SCALING_FACTOR, stream=18)
    fit("unet_low", unet, low, work=work, steps=int(LOW_STEPS * quick), lr=0.75 * LEARNING_RATE, ema_decay=EMA)
    if rank == 0:
        save(work / "unet_done.pt", unet.state_dict())
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()


def train(work: Path, quick: float, vae: AutoencoderKL, text_encoder: CLIPTextModel) -> dict[str, torch.Tensor]:
    """Train the UNet, or load it if it is trained.

    Parameters
    ----------
    work : Path
        Folder of checkpoints and figures.
    quick : float
        Factor on the number of steps.
    vae, text_encoder
        The trained networks.

    Returns
    -------
    dict of str to Tensor
        State dict with the running average of the weights.
    """
    done = work / "unet_done.pt"
    if not done.exists():
        prepare(work, vae, text_encoder)
        world = len(os.sched_getaffinity(0))
        (work / "rendezvous").unlink(missing_ok=True)
        multiprocessing.spawn(_worker, args=(world, work, quick), nprocs=world)
    return torch.load(done, weights_only=True)
