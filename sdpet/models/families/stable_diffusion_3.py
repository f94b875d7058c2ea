"""Stable Diffusion 3 and 3.5 (arXiv 2403.03206): a joint transformer with pooled text and up to three text encoders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from sdpet.models.rows import append_pooled, split_pooled
from sdpet.models.sending import sent
from sdpet.models.text import tokenize

if TYPE_CHECKING:
    from sdpet.models.base import BaseModel

T5_LENGTH = 256  # tokens of the third text encoder, as in diffusers' pipeline


class StableDiffusion3:
    """Stable Diffusion 3 and 3.5, and the lab's transformer, which has one text encoder."""

    embeds_guidance = False
    lower_case = False

    def encode_text(self, base: BaseModel, prompts: Sequence[str]) -> Tensor:
        """Rows (N, L, D): the states of the CLIP encoders side by side, those of T5 below, then both pooled texts.

        Without T5 its states are zeros. With a single text encoder its last states and its pooled text are taken. With
        ``base.pooled`` False the pooled text is zeros.
        """
        if base.text_encoder_2 is None:
            out = base.text_encoder(sent(tokenize(base.tokenizer, prompts), base.device))
            states, pooled = out.last_hidden_state, out.pooler_output
        else:
            states, pooled = self._two_encoders(base, prompts)
        return append_pooled(states, pooled if base.pooled else torch.zeros_like(pooled))

    def _two_encoders(self, base: BaseModel, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """States (N, 77 + T5_LENGTH, D) and pooled texts (N, P)."""
        found = []
        for tokenizer, encoder in ((base.tokenizer, base.text_encoder), (base.tokenizer_2, base.text_encoder_2)):
            out = encoder(sent(tokenize(tokenizer, prompts), base.device), output_hidden_states=True)
            found.append((out.hidden_states[-2], out.text_embeds))
        states = torch.cat([of_encoder for of_encoder, _ in found], dim=-1)
        width = base.unet.config.joint_attention_dim
        if base.text_encoder_3 is None:
            long = states.new_zeros(len(prompts), T5_LENGTH, width)
        else:
            long = base.text_encoder_3(sent(tokenize(base.tokenizer_3, prompts, T5_LENGTH), base.device))[0]
        states = functional.pad(states, (0, width - states.shape[-1]))
        return torch.cat([states, long.to(states)], dim=1), torch.cat([pooled for _, pooled in found], dim=-1)

    def predict(self, base: BaseModel, noisy: Tensor, timesteps: Tensor, rows: Tensor, guidance: float) -> Tensor:
        """The velocity (B, C, h, w)."""
        states, pooled = split_pooled(rows, base.unet.config.pooled_projection_dim)
        return base.unet(noisy, states, pooled, timesteps, return_dict=False)[0]
