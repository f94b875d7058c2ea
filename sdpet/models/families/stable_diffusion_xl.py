"""Stable Diffusion XL (arXiv 2307.01952): two text encoders, pooled text and sizes.

Sizes are not passed on: images are square and not cropped, so original and target size are those of the image and the
crop begins at (0, 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sdpet.models.rows import append_pooled, split_pooled
from sdpet.models.sending import sent
from sdpet.models.text import tokenize

if TYPE_CHECKING:
    from sdpet.models.base import BaseModel


class StableDiffusionXL:
    """Stable Diffusion XL."""

    embeds_guidance = False
    lower_case = False

    def encode_text(self, base: BaseModel, prompts: Sequence[str]) -> Tensor:
        """Rows (N, L, D): last but one states of both encoders side by side, then the second one's pooled text.

        The empty prompt is all zeros where the pipeline says so, as the unconditional branch was trained.
        """
        states = []
        for tokenizer, encoder in ((base.tokenizer, base.text_encoder), (base.tokenizer_2, base.text_encoder_2)):
            out = encoder(sent(tokenize(tokenizer, prompts), base.device), output_hidden_states=True)
            states.append(out.hidden_states[-2])  # (N, 77, width of this encoder)
        rows = append_pooled(torch.cat(states, dim=-1), out.text_embeds)
        if base.zero_empty:
            for i in (i for i, prompt in enumerate(prompts) if prompt == ""):
                rows[i] = 0  # one by one: the host would wait for a list of them to be copied
        return rows

    def predict(self, base: BaseModel, noisy: Tensor, timesteps: Tensor, rows: Tensor, guidance: float) -> Tensor:
        """Noise or velocity (B, C, h, w)."""
        states, pooled = split_pooled(rows, base.text_encoder_2.config.projection_dim)
        height, width = (side * base.downsampling for side in noisy.shape[-2:])
        sizes = rows.new_zeros(6)  # height, width, 0, 0, height, width: set on the device, as a copy is waited for
        sizes[::4], sizes[1::4] = height, width
        added = {"text_embeds": pooled, "time_ids": sizes.expand(len(rows), -1)}  # (B, P), (B, 6)
        return base.unet(noisy, timesteps, states, added_cond_kwargs=added, return_dict=False)[0]
