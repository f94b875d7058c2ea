"""The weights of an original checkpoint as diffusers' UNet and VAE and transformers' text encoder.

Keys are renamed by diffusers' own converters. Nothing is downloaded, and nothing pickled is executed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sdpet.models.compvis.scan import EMA, TEXT, UNET, VAE, contents, is_replaced, is_safetensors, refuse_code
from sdpet.models.source import Source


@dataclass
class Networks:
    """The three networks of Stable Diffusion v1."""

    unet: Any
    vae: Any
    text_encoder: Any


def load_checkpoint(source: Source, dtype: torch.dtype) -> Networks:
    """Load a checkpoint file.

    Parameters
    ----------
    source : Source
    dtype : torch.dtype

    Returns
    -------
    Networks
        On the CPU, in `dtype`.

    Raises
    ------
    ValueError
        If weights do not fit the configs; the message names them.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
    from transformers import CLIPTextConfig, CLIPTextModel

    weights = read_weights(source.path)
    unet_config, vae_config, text_config = (source.config(part) for part in ("unet", "vae", "text_encoder"))
    unet = _unet_weights(weights, source)
    vae = {key: value for key, value in weights.items() if key.startswith(VAE)}
    text = {key.removeprefix(TEXT): value for key, value in weights.items() if key.startswith(TEXT)}
    with _unallocated():
        networks = Networks(
            UNet2DConditionModel.from_config(unet_config),
            AutoencoderKL.from_config(vae_config),
            CLIPTextModel(CLIPTextConfig(**text_config)),
        )
    _fill(networks.unet, _renamed(convert_ldm_unet_checkpoint, unet, unet_config, source), dtype, source)
    _fill(networks.vae, _renamed(convert_ldm_vae_checkpoint, vae, vae_config, source), dtype, source)
    _fill(networks.text_encoder, _text_names(text, networks.text_encoder), dtype, source)
    return networks


def read_weights(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint file, mapped into memory if the format allows it.

    Objects that training tools stored beside the weights are replaced by inert stand-ins. A file that would import
    anything else is refused: first by our own scan, and in any case by torch's restricted unpickler.

    Parameters
    ----------
    file : Path

    Returns
    -------
    dict of str to Tensor

    Raises
    ------
    ValueError
        If the file is unsafe, damaged or holds no weights.
    """
    if file.suffix.lower() == ".safetensors" or is_safetensors(file):
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(file)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{file} cannot be read ({error}); it is damaged or no .safetensors file.") from error
    found = contents(file)
    refuse_code(file, found)
    stand_ins = [(_stand_in(name), name.replace(" ", ".")) for name in sorted(found.objects) if is_replaced(name)]
    try:
        with torch.serialization.safe_globals(stand_ins):  # type: ignore[arg-type]
            mapped = torch.serialization._is_zipfile(file.open("rb"))
            state = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # whatever is wrong with the file: the unpickler raises many kinds
        raise ValueError(
            f"{file} cannot be read safely ({type(error).__name__}); it is damaged or no model."
        ) from error
    while isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping):
        raise ValueError(f"{file} holds a {type(state).__name__} and not a model's weights.")
    return {str(key): value for key, value in state.items() if isinstance(value, Tensor)}


def _stand_in(name: str) -> type:
    """A class that takes any arguments and state, and does nothing."""

    class StandIn(dict):  # a dict, so that a pickled mapping can be filled in
        def __new__(cls, *arguments: Any, **options: Any) -> Any:
            return super().__new__(cls)

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__()

        def __setstate__(self, state: Any) -> None:
            pass

        __hash__ = object.__hash__  # type: ignore[assignment]

    StandIn.__name__ = name.split()[-1]
    return StandIn


def _unet_weights(weights: Mapping[str, Tensor], source: Source) -> dict[str, Tensor]:
    """The UNet's weights by their names, or with use_ema the averaged weights by the same names.

    LitEma names an average by the path in the wrapped model without its dots: the average of
    `model.diffusion_model.out.2.bias` is `model_ema.diffusion_modelout2bias`.
    """
    own = {key: value for key, value in weights.items() if key.startswith(UNET)}
    if not source.use_ema:
        return own
    averaged = {key: EMA + key.removeprefix("model.").replace(".", "") for key in own}
    if missing := [name for name in averaged.values() if name not in weights]:
        raise ValueError(f"{source.path} lacks {len(missing)} EMA weights, first {missing[0]}; set unet.use_ema=false.")
    return {key: weights[name] for key, name in averaged.items()}


def _renamed(converter: Any, weights: dict[str, Tensor], config: dict[str, Any], source: Source) -> dict[str, Tensor]:
    try:
        return converter(dict(weights), config)
    except Exception as error:  # diffusers' converters expect what they find, and raise many kinds
        raise ValueError(f"{source.path} does not fit the configs in {source.configs}: {error!r:.300}.") from error


def _text_names(weights: Mapping[str, Tensor], text_encoder: nn.Module) -> dict[str, Tensor]:
    """Rename for this version of transformers, with or without `text_model.`; drop position_ids of older files."""
    prefix = "text_model."
    bare = {key.removeprefix(prefix): value for key, value in weights.items() if not key.endswith("position_ids")}
    kept = prefix if any(key.startswith(prefix) for key in text_encoder.state_dict()) else ""
    return {kept + key: value for key, value in bare.items()}


def _unallocated() -> Any:
    """Networks made inside have no memory for parameters yet, but real buffers, which no checkpoint contains."""
    from accelerate import init_empty_weights

    return init_empty_weights(include_buffers=False)


def _fill(network: nn.Module, weights: Mapping[str, Tensor], dtype: torch.dtype, source: Source) -> None:
    own = network.state_dict()
    wrong = sorted(own.keys() ^ weights.keys()) + sorted(
        key for key in own.keys() & weights.keys() if own[key].shape != weights[key].shape
    )
    if wrong:
        raise ValueError(
            f"{source.path} does not fit the {type(network).__name__} of {source.configs}: {len(wrong)} weights are "
            f"missing, left over or of another shape, first {wrong[0]}; unet.config can name another folder of configs."
        )
    # Copied, not mapped: the file may change while the model lives, and its tensors are not aligned as new ones are.
    network.load_state_dict({key: weights[key].to(dtype, copy=True) for key in own}, assign=True)
