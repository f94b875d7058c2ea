"""Flux.1: tokens of 2 x 2 latents, T5's states, CLIP's pooled text, and guidance as an input (dev).

Source of the layout: diffusers' FluxPipeline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from sdpet.models.rows import append_pooled, split_pooled
from sdpet.models.sending import sent
from sdpet.models.text import tokenize

if TYPE_CHECKING:
    from sdpet.models.base import BaseModel

T5_LENGTH = 512  # tokens of T5, as in diffusers' pipeline


@dataclass(frozen=True)
class Flux:
    """Flux.1 dev and schnell.

    Parameters
    ----------
    embeds_guidance : bool
        Whether the strength of guidance is an input, as in dev. Training gives it 1.
    """

    embeds_guidance: bool = True
    lower_case: ClassVar[bool] = False

    def encode_text(self, base: BaseModel, prompts: Sequence[str]) -> Tensor:
        """Rows (N, T5_LENGTH + 1, D): T5's states, then CLIP's pooled text."""
        pooled = base.text_encoder(sent(tokenize(base.tokenizer, prompts), base.device)).pooler_output
        return append_pooled(
            base.text_encoder_2(sent(tokenize(base.tokenizer_2, prompts, T5_LENGTH), base.device))[0], pooled
        )

    def predict(self, base: BaseModel, noisy: Tensor, timesteps: Tensor, rows: Tensor, guidance: float) -> Tensor:
        """The velocity (B, C, h, w); h and w are even."""
        states, pooled = split_pooled(rows, base.unet.config.pooled_projection_dim)
        height, width = noisy.shape[-2] // 2, noisy.shape[-1] // 2
        sides = [torch.arange(side, device=noisy.device) for side in (height, width)]  # there: a copy is waited for
        places = torch.cartesian_prod(*sides).to(noisy)  # (h w / 4, 2)
        tokens = functional.pixel_unshuffle(noisy, 2).flatten(2).transpose(1, 2)  # (B, h w / 4, 4 C)
        out = base.unet(
            hidden_states=tokens,
            encoder_hidden_states=states,
            pooled_projections=pooled,
            timestep=timesteps / 1000,
            guidance=torch.full_like(timesteps, guidance, dtype=torch.float32) if self.embeds_guidance else None,
            txt_ids=noisy.new_zeros(states.shape[1], 3),
            img_ids=functional.pad(places, (1, 0)),
            return_dict=False,
        )[0]
        return functional.pixel_shuffle(out.transpose(1, 2).unflatten(2, (height, width)), 2)
