"""Load the base model and the adapters that the command line names."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpet.commands.scripts.arguments import CHECKPOINT, LAB_SCALE

if TYPE_CHECKING:
    from sdpet.models.base import BaseModel


def model_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """Choose the base model: --model, else --ckpt, else the adapters' own base, else the public scripts' checkpoint.

    Parameters
    ----------
    options : Namespace
        The command line.

    Returns
    -------
    dict
        Arguments of `load_base`.

    Raises
    ------
    ValueError
        None of these exists, or two are given.
    """
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
            "lab (the small model that comes with sdpet)."
        )
    return {"name": "model", "path": CHECKPOINT}


def _base_of_run(folder: Path) -> dict[str, Any] | None:
    """The base model of the run in the folder; None if the folder has adapters only."""
    if not (folder / "config.yaml").is_file():
        return None
    from sdpet.runs.stored import untrusted_config

    unet = untrusted_config(folder).unet
    found = {
        key: getattr(unet, key) for key in ("name", "path", "use_ema", "config", "image_size", "vae", "prediction")
    }
    return {key: value for key, value in found.items() if value} | ({} if unet.path else {"name": "lab"})


def load(options: argparse.Namespace) -> tuple[BaseModel, Path | None]:
    """Load the base model and attach the adapters.

    Parameters
    ----------
    options : Namespace
        The command line.

    Returns
    -------
    base : BaseModel
        The model with its adapters attached.
    folder : Path or None
        The model's folder, if it is a local folder.

    Raises
    ------
    ValueError
        A file is missing, or an option does not fit the model; the message is one sentence.
    """
    import torch

    from sdpet.commands.scripts.ldm_config import write_configs
    from sdpet.models.load import load_base

    chosen = model_arguments(options)
    if options.adapters is not None and not Path(options.adapters).expanduser().is_dir():
        raise ValueError(
            f"--adapters {options.adapters} is not a folder; give the folder of a run, or of saved adapters."
        )
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
            raise ValueError(_with_option_names(str(error), options)) from error
    _check_sizes(base, options)
    if options.adapters is not None:
        _attach(base, Path(options.adapters).expanduser(), options.adapter_scale)
    path = chosen.get("path")
    return base, Path(path).expanduser() if path and Path(path).expanduser().is_dir() else None


def _with_option_names(text: str, options: argparse.Namespace) -> str:
    """Replace config keys in an error of `load_base` by the options of this command line."""
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
    """The scale of guidance: --scale, else the default of the lab or of the script."""
    if options.scale is not None:
        return options.scale
    return LAB_SCALE if base.name == "lab" else default
