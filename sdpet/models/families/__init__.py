"""Families of models: how each encodes prompts, and how its denoiser is called. One module a family.

`family_of` finds the family of a denoiser by its class. The rest of sdpet calls `BaseModel.encode_text` and
`BaseModel.predict`, and knows no family.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from sdpet.models.families.flux import Flux
from sdpet.models.families.pixart import PixArt
from sdpet.models.families.stable_diffusion import StableDiffusion
from sdpet.models.families.stable_diffusion_3 import StableDiffusion3
from sdpet.models.families.stable_diffusion_xl import StableDiffusionXL

if TYPE_CHECKING:
    from sdpet.models.base import BaseModel


class Family(Protocol):
    """How a family of models is conditioned and called.

    Attributes
    ----------
    embeds_guidance : bool
        Whether the strength of guidance is an input of the denoiser, so that no unconditional pass is needed.
    lower_case : bool
        Whether prompts are encoded in lower case.
    """

    @property
    def embeds_guidance(self) -> bool: ...

    @property
    def lower_case(self) -> bool: ...

    def encode_text(self, base: BaseModel, prompts: Sequence[str]) -> Tensor:
        """Conditioning of N different prompts, (N, L, D)."""
        ...

    def predict(self, base: BaseModel, noisy: Tensor, timesteps: Tensor, rows: Tensor, guidance: float) -> Tensor:
        """Call the denoiser on latents (B, C, h, w) at timesteps (B,) with rows (B, L, D); returns (B, C, h, w)."""
        ...


def family_of(denoiser: Any, *, xl: bool = False) -> Family:
    """The family of a denoiser.

    Parameters
    ----------
    denoiser : nn.Module
        diffusers' UNet2DConditionModel, SD3Transformer2DModel, FluxTransformer2DModel or PixArtTransformer2DModel.
    xl : bool
        Whether the model has Stable Diffusion XL's second text encoder.

    Returns
    -------
    Family
    """
    match type(getattr(denoiser, "_orig_mod", denoiser)).__name__:
        case "SD3Transformer2DModel":
            return StableDiffusion3()
        case "FluxTransformer2DModel":
            return Flux(embeds_guidance=bool(denoiser.config.guidance_embeds))
        case "PixArtTransformer2DModel":
            return PixArt()
    return StableDiffusionXL() if xl else StableDiffusion()


__all__ = ["Family", "family_of"]
