"""The weights of an original checkpoint as diffusers' UNet and VAE and transformers' text encoder.

Keys are renamed by diffusers' own converters. Nothing is downloaded, and nothing pickled is executed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sdpet.models.compvis.scan import (
    EMA,
    TEXTS,
    UNET,
    VAE,
    contents,
    input_channels_sentence,
    is_replaced,
    is_safetensors,
    refuse_code,
)
from sdpet.models.source import Source


def load_checkpoint(source: Source, dtype: Callable[[str], torch.dtype]) -> dict[str, Any]:
    """Load a checkpoint file.

    Parameters
    ----------
    source : Source
    dtype : callable
        Takes the name of a part and returns its dtype.

    Returns
    -------
    dict
        unet, vae, text_encoder and, of Stable Diffusion XL, text_encoder_2, on the CPU. The VAE is missing
        if the source has another one.

    Raises
    ------
    ValueError
        If weights do not fit the configs; the message names them.
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    weights = read_weights(source.path)
    found = contents(source.path)
    texts = next(parts for parts in TEXTS.values() if all(prefix in found for prefix in parts.values()))
    unet_config, vae_config = source.config("unet"), source.config("vae")
    with unallocated():
        networks: dict[str, Any] = {"unet": UNet2DConditionModel.from_config(unet_config)}
        if source.vae is None:
            networks["vae"] = AutoencoderKL.from_config(vae_config)
        for part in texts:
            kind = CLIPTextModelWithProjection if part.endswith("_2") else CLIPTextModel
            networks[part] = kind(CLIPTextConfig(**source.config(part)))
    unet = _unet_weights(weights, source)
    first = unet.get(UNET + "input_blocks.0.0.weight")
    if first is not None and first.dim() == 4 and first.shape[1] != unet_config["in_channels"]:
        raise ValueError(input_channels_sentence(source.path, first.shape[1]))
    fill(networks["unet"], renamed(convert_ldm_unet_checkpoint, unet, unet_config, source), dtype("unet"), source)
    if source.vae is None:
        vae = {key: value for key, value in weights.items() if key.startswith(VAE)}
        fill(networks["vae"], renamed(convert_ldm_vae_checkpoint, vae, vae_config, source), dtype("vae"), source)
    for part, prefix in texts.items():
        own = {key: value for key, value in weights.items() if key.startswith(prefix)}
        fill(networks[part], text_weights(own, prefix, networks[part], source), dtype(part), source)
    return networks


def load_vae(source: Source, dtype: torch.dtype) -> Any:
    """Load the VAE that takes the place of the model's own.

    Parameters
    ----------
    source : Source
        With `vae`. A file has the configs of the model's own VAE.
    dtype : torch.dtype

    Returns
    -------
    AutoencoderKL
        On the CPU.

    Raises
    ------
    ValueError
        If weights do not fit.
    """
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    assert source.vae is not None
    place = Source(source.vae, source.configs)
    if source.vae.is_dir():
        variant = None if any(".fp16." not in file.name for file in source.vae.glob("*.safetensors")) else "fp16"
        return AutoencoderKL.from_pretrained(source.vae, torch_dtype=dtype, variant=variant, local_files_only=True)
    config = source.config("vae")
    with unallocated():
        vae = AutoencoderKL.from_config(config)
    parts = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
    own = {key.removeprefix(VAE): value for key, value in read_weights(source.vae).items()}
    own = {key: value for key, value in own.items() if key.startswith(parts)}
    if not any(".down_blocks." in key for key in own):  # CompVis' names
        own = renamed(convert_ldm_vae_checkpoint, {VAE + key: value for key, value in own.items()}, config, place)
    fill(vae, own, dtype, place)
    return vae


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
    if is_safetensors(file) or file.suffix.lower() == ".safetensors":
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
    if not own:  # a file with averages only
        bare = {
            key.removeprefix(EMA): value for key, value in weights.items() if key.startswith(EMA + "diffusion_model")
        }
        return {"model." + dotted(key): value for key, value in bare.items()}
    averaged = {key: EMA + key.removeprefix("model.").replace(".", "") for key in own}
    if missing := [name for name in averaged.values() if name not in weights]:
        raise ValueError(f"{source.path} lacks {len(missing)} EMA weights, first {missing[0]}; set unet.use_ema=false.")
    return {key: weights[name] for key, name in averaged.items()}


def renamed(converter: Any, weights: dict[str, Tensor], config: dict[str, Any], source: Source) -> dict[str, Tensor]:
    """The weights by diffusers' names, by one of diffusers' converters; ValueError where it does not know them."""
    try:
        return converter(dict(weights), config)
    except Exception as error:  # diffusers' converters expect what they find, and raise many kinds
        raise ValueError(f"{source.path} does not fit the configs in {source.configs}: {error!r:.300}.") from error


def text_weights(weights: dict[str, Tensor], prefix: str, text_encoder: Any, source: Source) -> Mapping[str, Tensor]:
    """The weights of a text encoder by their names in this version of transformers, with or without `text_model.`.

    What the encoder does not have is dropped: position_ids of older files, a projection of pooled text, and the layers
    behind the last but one of open_clip's model, which Stable Diffusion 2 does not use.
    """
    if prefix.endswith(".model."):
        from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

        def convert(found: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
            return convert_open_clip_checkpoint(text_encoder, found, prefix)

        weights = renamed(convert, weights, {}, source)
    own = text_encoder.state_dict()
    inner = "text_model."
    kept = inner if any(key.startswith(inner) for key in own) else ""
    named = {}
    for key, value in weights.items():
        bare = key.removeprefix(prefix).removeprefix(inner)
        named[bare if bare.startswith("text_projection") else kept + bare] = value
    layers = text_encoder.config.num_hidden_layers
    unused = re.compile(rf"({inner})?encoder\.layers\.(\d+)\.")
    return {
        key: value
        for key, value in named.items()
        if not key.endswith("position_ids")
        and (key in own or not key.startswith("text_projection"))
        and not ((layer := unused.match(key)) and int(layer[2]) >= layers)
    }


# The words of the names of a UNet's weights in CompVis' code, longer ones before those that they begin with.
_WORDS = re.compile(
    "diffusion_model|input_blocks|output_blocks|middle_block|time_embed|label_emb|in_layers|emb_layers|out_layers|"
    "skip_connection|transformer_blocks|attn1|attn2|to_q|to_k|to_v|to_out|norm1|norm2|norm3|norm|proj_in|proj_out|proj|"
    "ff|net|conv|op|out|weight|bias|[0-9]+"
)
_IN_BLOCKS = ("input_blocks", "output_blocks", "label_emb")  # two numbers follow, of which the second has one digit


def dotted(name: str) -> str:
    """The name of a weight whose dots were left out, as averages are named.

    Parameters
    ----------
    name : str
        Such as "diffusion_modelinput_blocks101in_layers2bias".

    Returns
    -------
    str
        Such as "diffusion_model.input_blocks.10.1.in_layers.2.bias".

    Raises
    ------
    ValueError
        If it is no name of a weight of CompVis' UNet.
    """
    words: list[str] = []
    for word in _WORDS.findall(name):
        words += [word[:-1], word[-1]] if words and words[-1] in _IN_BLOCKS and len(word) > 1 else [word]
    if "".join(words) != name:
        raise ValueError(f"{name} is no averaged weight of a UNet of Stable Diffusion.")
    return ".".join(words)


def unallocated() -> Any:
    """Networks made inside have no memory for parameters yet, but real buffers, which no checkpoint contains."""
    from accelerate import init_empty_weights

    return init_empty_weights(include_buffers=False)


def fill(network: nn.Module, weights: Mapping[str, Tensor], dtype: torch.dtype, source: Source) -> None:
    """Give a network its weights in `dtype`; ValueError unless names and shapes are its own."""
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
