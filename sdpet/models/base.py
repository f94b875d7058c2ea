"""The frozen base model: the parts of a Stable Diffusion pipeline, loaded piece by piece.

All models go through the same code: scaling factor, prediction type and noise schedule are read from the configs. What
only one family of models has, such as further text encoders, is hidden behind `encode_text` and `predict`
(sdpet.models.families).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from sdpet.models.families import Family, family_of
from sdpet.models.memory_limit import free_memory, images_that_fit
from sdpet.models.noising import Diffusion, FlowMatching, NoiseProcess, dynamic_shift
from sdpet.models.sending import sent

TEXTS = 256  # prompts that the text encoders take at a time


@dataclass
class BaseModel:
    """A frozen text-to-image latent diffusion model; adapters are attached to its `unet`.

    Parameters
    ----------
    unet, vae, text_encoder, tokenizer
        The parts of a diffusers pipeline. `unet` is the denoiser: a UNet or a transformer.
    scheduler : DDPMScheduler or FlowMatchEulerDiscreteScheduler
        The noise schedule of training; samplers are made from its config.
    name : str
    weight_hash : str
        Identifies weights and configs by their content.
    side : int, optional
        Side of its images in pixels, if it differs from the UNet's config.
    text_encoder_2, tokenizer_2, text_encoder_3, tokenizer_3, optional
        Of models with several text encoders.
    zero_empty : bool
        Whether the empty prompt is encoded as zeros (Stable Diffusion XL).
    pooled : bool
        Whether the denoiser gets the pooled text; if not, it gets zeros (the lab's transformer).
    noise_levels : {"logit_normal", "uniform"}
        How flow matching draws noise levels in training.
    offload : bool
        Whether VAE and text encoders are on the UNet's device only while they work.
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
    text_encoder_3: Any = None
    tokenizer_3: Any = None
    zero_empty: bool = False
    pooled: bool = True
    noise_levels: str = "logit_normal"
    offload: bool = False

    @cached_property
    def family(self) -> Family:
        """How this family of models is conditioned and called."""
        return family_of(self.unet, xl=self.is_xl)

    @property
    def process(self) -> NoiseProcess:
        """How training adds noise, and what the denoiser predicts."""
        if not self.is_flow:
            return Diffusion(self.scheduler)
        return FlowMatching(self.scheduler, self.shift(*self.latent_shape[1:]), self.noise_levels)

    @property
    def is_flow(self) -> bool:
        """Whether it was trained by flow matching."""
        return "FlowMatch" in type(self.scheduler).__name__

    def shift(self, height: int, width: int) -> float:
        """The shift of noise levels of a flow matching model for latents of this height and width."""
        dynamic = dynamic_shift(self.scheduler.config, height * width // 4)  # tokens of 2 x 2 latents
        return self.scheduler.config.shift if dynamic is None else math.exp(dynamic)

    @property
    def device(self) -> torch.device:
        """Of the UNet: of its first parameter, since diffusers' own property goes through all modules (0.5 ms)."""
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the UNet: of its first weights that are not kept in float32, as diffusers' slower property (1.2 ms)."""
        kept = getattr(self.unet, "_keep_in_fp32_modules", None) or ()
        found = (p.dtype for name, p in self.unet.named_parameters() if not any(part in name for part in kept))
        dtype = next((dtype for dtype in found if dtype.is_floating_point), None)
        return self.unet.dtype if dtype is None else dtype

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape (C, h, w) of the latents of an image of `image_size`."""
        size = self.image_size // self.downsampling
        return (self.vae.config.latent_channels, size, size)

    @property
    def image_size(self) -> int:
        """Side of the model's square images in pixels; 1024 where the denoiser's config does not say (Flux)."""
        latents = self.unet.config.get("sample_size")
        return self.side or (latents * self.downsampling if latents else 1024)

    @property
    def downsampling(self) -> int:
        """Pixels of an image along one side of a latent."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def is_xl(self) -> bool:
        """Whether it is a Stable Diffusion XL model: a UNet with two text encoders."""
        return self.text_encoder_2 is not None and hasattr(self.unet, "down_blocks")

    @property
    def prediction_type(self) -> str:
        """What the denoiser predicts: "epsilon", "v_prediction" or "flow"."""
        return self.process.predicts

    def encode_text(self, prompts: Sequence[str]) -> torch.Tensor:
        """Encode prompts as conditioning for `predict`. Equal prompts are computed once.

        Parameters
        ----------
        prompts : sequence of str
            N of them.

        Returns
        -------
        Tensor, shape (N, L, D)
            Text states, padded to the tokenizer's length; of some families also pooled text (sdpet.models.rows). The
            encoder is frozen, so it has a gradient only through a learned token embedding.
        """
        unique = list(dict.fromkeys(prompts))
        place = {prompt: row for row, prompt in enumerate(unique)}
        encoders = (self.text_encoder, self.text_encoder_2, self.text_encoder_3)
        with self._at_work(*encoders):
            parts = [
                self.family.encode_text(self, unique[first : first + TEXTS]) for first in range(0, len(unique), TEXTS)
            ]
        rows = parts[0] if len(parts) == 1 else torch.cat(parts)  # (U, L, D)
        return rows[sent(torch.tensor([place[prompt] for prompt in prompts]), rows.device)]

    def predict(
        self, noisy: torch.Tensor, timesteps: torch.Tensor, text: torch.Tensor, guidance: float = 1.0
    ) -> torch.Tensor:
        """Run the denoiser. No other code calls it.

        Parameters
        ----------
        noisy : Tensor, shape (B, C, h, w)
            Noisy latents.
        timesteps : Tensor, shape (B,) or ()
        text : Tensor, shape (B, L, D)
            Rows that `encode_text` returned.
        guidance : float
            Input of models that embed the strength of guidance (Flux dev); others ignore it.

        Returns
        -------
        Tensor, shape (B, C, h, w)
            Noise or velocity, see `prediction_type`.
        """
        return self.family.predict(self, noisy, timesteps.expand(len(noisy)), text, guidance)

    @torch.no_grad()
    def encode_images(self, images: np.ndarray | torch.Tensor, chunk: int | None = None) -> torch.Tensor:
        """Encode images.

        Parameters
        ----------
        images : ndarray or Tensor of uint8, shape (N, H, W, 3)
        chunk : int, optional
            Number of images at a time. By default at most 64, at most as many as have 2^20 pixels (4 at 512 px), and
            at most as many as fit into half of the device's free memory. It may change the last bits (`vae_slicing`).

        Returns
        -------
        Tensor, shape (N, C, h, w)
            The mean of the posterior, shifted and scaled as the VAE's config says.
        """
        shift, scale = self._affine()
        pixels = torch.as_tensor(images).permute(0, 3, 1, 2)  # (N, 3, H, W), uint8
        latents = []
        with self._at_work(self.vae):
            for part in pixels.split(chunk or self._chunk(*pixels.shape[2:])):
                x = part.to(self.device, self.vae.dtype) / 127.5 - 1
                latents.append((self.vae.encode(x).latent_dist.mean - shift) * scale)
        return torch.cat(latents).to(self.dtype)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor, chunk: int | None = None) -> np.ndarray:
        """Decode latents.

        Parameters
        ----------
        latents : Tensor, shape (N, C, h, w)
        chunk : int, optional
            Number of latents at a time; by default as in `encode_images`.

        Returns
        -------
        ndarray of uint8, shape (N, H, W, 3)
            Rounded to 8 bits, as a file would be.
        """
        shift, scale = self._affine()
        images = []
        height, width = (self.downsampling * side for side in latents.shape[2:])
        with self._at_work(self.vae):
            for part in latents.split(chunk or self._chunk(height, width)):
                x = self.vae.decode((part / scale + shift).to(self.vae.dtype), return_dict=False)[0]
                x = ((x.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)  # (n, 3, H, W)
                images.append(x.permute(0, 2, 3, 1).cpu())
        return torch.cat(images).numpy()

    def through_vae(self, images: np.ndarray | torch.Tensor) -> np.ndarray:
        """Encode and decode images (uint8, same shape): the best images that a perfect generator could draw."""
        return self.decode(self.encode_images(images))

    @contextmanager
    def _at_work(self, *networks: Any) -> Iterator[None]:
        """Have networks on the UNet's device inside the block, if they are elsewhere otherwise."""
        moved = [network for network in networks if network is not None] if self.offload else []
        for network in moved:
            network.to(self.device)
        try:
            yield
        finally:
            for network in moved:
                network.to("cpu")

    def _chunk(self, height: int, width: int) -> int:
        return images_that_fit(self.vae, height, width, free_memory(self.device))

    def _affine(self) -> tuple[float, float]:
        shift = self.vae.config.get("shift_factor")
        return (0.0 if shift is None else shift), self.vae.config.scaling_factor
