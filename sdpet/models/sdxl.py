"""The further conditions of Stable Diffusion XL (arXiv 2307.01952): a second text encoder, its pooled text, and sizes.

The rest of sdpet passes conditioning as one tensor with a row for each image, (B, L, D). So the pooled text (P,)
becomes one more token, padded with zeros to the width of the states: L = 77 + 1 tokens. If P were wider than D, it
would become as many tokens as it needs. Sizes are not passed: images are square and not cropped, so original and target
size are those of the image and the crop begins at (0, 0).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from sdpet.models.base import BaseModel


def encode_text(base: BaseModel, prompts: Sequence[str]) -> torch.Tensor:
    """(N, L, D): last but one states of both encoders side by side, then the second one's pooled text as a token.

    The empty prompt is all zeros where the pipeline says so, as the unconditional branch was trained.
    """
    from sdpet.models.text import tokenize

    states = []
    for tokenizer, encoder in ((base.tokenizer, base.text_encoder), (base.tokenizer_2, base.text_encoder_2)):
        out = encoder(tokenize(tokenizer, prompts).to(base.device), output_hidden_states=True)
        states.append(out.hidden_states[-2])  # (N, 77, width of this encoder)
    both, pooled = torch.cat(states, dim=-1), out.text_embeds  # (N, 77, D), (N, P)
    width = both.shape[-1]
    tokens = functional.pad(pooled, (0, -pooled.shape[-1] % width)).unflatten(-1, (-1, width))
    rows = torch.cat([both, tokens], dim=1)
    if base.zero_empty:
        rows[[i for i, prompt in enumerate(prompts) if prompt == ""]] = 0
    return rows


def conditions(base: BaseModel, noisy: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
    """What the UNet takes for latents (B, C, h, w) and rows of `encode_text` (B, L, D): text states (B, 77, D), and
    text_embeds (B, P) with time_ids (B, 6)."""
    pooled_width = base.text_encoder_2.config.projection_dim
    tokens = -(-pooled_width // rows.shape[-1])
    states, pooled = rows[:, :-tokens], rows[:, -tokens:].flatten(1)[:, :pooled_width]
    height, width = (side * base.downsampling for side in noisy.shape[-2:])
    sizes = torch.tensor([height, width, 0, 0, height, width], dtype=rows.dtype, device=rows.device)
    return states, {"text_embeds": pooled, "time_ids": sizes.expand(len(rows), -1)}


def zeros_for_empty(folder: Path) -> bool:
    """Whether the pipeline in the folder takes zeros for the empty prompt, as Stable Diffusion XL does."""
    index = folder / "model_index.json"
    return not index.is_file() or json.loads(index.read_text()).get("force_zeros_for_empty_prompt", True)
