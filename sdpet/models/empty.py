"""UNets and transformers without weights, on the device "meta", from the configs that sdpet ships."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from sdpet.models.source import ARCHITECTURE_OF, ARCHITECTURES

TRANSFORMERS = ("sd3_medium", "sd35_medium", "sd35_large", "flux_dev", "pixart_sigma")


def empty_denoiser(model: str | Path) -> Any:
    """Make the network that removes noise, without weights.

    Parameters
    ----------
    model : str or Path
        sd14, sd15, sd21 or sdxl; sd3_medium, sd35_medium, sd35_large, flux_dev or pixart_sigma; or a folder in
        diffusers' format, of a pipeline or of the network itself.

    Returns
    -------
    ModelMixin
        diffusers' UNet or transformer on the device "meta": it allocates nothing and cannot be run.

    Raises
    ------
    ValueError
        If the name is unknown, or the folder holds no such network.
    """
    return _empty(json.loads(_config(model).read_text(encoding="utf-8")), _config(model))


def block_paths(config: Mapping[str, Any], placement: str | None = None) -> tuple[str, ...]:
    """The paths of the blocks of a network that can carry adapters. Imports torch, and takes a second.

    Parameters
    ----------
    config : mapping
        The network's config.json.
    placement : str, optional
        Written ``din-dout``: only the blocks that it needs.

    Returns
    -------
    tuple of str
        Such as ``down_blocks.0.attentions.0.transformer_blocks.0``, in the order of the network.

    Raises
    ------
    ValueError
        If it is no network of diffusers, or no block has the placement.
    """
    return _paths(json.dumps(config, sort_keys=True), placement)


@lru_cache(maxsize=64)
def _paths(config: str, placement: str | None) -> tuple[str, ...]:
    from sdpet.adapters.routes import carriers, find_routes

    if placement is None:
        return tuple(carriers(_network(config)))
    din, _, dout = placement.partition("-")
    return tuple(find_routes(_network(config), din, dout))


@lru_cache(maxsize=2)
def _network(config: str) -> Any:
    return _empty(json.loads(config), "the config")


def _empty(config: Mapping[str, Any], origin: object) -> Any:
    import diffusers
    import torch

    kind = getattr(diffusers, str(config.get("_class_name")), None)
    if kind is None or not issubclass(kind, diffusers.ModelMixin):
        raise ValueError(f"{origin} names no network of diffusers, but {config.get('_class_name')!r}.")
    with torch.device("meta"):
        return kind.from_config(dict(config))


def _config(model: str | Path) -> Path:
    if model in ARCHITECTURE_OF:
        model = ARCHITECTURES / ARCHITECTURE_OF[str(model)]
    elif model in TRANSFORMERS:
        model = ARCHITECTURES / str(model)
    folder = Path(model).expanduser()
    for path in (folder / "transformer", folder / "unet", folder):
        if (path / "config.json").is_file():
            return path / "config.json"
    named = ", ".join([*ARCHITECTURE_OF, *TRANSFORMERS])
    raise ValueError(f"{model} is neither one of {named} nor a folder in diffusers' format.")
