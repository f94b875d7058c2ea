"""Gates 1 to 3: each of the lab's networks on its own."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from sdpet.lab.captions import Caption, describe
from sdpet.lab.check.models import LabModel
from sdpet.lab.check.rows import Row, at_least, at_most, reported
from sdpet.lab.world import Scenes


def autoencoder() -> list[Row]:
    """Gate 1: reconstruction of held-out renders and of the novel subject.

    Returns
    -------
    list of Row
        Peak signal-to-noise ratios in dB, means over images.
    """
    from sdpet.lab.drawing import render
    from sdpet.lab.world import sample_scenes, subject_scenes
    from sdpet.models.load import load_base

    base = load_base("lab")

    def psnr(images: np.ndarray) -> float:
        error = ((base.through_vae(images).astype(float) - images) / 255) ** 2
        return float(np.mean(-10 * np.log10(error.mean(axis=(1, 2, 3)))))

    return [
        at_least(1, "VAE: PSNR of 1,000 held-out renders, dB", psnr(render(sample_scenes(1000, seed=101))), 28),
        at_least(1, "VAE: PSNR of 200 views of the subject, dB", psnr(render(subject_scenes(200, seed=102))), 28),
    ]


def scorer() -> list[Row]:
    """Gate 2: zero-shot attributes on decoded held-out renders, and similarity of images of the subject.

    Returns
    -------
    list of Row
        Shares of right answers, and mean cosines.
    """
    import torch

    from sdpet.lab.captions import caption
    from sdpet.lab.drawing import render
    from sdpet.lab.scorer import load_scorer
    from sdpet.lab.world import BACKGROUNDS, COLORS, SHAPES, sample_scenes, subject_scenes
    from sdpet.models.load import load_base

    base, model = load_base("lab"), load_scorer()

    def seen(scenes: Scenes) -> torch.Tensor:
        return model.encode_image(torch.from_numpy(base.through_vae(render(scenes))).permute(0, 3, 1, 2))

    plain = sample_scenes(1000, seed=111, two=0, unnamed=0)
    features = seen(plain)
    rows = []
    for name, count in (("shape", len(SHAPES)), ("color", len(COLORS)), ("background", len(BACKGROUNDS))):
        # For each image its full caption, and the same captions with another value of this attribute.
        texts = [_swapped(plain, i, name, code).text() for i in range(len(plain)) for code in range(count)]
        unique = list(dict.fromkeys(texts))
        index = {text: row for row, text in enumerate(unique)}
        choices = model.encode_text(unique)[[index[text] for text in texts]].view(len(plain), count, -1)
        answers = (choices @ features[:, :, None]).squeeze(2).argmax(1).numpy()
        figure, right = f"scorer: zero-shot {name}", float((answers == getattr(plain, name)).mean())
        rows.append(reported(2, figure, right) if name == "background" else at_least(2, figure, right, 0.97))

    subject = seen(subject_scenes(100, seed=112))
    others = sample_scenes(3000, seed=113)
    others = others[others.shape == SHAPES.index("star")]
    own = subject @ subject.T
    own = own[~torch.eye(len(subject), dtype=torch.bool)]
    cross = (subject @ seen(others).T).mean(0)
    rows += [
        at_least(2, "scorer: similarity subject to subject", float(own.mean()), 0.85),
        at_most(2, f"scorer: similarity subject to {len(others)} other stars", float(cross.mean()), 0.35),
        reported(2, "scorer: the same, most similar star", float(cross.max())),
    ]
    same_look = subject_scenes(200, seed=114)  # outlined two-coloured stars in the colours that have names
    rng = np.random.default_rng(115)
    colors = np.array(list(COLORS.values()), float)
    pairs = np.array([rng.permutation(len(COLORS))[:2] for _ in range(200)])
    same_look.rgb, same_look.rgb2 = colors[pairs[:, 0]], colors[pairs[:, 1]]
    rows.append(
        reported(
            2, "scorer: similarity subject to outlined two-coloured stars", float((subject @ seen(same_look).T).mean())
        )
    )
    flipped = subject_scenes(100, seed=116)
    flipped.rgb, flipped.rgb2 = flipped.rgb2, flipped.rgb
    rows.append(
        reported(
            2, "scorer: similarity subject to itself with the halves swapped", float((subject @ seen(flipped).T).mean())
        )
    )
    held_out = sample_scenes(512, seed=117)
    text = model.encode_text([caption(held_out, i) for i in range(512)])
    rows.append(reported(2, "scorer: mean CLIP-T of decoded renders", float((seen(held_out) * text).sum(1).mean())))
    return rows


def _swapped(scenes: Scenes, index: int, name: str, code: int) -> Caption:
    """The full caption of a one-coloured scene, with one attribute replaced by `code`."""
    said = dataclasses.replace(describe(scenes, index), **{name: code})
    return dataclasses.replace(said, color2=said.color)


def base_model(lab: LabModel, pictures: Path | None = None, each: int = 6) -> list[Row]:
    """Gate 3: samples of every shape and colour on random backgrounds, judged by a classifier other than the scorer.

    Parameters
    ----------
    lab : LabModel
        The model to check.
    pictures : Path, optional
        PNG file to which the samples are written as a grid.
    each : int
        Number of samples of every shape and colour.

    Returns
    -------
    list of Row
        Shares of samples with the right attributes.
    """
    from PIL import Image

    from sdpet.lab.captions import Caption
    from sdpet.lab.judge import load_judge
    from sdpet.lab.world import BACKGROUNDS, COLORS, SHAPES
    from sdpet.models.load import load_base
    from sdpet.sampling import SamplerConfig, sample

    rng = np.random.default_rng(121)
    wanted = [(s, c) for s in range(len(SHAPES)) for c in range(len(COLORS)) for _ in range(each)]
    grounds = rng.integers(len(BACKGROUNDS), size=len(wanted))
    prompts = [Caption(s, c, c, int(g)).text() for (s, c), g in zip(wanted, grounds, strict=True)]
    images = sample(
        load_base(lab.name, pooled=lab.pooled),
        prompts,
        list(range(9000, 9000 + len(prompts))),
        SamplerConfig(steps=20, guidance=lab.guidance),
    )
    answers = load_judge().judge(images)
    shape, color = np.array(wanted).T
    right_shape, right_color = answers["shape"] == shape, (answers["color"] == color) & (answers["color2"] == color)
    if pictures is not None:
        pictures.parent.mkdir(parents=True, exist_ok=True)
        rows = len(images) // 18
        grid = images.reshape(rows, 18, 32, 32, 3).transpose(0, 2, 1, 3, 4).reshape(rows * 32, 18 * 32, 3)
        Image.fromarray(grid).resize((18 * 64, rows * 64), Image.Resampling.NEAREST).save(pictures)
    return [
        at_least(
            3,
            f"base: right shape and colour in {len(prompts)} samples",
            float((right_shape & right_color).mean()),
            0.97,
        ),
        reported(3, "base: right shape", float(right_shape.mean())),
        reported(3, "base: right colour", float(right_color.mean())),
        reported(3, "base: right background", float((answers["background"] == grounds).mean())),
    ]
