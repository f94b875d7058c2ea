"""What the denoisers of the lab are trained on: latents of scenes and text states of their captions, computed once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from transformers import CLIPTextModel

from sdpet.lab.architecture import build_tokenizer
from sdpet.lab.captions import caption
from sdpet.lab.drawing import render
from sdpet.lab.pretrain.loop import save
from sdpet.lab.pretrain.vae import encode, to_tensor
from sdpet.lab.world import sample_scenes

SCENES, CAPTIONS_EACH = 30_000, 4


def prepare(work: Path, vae: AutoencoderKL, text_encoder: CLIPTextModel) -> Path:
    """Compute the latents of all scenes and the text states of all captions once.

    Parameters
    ----------
    work : Path
        Folder of the result, denoiser_data.pt.
    vae, text_encoder
        The trained networks.

    Returns
    -------
    Path
        The file: latents (SCENES, 4, 8, 8) of unit variance; captions (SCENES, CAPTIONS_EACH), indices of texts, of
        which 0 is the empty one; states (texts, 16, 64) and pooled states (texts, 64).
    """
    path = work / "denoiser_data.pt"
    if path.exists():
        return path
    scenes, rng = sample_scenes(SCENES, seed=41, two=0.3, outline=0.22, unnamed=0.18), np.random.default_rng(42)
    latents = torch.cat([encode(vae, to_tensor(render(scenes[slice(i, i + 2000)]))) for i in range(0, SCENES, 2000)])
    texts = [[caption(scenes, i, rng) for _ in range(CAPTIONS_EACH)] for i in range(SCENES)]
    unique = ["", *sorted({t for row in texts for t in row if t})]
    index = {text: i for i, text in enumerate(unique)}
    ids = build_tokenizer()(unique, padding="max_length", truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        outputs = [text_encoder(part) for part in ids.split(1024)]
    save(
        path,
        {
            "latents": latents,
            "captions": torch.tensor([[index[t] for t in row] for row in texts]),
            "states": torch.cat([out.last_hidden_state for out in outputs]),
            "pooled": torch.cat([out.pooler_output for out in outputs]),
        },
    )
    return path
