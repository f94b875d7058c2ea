"""The weights of a single file of Stable Diffusion 3 or Flux as diffusers' transformer and what else the file holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from sdpet.models.compvis.load import fill, read_weights, renamed, text_weights, unallocated
from sdpet.models.compvis.transformer_file import T5, TEXTS, VAES
from sdpet.models.source import Source


def load_transformer_file(
    source: Source, kinds: Mapping[str, Any], dtype: Callable[[str], torch.dtype]
) -> dict[str, Any]:
    """Load the networks that a single file holds.

    Parameters
    ----------
    source : Source
        With `single`.
    kinds : mapping of str to class
        The class of each part to load, by its name: "transformer", "vae", "text_encoder", ...
    dtype : callable
        Takes the name of a part and returns its dtype.

    Returns
    -------
    dict of str to nn.Module
        The parts of `kinds`, on the CPU.

    Raises
    ------
    ValueError
        Weights do not fit the configs, are left over or are quantised; the message names the first.
    """
    assert source.single is not None
    weights = read_weights(source.path)
    family, prefix = source.single.family, source.single.prefix
    networks = {}
    for part, kind in kinds.items():
        config = source.config(part)
        with unallocated():
            networks[part] = (
                kind.from_config(config) if hasattr(kind, "from_config") else kind(kind.config_class(**config))
            )
        if part == "transformer":
            own = _transformer(family, {k: v for k, v in weights.items() if _is_transformer(k, prefix)}, source)
        elif part == "vae":
            from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

            begin = next(begin for begin in VAES if any(key.startswith(begin) for key in weights))
            own = renamed(convert_ldm_vae_checkpoint, _beginning(weights, begin), config, source)
        elif TEXTS[family][part] == T5:
            own = {key.removeprefix(T5): value for key, value in _beginning(weights, T5).items()}
            own["encoder.embed_tokens.weight"] = own["shared.weight"]
        else:
            begin = TEXTS[family][part]
            own = dict(text_weights(_beginning(weights, begin), begin, networks[part], source))
        _refuse_quantised(own, source)
        fill(networks[part], own, dtype(part), source)
        if hasattr(networks[part], "tie_weights"):
            networks[part].tie_weights()  # T5 has two modules for its table
    return networks


def _beginning(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key: value for key, value in weights.items() if key.startswith(prefix)}


def _is_transformer(key: str, prefix: str) -> bool:
    return key.startswith(prefix) if prefix else not key.startswith(("text_encoders.", *VAES))


def _transformer(family: str, weights: dict[str, Tensor], source: Source) -> dict[str, Tensor]:
    from diffusers.loaders import single_file_utils as converters

    convert = {
        "sd3": converters.convert_sd3_transformer_checkpoint_to_diffusers,
        "flux": converters.convert_flux_transformer_checkpoint_to_diffusers,
    }[family]
    left: dict[str, Tensor] = {}

    def converted(found: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
        own = convert(found)  # takes what it knows out of `found`
        left.update(found)
        return own

    own = renamed(converted, weights, {}, source)
    if left:
        raise ValueError(
            f"{source.path} holds {len(left)} weights that the model does not have, first {min(left)}; if it is "
            "quantised, give a file in 16 or 32 bits."
        )
    return own


def _refuse_quantised(weights: Mapping[str, Tensor], source: Source) -> None:
    for key, value in weights.items():
        if not value.is_floating_point():
            raise ValueError(f"{source.path} is quantised ({key} is {value.dtype}); give a file in 16 or 32 bits.")
