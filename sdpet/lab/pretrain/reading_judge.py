"""The judges of digits and of shapes, trained on pictures as they are and through the lab's VAE."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from sdpet.lab.drawing import render
from sdpet.lab.new_shapes import NAMES, NewShapes, draw, new_scenes
from sdpet.lab.pretrain.loop import fit, log, save
from sdpet.lab.pretrain.vae import decode, encode, to_tensor
from sdpet.lab.reading import SIZE, ReadingNet
from sdpet.lab.world import SHAPES, sample_scenes
from sdpet.tasks.digits import WORDS, load_digits

STEPS, BATCH, VIEWS = 1500, 64, 6  # VIEWS: versions of each training digit
PICTURES, SEED = 2400, 511  # of new shapes, and as many of the lab's world, from a seed that no run uses

Labelled = tuple[torch.Tensor, torch.Tensor]  # images (N, 3, 32, 32) with values in [-1, 1], and places of their words


def digits(work: Path, quick: float, vae: AutoencoderKL) -> dict[str, torch.Tensor]:
    """Train the judge of digits on the 1,197 training digits, or load it if it is trained.

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
        State dict of a `ReadingNet`.
    """
    images, labels = _labelled(*load_digits("train"), WORDS)
    versions = max(1, round(VIEWS * min(1.0, quick)))
    views = torch.cat([images] + [moved(images, seed) for seed in range(1, versions)])
    trained = views, labels.repeat(versions)
    return _train("digit_judge", work, quick, vae, trained, _labelled(*load_digits("heldout"), WORDS), len(WORDS))


def shapes(work: Path, quick: float, vae: AutoencoderKL) -> dict[str, torch.Tensor]:
    """Train the judge of shapes, or load it if it is trained; parameters as for `digits`.

    The share of the held-out pictures of `NewShapes` that it reads right is logged.

    Returns
    -------
    dict of str to Tensor
        State dict of a `ReadingNet`.
    """
    words, number = (*NAMES, *SHAPES), max(len(NAMES), int(PICTURES * min(1.0, quick)))
    new, new_captions = draw(new_scenes(number, SEED))
    known = sample_scenes(number, SEED)
    captions = new_captions + [SHAPES[shape] for shape in known.shape]
    trained = _labelled(np.concatenate([new, render(known)]), captions, words)
    return _train("shape_judge", work, quick, vae, trained, _labelled(*NewShapes().heldout(SIZE), words), len(words))


def _train(
    stage: str, work: Path, quick: float, vae: AutoencoderKL, trained: Labelled, held_out: Labelled, words: int
) -> dict[str, torch.Tensor]:
    done = work / f"{stage}_done.pt"
    if done.exists():
        return torch.load(done, weights_only=True)
    torch.manual_seed(3)
    net = ReadingNet(words)
    views, targets = trained
    through = decode(vae, encode(vae, views)).clamp(-1, 1)

    def loss(step: int) -> torch.Tensor:
        rng = np.random.default_rng((17, step))
        rows = torch.from_numpy(rng.integers(len(views), size=BATCH))
        x = torch.where(torch.from_numpy(rng.random((BATCH, 1, 1, 1)) < 0.6), through[rows], views[rows])
        noise = rng.normal(0, 1, x.shape) * rng.uniform(0, 0.15, (BATCH, 1, 1, 1))
        return F.cross_entropy(net(x + torch.from_numpy(noise).float()), targets[rows], label_smoothing=0.05)

    fit(stage, net, loss, work=work, steps=max(1, int(STEPS * quick)), lr=3e-3, weight_decay=0.05)
    net.eval()
    images, answers = held_out
    shown = {"plain": images, "through_vae": decode(vae, encode(vae, images)).clamp(-1, 1)}
    with torch.no_grad():
        right = {name: float((net(x).argmax(1) == answers).float().mean()) for name, x in shown.items()}
    log(work, stage, **{f"heldout_right_{name}": share for name, share in right.items()})
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


def _labelled(images: np.ndarray, captions: Sequence[str], words: Sequence[str]) -> Labelled:
    places = {word: place for place, word in enumerate(words)}
    found = [next(places[word] for word in caption.split() if word in places) for caption in captions]
    return to_tensor(images), torch.tensor(found)
