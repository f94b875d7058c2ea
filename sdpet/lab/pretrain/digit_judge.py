"""The judge of digits, trained on shifted, turned and scaled digits as they are and through the lab's VAE."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from sdpet.lab.digit_judge import DigitNet
from sdpet.lab.pretrain.loop import fit, log, save
from sdpet.lab.pretrain.vae import decode, encode, to_tensor
from sdpet.tasks.digits import WORDS, load_digits

STEPS, BATCH, VIEWS = 1500, 64, 6  # VIEWS: versions of each training digit


def train(work: Path, quick: float, vae: AutoencoderKL) -> dict[str, torch.Tensor]:
    """Train the judge on the 1,197 training digits, or load it if it is trained.

    The share of the 600 held-out digits that it reads right, which other people wrote, is logged.

    Parameters
    ----------
    work : Path
        Folder of checkpoints and figures.
    quick : float
        Factor on the number of steps, and on the number of versions of each digit where it is below 1.
    vae : AutoencoderKL
        The trained autoencoder.

    Returns
    -------
    dict of str to Tensor
        State dict of a `DigitNet`.
    """
    done = work / "digit_judge_done.pt"
    if done.exists():
        return torch.load(done, weights_only=True)
    torch.manual_seed(3)
    net = DigitNet()
    images, labels = _read("train")
    versions = max(1, round(VIEWS * min(1.0, quick)))
    views = torch.cat([images] + [moved(images, seed) for seed in range(1, versions)])
    through = decode(vae, encode(vae, views)).clamp(-1, 1)
    targets = labels.repeat(versions)

    def loss(step: int) -> torch.Tensor:
        rng = np.random.default_rng((17, step))
        rows = torch.from_numpy(rng.integers(len(views), size=BATCH))
        x = torch.where(torch.from_numpy(rng.random((BATCH, 1, 1, 1)) < 0.6), through[rows], views[rows])
        noise = rng.normal(0, 1, x.shape) * rng.uniform(0, 0.15, (BATCH, 1, 1, 1))
        return F.cross_entropy(net(x + torch.from_numpy(noise).float()), targets[rows], label_smoothing=0.05)

    fit("digit_judge", net, loss, work=work, steps=max(1, int(STEPS * quick)), lr=3e-3, weight_decay=0.05)
    net.eval()
    held_out, answers = _read("heldout")
    shown = {"plain": held_out, "through_vae": decode(vae, encode(vae, held_out)).clamp(-1, 1)}
    with torch.no_grad():
        right = {name: float((net(x).argmax(1) == answers).float().mean()) for name, x in shown.items()}
    log(work, "digit_judge", **{f"heldout_right_{name}": share for name, share in right.items()})
    save(done, net.state_dict())
    return net.state_dict()


def moved(images: torch.Tensor, seed: int) -> torch.Tensor:
    """Each image shifted, turned, scaled and sheared a little, on the same black ground.

    Parameters
    ----------
    images : Tensor (N, 3, 32, 32)
        Values in [-1, 1].
    seed : int
        Decides the movements.

    Returns
    -------
    Tensor (N, 3, 32, 32)
    """
    rng = np.random.default_rng((18, seed))
    angle, shear = rng.normal(0, math.radians(8), len(images)), rng.normal(0, 0.12, len(images))
    width, height = rng.uniform(0.85, 1.15, (2, len(images)))
    shift = rng.uniform(-0.12, 0.12, (2, len(images)))
    rows = [
        [np.cos(angle) * width, (-np.sin(angle) + shear) * height, shift[0]],
        [np.sin(angle) * width, np.cos(angle) * height, shift[1]],
    ]
    grid = F.affine_grid(torch.tensor(np.array(rows), dtype=torch.float32).permute(2, 0, 1), list(images.shape), False)
    return F.grid_sample(images + 1, grid, align_corners=False) - 1  # outside of the image is 0, which is black


def _read(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    images, captions = load_digits(split)
    return to_tensor(images), torch.tensor([WORDS.index(text.split()[-1]) for text in captions])
