"""Stage 3: the judge, trained on renders, on decoded renders and on noisy ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from sdpet.lab.drawing import render
from sdpet.lab.judge import Judge
from sdpet.lab.pretrain.loop import fit, log, save
from sdpet.lab.pretrain.vae import decode, encode, to_tensor
from sdpet.lab.world import UNNAMED, sample_scenes

STEPS, SCENES = 2500, 12_000


def train(work: Path, quick: float, vae: AutoencoderKL) -> dict[str, torch.Tensor]:
    """Train the judge, or load it if it is trained.

    Parameters
    ----------
    work : Path
        Folder of checkpoints and figures.
    quick : float
        Factor on the number of steps.
    vae : AutoencoderKL
        The trained autoencoder.

    Returns
    -------
    dict of str to Tensor
        State dict of a `Judge`.
    """
    done = work / "judge_done.pt"
    if done.exists():
        return torch.load(done, weights_only=True)
    torch.manual_seed(2)
    judge = Judge()
    scenes, held_out = sample_scenes(SCENES, seed=31, unnamed=0.1), sample_scenes(1000, seed=32, unnamed=0.0)
    pictures = to_tensor(render(scenes))
    decoded = decode(vae, encode(vae, pictures)).clamp(-1, 1)

    def loss(step: int) -> torch.Tensor:
        rng = np.random.default_rng((16, step))
        rows = rng.integers(len(scenes), size=64)
        x = torch.where(torch.from_numpy(rng.random((64, 1, 1, 1)) < 0.6), decoded[rows], pictures[rows])
        x = (
            x
            + torch.from_numpy(rng.normal(0, 1, x.shape)).float()
            * torch.from_numpy(rng.uniform(0, 0.08, (64, 1, 1, 1))).float()
        )
        total = torch.zeros(())
        for name, logits in judge(x).items():
            target = torch.from_numpy(np.asarray(getattr(scenes, name))[rows].astype(np.int64))
            total = total + F.cross_entropy(logits, target, ignore_index=UNNAMED)
        return total

    fit("judge", judge, loss, work=work, steps=int(STEPS * quick), lr=2e-3, weight_decay=0.05)
    judge.eval()
    back = ((decode(vae, encode(vae, to_tensor(render(held_out)))).clamp(-1, 1) + 1) * 127.5).round().byte()
    answers = judge.judge(back.permute(0, 2, 3, 1).numpy())
    log(
        work,
        "judge",
        **{f"{k}_right": float((v == np.asarray(getattr(held_out, k))).mean()) for k, v in answers.items()},
    )
    save(done, judge.state_dict())
    return judge.state_dict()
