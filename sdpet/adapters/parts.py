"""Where in a pipeline adapters go: its denoiser, its CLIP text encoders, or both as one model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from sdpet.adapters.routes import carriers
from sdpet.choices import WHERES

UNET, TEXT_ENCODER, BOTH = WHERES
TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
DENOISERS = ("unet", "transformer")


class Parts(nn.Module):
    """Parts of a pipeline as one model, to attach one design to all of them. It computes nothing itself.

    Paths of blocks and keys of saved weights begin with the part's name, such as
    ``text_encoder.text_model.encoder.layers.0``. The parts are held, not copied or changed.

    Parameters
    ----------
    **parts : nn.Module
        By name, the denoiser first: initial weights are drawn in this order.
    """

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        self.words = " and ".join("text encoder" if name in TEXT_ENCODERS else "denoiser" for name in parts)
        for name, part in parts.items():
            part = getattr(part, "_orig_mod", part)  # the module inside the wrapper that torch.compile returns
            is_flat = name in TEXT_ENCODERS and not hasattr(part, "text_model")
            setattr(self, name, _Flat(part) if is_flat else part)


class _Flat(nn.Module):
    """transformers dropped ``text_model`` from CLIPTextModel in 5.6; files keep it, as those of other tools do."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.text_model = encoder


def model_at(source: Any, where: str) -> nn.Module:
    """What `attach` takes to put adapters into a part of a pipeline, or into several.

    Parameters
    ----------
    source : DiffusionPipeline or nn.Module
        A pipeline of diffusers, or anything that has its parts as attributes. A denoiser alone has no text encoder.
    where : {"unet", "text_encoder", "both"}
        "unet" is the denoiser, also where it is a transformer. "text_encoder" is all CLIP text encoders of the
        pipeline.

    Returns
    -------
    nn.Module
        The denoiser itself, or `Parts`.

    Raises
    ------
    ValueError
        If `where` is none of these, or there is no such part.

    Examples
    --------
    >>> adapters = attach(model_at(pipe, "both"), AdapterSpec.parse("attn1o-ffni", mid_dim=8))
    """
    if where not in WHERES:
        raise ValueError(f"where must be one of {', '.join(WHERES)}, not {where!r}.")
    if isinstance(source, Parts) and where_of(dict(source.named_children())) == where:
        return source
    if isinstance(source, nn.Module):
        if where == UNET:
            return source
        raise ValueError(
            f"adapters in the text encoder need the whole pipeline, not only its {type(source).__name__}; pass the "
            "pipeline that holds both."
        )
    denoiser = next((found for name in DENOISERS if (found := getattr(source, name, None)) is not None), None)
    if denoiser is None:
        raise ValueError(f"{type(source).__name__} has neither a unet nor a transformer.")
    if where == UNET:
        return denoiser
    encoders = clip_encoders(source)
    if not encoders:
        raise ValueError("this model has no CLIP text encoder, so adapters can only go where=unet.")
    name = "unet" if hasattr(denoiser, "down_blocks") else "transformer"
    return Parts(**({name: denoiser} if where == BOTH else {}), **encoders)


def clip_encoders(source: Any) -> dict[str, nn.Module]:
    """The text encoders of a pipeline that can carry adapters, by name."""
    found = {name: getattr(source, name, None) for name in TEXT_ENCODERS}
    return {name: part for name, part in found.items() if isinstance(part, nn.Module) and carriers(part)}


def where_of(paths: Iterable[str]) -> str:
    """The place that paths in a model belong to, as in adapters.json.

    Parameters
    ----------
    paths : iterable of str
        Of blocks, or names of weights; those of a denoiser alone do not begin with the name of a part.

    Returns
    -------
    str
        "unet", "text_encoder" or "both".
    """
    texts = [path.partition(".")[0] in TEXT_ENCODERS for path in paths]
    return UNET if not any(texts) else TEXT_ENCODER if all(texts) else BOTH


def inside(model: nn.Module, path: str) -> str:
    """A path of `Parts` without the name of the part; other paths as they are."""
    return path.partition(".")[2] if isinstance(model, Parts) else path
