"""Which transformer a single file holds, and with which other parts of its pipeline. Read without torch.

Source of the names: diffusers' converters, and the files with all parts that Stability AI and ComfyUI published.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sdpet.models.compvis.scan import UNET, Contents, contents, refuse_code

_CLIP_L, _CLIP_G, T5 = (f"text_encoders.{name}.transformer." for name in ("clip_l", "clip_g", "t5xxl"))
VAES = ("first_stage_model.", "vae.")
_SD3, _FLUX = "joint_blocks.0.x_block.", "double_blocks.0.img_attn."
# Prefixes of the text encoders' weights, by part of the pipeline.
TEXTS = {
    "sd3": {"text_encoder": _CLIP_L, "text_encoder_2": _CLIP_G, "text_encoder_3": T5},
    "flux": {"text_encoder": _CLIP_L, "text_encoder_2": T5},
}


@dataclass(frozen=True)
class TransformerFile:
    """What a single file of Stable Diffusion 3 or Flux holds.

    Parameters
    ----------
    family : {"sd3", "flux"}
    prefix : str
        What the names of the transformer's weights begin with; it may be empty.
    architecture : str, optional
        The architecture of sdpet that it has; None where there is none.
    parts : tuple of str
        The parts of the pipeline that it holds, such as "transformer" and "vae".
    """

    family: str
    prefix: str
    architecture: str | None
    parts: tuple[str, ...]


def transformer_file(file: Path) -> TransformerFile | None:
    """Find out whether a file holds a transformer of Stable Diffusion 3 or Flux.

    Parameters
    ----------
    file : Path
        A checkpoint.

    Returns
    -------
    TransformerFile or None
        None where it holds another model.

    Raises
    ------
    ValueError
        It is unsafe, damaged, or a transformer that is not read.
    """
    found = contents(file)
    begins = {
        (family, prefix): prefix + own for family, own in (("sd3", _SD3), ("flux", _FLUX)) for prefix in ("", UNET)
    }
    family, prefix = next((which for which, begin in begins.items() if begin in found), (None, ""))
    if family is None:
        return None
    refuse_code(file, found)
    pooled = prefix + {"sd3": "y_embedder.mlp.", "flux": "vector_in.in_layer."}[family]
    if pooled not in found:
        name = {"sd3": "Stable Diffusion 3", "flux": "Flux.1"}[family]
        raise ValueError(f"{file} is a relative of {name} that is not read: it holds no weights named {pooled}*.")
    parts = [part for part, begin in TEXTS[family].items() if begin in found]
    vae = ["vae"] if any(f"{begin}decoder." in found for begin in VAES) else []
    return TransformerFile(family, prefix, _architecture(family, prefix, found), ("transformer", *vae, *parts))


def _architecture(family: str, prefix: str, found: Contents) -> str | None:
    """Its name in sdpet/architectures. Flux schnell, which has no guidance as an input, is not there."""
    if family == "flux":
        return "flux_dev" if prefix + "guidance_in." in found else None
    if prefix + _SD3 + "attn2." in found:
        return "sd35_medium"
    return "sd35_large" if prefix + _SD3 + "attn.ln_q." in found else "sd3_medium"
