"""Stage 2: the scorer, a small CLIP, trained on renders and then mostly on renders that went through the autoencoder.

Losses: (1) image-text contrast with captions in which one word is swapped as hard negatives; a caption that fits
another image of the batch is no negative of that image. (2) Image-image contrast of two views of one object among
similar objects (same shape and outline, other colours), so that similar images are images of the same object.
(3) Classification of attributes.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import nn

from sdpet.lab.architecture import build_clip, build_tokenizer, clip_config
from sdpet.lab.captions import TEMPLATES, UNSAID, Caption, describe
from sdpet.lab.drawing import render
from sdpet.lab.pretrain.loop import fit, log, save
from sdpet.lab.pretrain.vae import decode, encode, to_tensor
from sdpet.lab.scorer import preprocess
from sdpet.lab.world import BACKGROUNDS, COLORS, SHAPES, UNNAMED, Scenes, repose, sample_scenes

STEPS, DECODED_STEPS, SCENES, BATCH, OBJECTS = 1200, 500, 16_000, 96, 48


def swap_one(said: Caption, rng: np.random.Generator) -> Caption:
    """Change one attribute of a caption, to make a hard negative.

    Parameters
    ----------
    said : Caption
        The caption; it is not changed.
    rng : Generator
        Draws the attribute and its new value.

    Returns
    -------
    Caption
    """
    choices = ["shape"]
    if said.color >= 0:
        choices += ["color", "color"]
        if said.color != said.color2:
            choices += ["color2", "order"]
    if said.background >= 0:
        choices.append("background")
    choices.append("outlined")
    which = choices[rng.integers(len(choices))]

    def other(value: int, count: int) -> int:
        return int((value + rng.integers(1, count)) % count)

    if which == "shape":
        return dataclasses.replace(said, shape=other(said.shape, len(SHAPES)))
    if which == "order":
        return dataclasses.replace(said, color=said.color2, color2=said.color)
    if which == "color":
        color = other(said.color, len(COLORS))
        return dataclasses.replace(said, color=color, color2=color if said.color == said.color2 else said.color2)
    if which == "color2":
        return dataclasses.replace(said, color2=other(said.color2, len(COLORS)))
    if which == "background":
        return dataclasses.replace(said, background=other(said.background, len(BACKGROUNDS)))
    return dataclasses.replace(said, outlined=UNSAID if said.outlined == 1 else 1)


def fits(said: list[Caption], scenes: Scenes) -> torch.Tensor:
    """Say which captions fit which images: those that state nothing that the image does not show.

    Parameters
    ----------
    said : list of M Caption
        The captions.
    scenes : Scenes
        N scenes.

    Returns
    -------
    Tensor of bool, (N, M)
    """
    fit_all = np.ones((len(scenes), len(said)), bool)
    for name in ("shape", "color", "color2", "background", "outlined"):
        value = np.array([getattr(c, name) for c in said])
        fit_all &= (value == UNSAID) | (value == np.asarray(getattr(scenes, name)).astype(int)[:, None])
    return torch.from_numpy(fit_all)


class Trainee(nn.Module):
    """The CLIP with linear heads that predict attributes from its image feature. The heads are dropped after training.

    Parameters
    ----------
    vocabulary : dict
        Arguments of open_clip.CLIP, see `clip_config`.
    """

    def __init__(self, vocabulary: dict) -> None:
        super().__init__()
        self.clip = build_clip(vocabulary)
        width = vocabulary["embed_dim"]
        counts = {"shape": len(SHAPES), "color": len(COLORS), "color2": len(COLORS), "background": len(BACKGROUNDS)}
        self.heads = nn.ModuleDict({k: nn.Linear(width, n) for k, n in counts.items()})
        self.rgb = nn.Linear(width, 6)
        self.outlined = nn.Linear(width, 1)

    def attributes(self, features: torch.Tensor, scenes: Scenes) -> torch.Tensor:
        """The loss of the attributes.

        Parameters
        ----------
        features : Tensor (N, D)
            Image features.
        scenes : Scenes
            The N scenes.

        Returns
        -------
        Tensor
            Scalar.
        """
        total = torch.zeros(())
        for name, head in self.heads.items():
            target = torch.from_numpy(np.asarray(getattr(scenes, name)))
            total = total + F.cross_entropy(head(features), target, ignore_index=UNNAMED)
        colors = torch.from_numpy(np.concatenate([scenes.rgb, scenes.rgb2], axis=1)).float() / 255
        total = total + 4 * (self.rgb(features) - colors).square().mean()
        outlined = torch.from_numpy(scenes.outlined).float()
        return total + F.binary_cross_entropy_with_logits(self.outlined(features)[:, 0], outlined)


def look_alikes(n: int, seed: int) -> Scenes:
    """Draw objects in groups of four that share shape and outline, most with two colours, many without names.

    Parameters
    ----------
    n : int
        Number of objects, a multiple of four.
    seed : int
        Equal seeds give equal objects.

    Returns
    -------
    Scenes
    """
    scenes, rng = sample_scenes(n, seed, two=0.75, unnamed=0.6), np.random.default_rng((13, seed))
    for name in ("shape", "outlined"):
        value = getattr(scenes, name)
        setattr(scenes, name, np.repeat(value[::4], 4)[:n])
    if rng.random() < 0.5:  # some also have one of the two colours in common
        scenes.rgb[1::4], scenes.color[1::4] = scenes.rgb[::4], scenes.color[::4]
        scenes.rgb2[2::4], scenes.color2[2::4] = scenes.rgb2[::4], scenes.color2[::4]
    scenes.background = np.where(
        scenes.outlined & (scenes.background == 0), 1 + rng.integers(5, size=n), scenes.background
    )
    grounds = np.array(list(BACKGROUNDS.values()), float)
    scenes.rgb_background = np.clip(grounds[scenes.background] + rng.normal(0, 5, (n, 3)), 0, 255)
    return scenes


def train(work: Path, quick: float, vae: AutoencoderKL | None) -> dict[str, torch.Tensor]:
    """Train the scorer, or load it if it is trained.

    Parameters
    ----------
    work : Path
        Folder of checkpoints and figures.
    quick : float
        Factor on the number of steps.
    vae : AutoencoderKL or None
        The trained autoencoder; with None only the first half (renders) is trained.

    Returns
    -------
    dict of str to Tensor
        State dict of an open_clip.CLIP.
    """
    done = work / "clip_done.pt"
    if done.exists():
        return torch.load(done, weights_only=True)
    tokenizer = build_tokenizer()
    torch.manual_seed(1)
    model = Trainee(clip_config(tokenizer))
    scenes = sample_scenes(SCENES, seed=21, two=0.35, unnamed=0.1)
    pool = look_alikes(4 * 1000, seed=22)
    views = [render(repose(pool, seed=23 + i)) for i in range(3)]
    raw = render(scenes)

    def tokens(said: list[Caption], rng: np.random.Generator) -> torch.Tensor:
        texts = [c.text(TEMPLATES[rng.choice(4, p=(0.7, 0.1, 0.1, 0.1))]) for c in said]
        out = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
        return out.input_ids

    def objective(pictures: np.ndarray, views: list[np.ndarray], stream: int, decoded: tuple | None = None):
        def loss(step: int) -> torch.Tensor:
            rng = np.random.default_rng((stream, step))
            rows = rng.integers(len(scenes), size=BATCH)
            groups = rng.choice(len(pool) // 4, size=OBJECTS // 4, replace=False)
            objects = (4 * groups[:, None] + np.arange(4)).ravel()
            first, second = rng.permutation(3)[:2]
            batch = [pictures[rows], views[first][objects], views[second][objects]]
            if decoded is not None:
                other = [decoded[0][rows], decoded[1][first][objects], decoded[1][second][objects]]
                batch = [np.where(rng.random((len(a), 1, 1, 1)) < 0.6, b, a) for a, b in zip(batch, other, strict=True)]
            images = preprocess(torch.from_numpy(np.concatenate(batch)).permute(0, 3, 1, 2))
            features = model.clip.encode_image(images)
            unit = F.normalize(features, dim=-1)
            shown = scenes[rows]
            said = [describe(shown, i, rng) for i in range(BATCH)]
            hard = [swap_one(c, rng) for c in said]
            text = model.clip.encode_text(tokens(said + hard, rng), normalize=True)
            scale = model.clip.logit_scale.exp().clamp(max=60)
            logits = scale * unit[:BATCH] @ text.T  # (images, captions and hard negatives)
            same = fits(said + hard, shown)
            same[torch.arange(BATCH), torch.arange(BATCH)] = False
            logits = logits.masked_fill(same, -1e4)
            target = torch.arange(BATCH)
            contrast = F.cross_entropy(logits, target) + F.cross_entropy(logits[:, :BATCH].T, target)
            pair = scale * unit[BATCH : BATCH + OBJECTS] @ unit[BATCH + OBJECTS :].T  # (objects, objects)
            match = torch.arange(OBJECTS)
            instance = F.cross_entropy(pair, match) + F.cross_entropy(pair.T, match)
            return contrast + instance + 0.3 * model.attributes(features[:BATCH], shown)

        return loss

    fit("clip", model, objective(raw, views, 14), work=work, steps=int(STEPS * quick), lr=2e-3, weight_decay=0.02)
    if vae is None:
        return model.clip.state_dict()

    def through_vae(pictures: np.ndarray) -> np.ndarray:
        back = decode(vae, encode(vae, to_tensor(pictures)))
        return ((back.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()

    decoded = through_vae(raw), [through_vae(v) for v in views]
    loss = objective(raw, views, 15, decoded)
    fit(
        "clip_decoded",
        model,
        loss,
        work=work,
        steps=int(DECODED_STEPS * quick),
        lr=1e-3,
        weight_decay=0.02,
        ema_decay=0.99,
    )
    model.eval()
    log(work, "clip", logit_scale=float(model.clip.logit_scale.exp()))
    save(done, model.clip.state_dict())
    return model.clip.state_dict()
