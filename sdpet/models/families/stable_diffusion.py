"""Stable Diffusion v1 and v2: one text encoder, whose last states condition a UNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from sdpet.models.sending import sent
from sdpet.models.text import tokenize

if TYPE_CHECKING:
    from sdpet.models.base import BaseModel


class StableDiffusion:
    """Stable Diffusion v1 and v2, and the lab's UNet."""

    embeds_guidance = False
    lower_case = False

    def encode_text(self, base: BaseModel, prompts: Sequence[str]) -> Tensor:
        """Text states (N, 77, D)."""
        return base.text_encoder(sent(tokenize(base.tokenizer, prompts), base.device))[0]

    def predict(self, base: BaseModel, noisy: Tensor, timesteps: Tensor, rows: Tensor, guidance: float) -> Tensor:
        """Noise or velocity (B, C, h, w)."""
        return base.unet(noisy, timesteps, encoder_hidden_states=rows, return_dict=False)[0]
