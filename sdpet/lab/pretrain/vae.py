"""Stage 1: the autoencoder. Its latents are whitened, then its decoder is trained further on the frozen latents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import nn

from sdpet.lab.architecture import build_vae
from sdpet.lab.drawing import render
from sdpet.lab.pretrain.loop import fit, log, save
from sdpet.lab.world import sample_scenes, subject_scenes

STEPS, REFINE_STEPS, IMAGES = 7000, 5000, 24_000


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """Convert images to the networks' input.

    Parameters
    ----------
    images : ndarray of uint8, (N, H, W, 3)
        The images.

    Returns
    -------
    Tensor of float32, (N, 3, H, W)
        Values in [-1, 1].
    """
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def psnr(first: torch.Tensor, second: torch.Tensor) -> float:
    """Peak signal-to-noise ratio, as the mean over images.

    Parameters
    ----------
    first, second : Tensor (N, 3, H, W)
        Images with values in [-1, 1]; those of `first` are clamped.

    Returns
    -------
    float
        In dB.
    """
    error = ((first.clamp(-1, 1) - second) / 2).square().mean(dim=(1, 2, 3))
    return float((-10 * error.log10()).mean())


@torch.no_grad()
def encode(vae: AutoencoderKL, images: torch.Tensor, chunk: int = 256) -> torch.Tensor:
    """Encode images, in batches.

    Parameters
    ----------
    vae : AutoencoderKL
        The autoencoder.
    images : Tensor (N, 3, 32, 32)
        Values in [-1, 1].
    chunk : int
        Number of images that are encoded at once.

    Returns
    -------
    Tensor (N, 4, 8, 8)
        Posterior means.
    """
    return torch.cat([vae.encode(part).latent_dist.mode() for part in images.split(chunk)])


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: torch.Tensor, chunk: int = 256) -> torch.Tensor:
    """Decode latents, in batches.

    Parameters
    ----------
    vae : AutoencoderKL
        The autoencoder.
    latents : Tensor (N, 4, 8, 8)
        The latents.
    chunk : int
        Number of latents that are decoded at once.

    Returns
    -------
    Tensor (N, 3, 32, 32)
    """
    return torch.cat([vae.decode(part).sample for part in latents.split(chunk)])


@torch.no_grad()
def whiten(vae: AutoencoderKL, latents: torch.Tensor) -> None:
    """Fold ZCA whitening of the latent channels into the two 1 x 1 convolutions around the latents, in place.

    Afterwards posterior means have mean 0 and unit covariance over the channels, so that scaling_factor is 1; what is
    decoded from the means does not change. The posterior's log variance is changed by the mean change of scale only,
    since the exact change would not be diagonal.

    Parameters
    ----------
    vae : AutoencoderKL
        It is changed.
    latents : Tensor (N, C, h, w)
        Latents from which mean and covariance are estimated.
    """
    flat = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1]).double()
    mean, covariance = flat.mean(0), torch.cov(flat.T)
    values, vectors = torch.linalg.eigh(covariance)
    forward = (vectors @ torch.diag(values.rsqrt()) @ vectors.T).float()
    inverse = (vectors @ torch.diag(values.sqrt()) @ vectors.T).float()
    c, shift = latents.shape[1], mean.float()
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.weight[:c] = torch.einsum("ij,jkhw->ikhw", forward, quant.weight[:c])
    quant.bias[:c] = forward @ (quant.bias[:c] - shift)
    quant.bias[c:] -= values.log().mean().float()
    post.bias += post.weight[:, :, 0, 0] @ shift
    post.weight.copy_(torch.einsum("ijhw,jk->ikhw", post.weight, inverse))


def train(work: Path, quick: float) -> AutoencoderKL:
    """Train the autoencoder, or load it if it is trained.

    Parameters
    ----------
    work : Path
        Folder of checkpoints; figures are written to figures.jsonl.
    quick : float
        Factor on the number of steps.

    Returns
    -------
    AutoencoderKL
        In evaluation mode, without gradients.
    """
    done, vae = work / "vae_done.pt", build_vae()
    if done.exists():
        vae.load_state_dict(torch.load(done, weights_only=True))
        return vae.eval().requires_grad_(False)
    pictures = to_tensor(render(sample_scenes(IMAGES, seed=1, two=0.5, outline=0.35, unnamed=0.4)))
    held_out = to_tensor(render(sample_scenes(500, seed=2)))
    subject = to_tensor(render(subject_scenes(100, seed=3)))
    torch.manual_seed(0)
    vae = build_vae()

    def reconstruction(step: int) -> torch.Tensor:
        rows = np.random.default_rng((11, step)).integers(len(pictures), size=8)
        x = pictures[rows]
        posterior = vae.encode(x).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(step))
        y = vae.decode(posterior.mean + posterior.std * noise).sample
        return (y - x).square().mean() + 0.1 * (y - x).abs().mean() + 2e-6 * posterior.kl().mean()

    fit("vae", vae, reconstruction, work=work, steps=int(STEPS * quick), lr=1.5e-3, ema_decay=0.995)
    vae.eval().requires_grad_(False)
    before = decode(vae, encode(vae, held_out))
    log(work, "vae", psnr=psnr(before, held_out))
    whiten(vae, encode(vae, pictures[:4000]))
    after = decode(vae, encode(vae, held_out))
    log(work, "vae", whitening_changes_decoded_by=float((after - before).abs().max()))

    latents = encode(vae, pictures)
    decoder = nn.ModuleList([vae.post_quant_conv, vae.decoder]).requires_grad_(True)

    def refinement(step: int) -> torch.Tensor:
        rows = np.random.default_rng((12, step)).integers(len(pictures), size=16)
        y, x = vae.decode(latents[rows]).sample, pictures[rows]
        return (y - x).square().mean() + 0.05 * (y - x).abs().mean()

    steps = int(REFINE_STEPS * quick)
    fit("vae_decoder", decoder, refinement, work=work, steps=steps, lr=8e-4, ema_decay=0.995)
    vae.eval().requires_grad_(False)
    log(
        work,
        "vae",
        psnr_held_out=psnr(decode(vae, encode(vae, held_out)), held_out),
        psnr_subject=psnr(decode(vae, encode(vae, subject)), subject),
    )
    save(done, vae.state_dict())
    return vae
