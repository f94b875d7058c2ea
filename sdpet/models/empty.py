"""UNets and transformers without weights, on the device "meta", from the configs that sdpet ships."""

from __future__ import annotations

import json
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
    import diffusers
    import torch

    config = json.loads(_config(model).read_text(encoding="utf-8"))
    kind = getattr(diffusers, str(config.get("_class_name")), None)
    if kind is None or not issubclass(kind, diffusers.ModelMixin):
        raise ValueError(f"{_config(model)} names no network of diffusers, but {config.get('_class_name')!r}.")
    with torch.device("meta"):
        return kind.from_config(config)


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
