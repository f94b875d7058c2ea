"""The frozen base model: the parts of a Stable Diffusion pipeline, loaded piece by piece.

The lab and Stable Diffusion v1, v2 and XL go through the same code: scaling factor, prediction type and noise schedule
are read from the configs, and the further conditions of XL are hidden behind `encode_text` and `predict`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sdpet.models import sdxl
from sdpet.models.text import tokenize


@dataclass
class BaseModel:
    """A frozen text-to-image latent diffusion model; adapters are attached to `unet` and taken off again.

    `scheduler` is a DDPMScheduler: the training noise schedule, from whose config samplers are made.
    `weight_hash` identifies the weights and configs on disk. `side`: of its images where that is not what the UNet's
    config says. `text_encoder_2`, `tokenizer_2` and `zero_empty` (the empty prompt is zeros) are Stable Diffusion XL's.
    """

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler: Any
    name: str
    weight_hash: str
    side: int | None = None
    text_encoder_2: Any = None
    tokenizer_2: Any = None
    zero_empty: bool = False

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.dtype

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of the latents of an image of `image_size`."""
        size = self.image_size // self.downsampling
        return (self.unet.config.in_channels, size, size)

    @property
    def image_size(self) -> int:
        """Side of the model's square images in pixels."""
        return self.side or self.unet.config.sample_size * self.downsampling

    @property
    def downsampling(self) -> int:
        """Pixels of an image along one latent."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def is_xl(self) -> bool:
        return self.text_encoder_2 is not None

    @property
    def prediction_type(self) -> str:
        """What the UNet predicts: "epsilon" or "v_prediction"."""
        return self.scheduler.config.prediction_type

    def encode_text(self, prompts: Sequence[str]) -> torch.Tensor:
        """Rows of conditioning (N, L, D), one a prompt, to be passed to `predict`; equal prompts are computed once.

        Non-pooled text states, padded to the tokenizer's length; of Stable Diffusion XL also pooled text (see sdxl).
        The encoder is frozen, so there is a gradient only where a learned token embedding is hooked in.
        """
        unique = list(dict.fromkeys(prompts))
        if self.is_xl:
            rows = sdxl.encode_text(self, unique)
        else:
            rows = self.text_encoder(tokenize(self.tokenizer, unique).to(self.device))[0]  # (U, L, D)
        return rows[[unique.index(prompt) for prompt in prompts]]

    def predict(self, noisy: torch.Tensor, timesteps: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """What the UNet predicts (B, C, h, w) for noisy latents (B, C, h, w) at timesteps (B,) or () and text states.

        text: rows of what `encode_text` gives, (B, L, D). The only place that calls the UNet.
        """
        if self.is_xl:
            states, added = sdxl.conditions(self, noisy, text)
            return self.unet(noisy, timesteps, states, added_cond_kwargs=added, return_dict=False)[0]
        return self.unet(noisy, timesteps, encoder_hidden_states=text, return_dict=False)[0]

    @torch.no_grad()
    def encode_images(self, images: np.ndarray | torch.Tensor, chunk: int = 64) -> torch.Tensor:
        """Latents (N, C, h, w) of uint8 images (N, H, W, 3): the posterior's mean, shifted and scaled."""
        shift, scale = self._affine()
        pixels = torch.as_tensor(images).permute(0, 3, 1, 2)  # (N, 3, H, W), uint8
        latents = []
        for part in pixels.split(chunk):
            x = part.to(self.device, self.vae.dtype) / 127.5 - 1
            latents.append((self.vae.encode(x).latent_dist.mean - shift) * scale)
        return torch.cat(latents).to(self.dtype)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor, chunk: int = 64) -> np.ndarray:
        """Images uint8 (N, H, W, 3) of latents (N, C, h, w), rounded to 8 bit as they would be on disk."""
        shift, scale = self._affine()
        images = []
        for part in latents.split(chunk):
            x = self.vae.decode((part / scale + shift).to(self.vae.dtype), return_dict=False)[
                0
            ]  # (n, 3, H, W) in [-1, 1]
            x = ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
            images.append(x.permute(0, 2, 3, 1).cpu())
        return torch.cat(images).numpy()

    def through_vae(self, images: np.ndarray | torch.Tensor) -> np.ndarray:
        """The images encoded and decoded (uint8, same shape): what a perfect generator could at best draw."""
        return self.decode(self.encode_images(images))

    def _affine(self) -> tuple[float, float]:
        shift = self.vae.config.get("shift_factor")
        return (0.0 if shift is None else shift), self.vae.config.scaling_factor
