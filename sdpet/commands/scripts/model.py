"""Which base model and which adapters the command line names."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpet.commands.scripts.arguments import CHECKPOINT, LAB_SCALE

if TYPE_CHECKING:
    from sdpet.models.base import BaseModel


def model_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """Arguments of `load_base` (name, path, ...): --model, else --ckpt, else the base that the adapters' run used, else
    the checkpoint where the public scripts expect it. ValueError where none of these is there."""
    if options.model is not None and options.ckpt is not None:
        raise ValueError("--model and --ckpt both name a base model; give one of them.")
    if options.model == "lab":
        return {"name": "lab", "path": None}
    if (given := options.model or options.ckpt) is not None:
        return {"name": Path(given).name, "path": given}
    if options.adapters is not None and (run := _base_of_run(Path(options.adapters).expanduser())) is not None:
        return run
    if not Path(CHECKPOINT).is_file():
        raise ValueError(
            f"there is no checkpoint {CHECKPOINT}; give --ckpt FILE, or --model with a diffusers folder, a hub id, or "
            "lab (the small model that comes with sdpet and needs nothing)."
        )
    return {"name": "model", "path": CHECKPOINT}


def _base_of_run(folder: Path) -> dict[str, Any] | None:
    """What the run in the folder was trained on; None if it holds adapters only."""
    if not (folder / "config.yaml").is_file():
        return None
    from sdpet.runs.stored import stored_config

    unet = stored_config(folder).unet
    found = {key: getattr(unet, key) for key in ("name", "path", "use_ema", "config", "image_size")}
    return {key: value for key, value in found.items() if value} | ({} if unet.path else {"name": "lab"})


def load(options: argparse.Namespace) -> tuple[BaseModel, Path | None]:
    """The base model with its adapters attached, and the model's folder if it is one here.

    ValueError in one sentence for what is missing, does not fit or cannot be.
    """
    import torch

    from sdpet.commands.scripts.ldm_config import write_configs
    from sdpet.models.load import load_base

    chosen = model_arguments(options)
    if options.adapters is not None and not Path(options.adapters).expanduser().is_dir():
        raise ValueError(f"--adapters {options.adapters} is no folder; give that of a run, or of saved adapters.")
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if options.use_ema:
        chosen["use_ema"] = True
    with tempfile.TemporaryDirectory() as scratch:
        if options.config is not None:
            config = Path(options.config).expanduser()
            is_yaml = config.suffix.lower() in (".yaml", ".yml")
            chosen["config"] = write_configs(config, Path(scratch)) if is_yaml else config
        try:
            base = load_base(**chosen, device=device)
        except ValueError as error:
            raise ValueError(_in_our_words(str(error), options)) from error
    _check_sizes(base, options)
    if options.adapters is not None:
        _attach(base, Path(options.adapters).expanduser(), options.adapter_scale)
    path = chosen.get("path")
    return base, Path(path).expanduser() if path and Path(path).expanduser().is_dir() else None


def _in_our_words(text: str, options: argparse.Namespace) -> str:
    """An error of `load_base`, which names keys of a study's config, with the options of this command line."""
    path = "--ckpt" if options.ckpt is not None else "--model"
    for key, option in (("unet.path", path), ("unet.config", "--config"), ("unet.use_ema", "--use-ema")):
        text = text.replace(key, option)
    return text


def _attach(base: BaseModel, folder: Path, strength: float) -> None:
    from sdpet import methods
    from sdpet.adapters import Adapters

    handle: Any = methods.load(base, folder)
    if isinstance(handle, Adapters):
        handle.scale(strength)
    elif isinstance(handle, methods.LoraTuning):
        for layer in base.unet.modules():
            if hasattr(layer, "lora_A"):
                layer.scale_layer(strength)
    elif strength == 0:
        handle.disable()
    elif strength != 1:
        kind = (
            "a token's embedding" if isinstance(handle, methods.EmbeddingTuning) else "the weights of full fine-tuning"
        )
        raise ValueError(f"--adapter-scale must be 0 or 1 for {folder}, which holds {kind}, not adapters.")


def _check_sizes(base: BaseModel, options: argparse.Namespace) -> None:
    for name, given, own in (
        ("--C", options.C, base.latent_shape[0]),
        ("--f", options.f, base.downsampling),
    ):
        if given is not None and given != own:
            raise ValueError(f"{name} {given} does not fit the model, whose value is {own}; leave {name} out.")


def scale_of(options: argparse.Namespace, base: BaseModel, default: float) -> float:
    """Guidance as given, else the script's default; of the lab, what suits it."""
    if options.scale is not None:
        return options.scale
    return LAB_SCALE if base.name == "lab" else default
