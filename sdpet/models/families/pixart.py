"""PixArt-Alpha and PixArt-Sigma (arXiv 2310.00426, 2403.04692): a transformer with cross-attention to T5's states.

The mask of T5's tokens travels as one more column of the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sdpet.models.sending import sent
from sdpet.models.text import token_mask, tokenize

if TYPE_CHECKING:
    from sdpet.models.base import BaseModel

T5_LENGTH = 300  # tokens, as in diffusers' pipeline of PixArt-Sigma


class PixArt:
    """PixArt-Alpha and PixArt-Sigma."""

    embeds_guidance = False
    lower_case = True

    def encode_text(self, base: BaseModel, prompts: Sequence[str]) -> Tensor:
        """Rows (N, T5_LENGTH, D + 1): T5's states of the prompts in lower case, and the mask of their tokens."""
        texts = [prompt.lower().strip() for prompt in prompts]
        ids = sent(tokenize(base.tokenizer, texts, T5_LENGTH), base.device)
        mask = sent(token_mask(base.tokenizer, texts, T5_LENGTH), base.device)
        states = base.text_encoder(ids, attention_mask=mask)[0]
        return torch.cat([states, mask[..., None].to(states)], dim=-1)

    def predict(self, base: BaseModel, noisy: Tensor, timesteps: Tensor, rows: Tensor, guidance: float) -> Tensor:
        """The noise (B, C, h, w). The half of the output that is the variance is left out."""
        none = {"resolution": None, "aspect_ratio": None}
        out = base.unet(
            noisy,
            encoder_hidden_states=rows[..., :-1],
            timestep=timesteps,
            added_cond_kwargs=none,
            encoder_attention_mask=rows[..., -1],
            return_dict=False,
        )[0]
        return out[:, : noisy.shape[1]]
