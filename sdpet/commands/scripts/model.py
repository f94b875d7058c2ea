"""Load the base model and the adapters that the command line names."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpet.commands.scripts.arguments import CHECKPOINT, LAB_SCALE

if TYPE_CHECKING:
    from sdpet.models.base import BaseModel


OPTIONS = ("config", "use_ema", "vae", "prediction")  # of the model, as in the config's group unet


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
    bases = [base for folder in adapters_of(options) if (base := _base_of_run(folder)) is not None]
    if any(base != bases[0] for base in bases):
        raise ValueError("these --adapters were trained on different base models; name one of them by --model.")
    if bases:
        return bases[0]
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

    return {key: value for key, value in untrusted_config(folder).unet.arguments.items() if value is not None}


def adapters_of(options: argparse.Namespace) -> list[Path]:
    """The folders that --adapters names."""
    return [Path(folder).expanduser() for folder in options.adapters or ()]


def strengths_of(options: argparse.Namespace) -> list[float]:
    """The strength of each of the --adapters; ValueError if the numbers of both differ."""
    folders = adapters_of(options)
    if options.strengths is None:
        return [options.adapter_scale] * len(folders)
    if options.adapter_scale != 1:
        raise ValueError("--adapter-scale and --strengths both set the strength; give one of them.")
    if len(options.strengths) != len(folders):
        raise ValueError(
            f"--strengths has {len(options.strengths)} numbers for {len(folders)} --adapters; give one for each."
        )
    return list(options.strengths)


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
    folders, strengths = adapters_of(options), strengths_of(options)
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"--adapters {folder} is not a folder; give the folder of a run, or of saved adapters.")
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if options.use_ema:
        chosen["use_ema"] = True
    chosen |= {key: value for key in ("vae", "prediction") if (value := getattr(options, key)) is not None}
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
    for folder, strength in zip(folders, strengths, strict=True):
        _attach(base, folder, strength, alongside=len(folders) > 1)
    path = chosen.get("path")
    return base, Path(path).expanduser() if path and Path(path).expanduser().is_dir() else None


def _with_option_names(text: str, options: argparse.Namespace) -> str:
    """Replace config keys in an error of `load_base` by the options of this command line."""
    path = "--ckpt" if options.ckpt is not None else "--model"
    names = {"unet.path": path} | {f"unet.{key}": f"--{key.replace('_', '-')}" for key in OPTIONS}
    for key, option in names.items():
        text = text.replace(key, option)
    return text


def _attach(base: BaseModel, folder: Path, strength: float, alongside: bool) -> None:
    from sdpet import methods
    from sdpet.adapters import Adapters
    from sdpet.runs import Record

    if alongside and not methods.combines(folder):
        raise ValueError(
            f"{folder} holds neither adapters nor an imported LoRA file; only these can be combined, so give it alone."
        )
    record = Record.readable(folder)
    if record is not None and (changed := record.changed_weights(folder)):
        raise ValueError(
            f"{changed[0]} since the run ended; put back the file as it was, or take it without record.json."
        )
    handle: Any = methods.load(base, folder, alongside=alongside, strict=True)
    has_strength = isinstance(handle, methods.PeftTuning) and handle.spec.scale is not None
    if has_strength or isinstance(handle, Adapters | methods.FileTuning):
        handle.scale(strength)
    elif strength == 0:
        handle.disable()
    elif strength != 1:
        kind = "the weights of full fine-tuning"
        if isinstance(handle, methods.EmbeddingTuning):
            kind = "a token's embedding"
        elif isinstance(handle, methods.PeftTuning):
            kind = f"weights of {handle.spec.method}"
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
