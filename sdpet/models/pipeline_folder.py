"""A pipeline folder in diffusers' format: its parts, configs and weights. Does not import torch."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sdpet.files.hashing import PIPELINE_PARTS, WEIGHTS
from sdpet.files.received import read_json

MOST_BYTES = 4 << 20  # of a config
XL_PARTS = ("text_encoder_2", "tokenizer_2")
THIRD_PARTS = ("text_encoder_3", "tokenizer_3")
PARTS_WITH_WEIGHTS = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")
TRANSFORMERS = ("SD3Transformer2DModel", "FluxTransformer2DModel", "PixArtTransformer2DModel")  # classes we can load
_WHOLE = re.compile(r"^(diffusion_pytorch_model|model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)$")


def read_config(file: Path) -> dict[str, Any]:
    """Read the config of a part. FileNotFoundError where there is none, ValueError where it is no mapping."""
    found = read_json(file, MOST_BYTES)
    if not isinstance(found, dict):
        raise ValueError(f"{file} is not the config of a model.")
    return found


def parts_of(folder: Path, shared: Path | None = None) -> tuple[str, ...]:
    """Names of a pipeline's parts, the denoiser first. Some models have several text encoders with their tokenizers.

    Parameters
    ----------
    folder : Path
        The pipeline.
    shared : Path, optional
        A pipeline that has the parts which `folder` lacks; a transformer is never combined with further text encoders.
    """
    if (folder / "transformer").is_dir():
        further = [] if shared is not None else [part for part in XL_PARTS + THIRD_PARTS if (folder / part).is_dir()]
        return ("transformer", *PIPELINE_PARTS[1:], *further)
    try:
        unet = read_config(folder / "unet" / "config.json")
    except (OSError, ValueError):
        return PIPELINE_PARTS
    return PIPELINE_PARTS + (XL_PARTS if unet.get("addition_embed_type") == "text_time" else ())


def check_folder(folder: Path) -> None:
    """Raise ValueError unless a folder is a pipeline that has all its parts with weights."""
    format_ = "unet.path must be a Stable Diffusion pipeline folder in diffusers' format, with"
    if not folder.is_dir():
        raise ValueError(
            f"the base model's folder {folder} does not exist; {format_} {', '.join(PIPELINE_PARTS)}, a hub id or a "
            "checkpoint file."
        )
    parts = parts_of(folder)
    missing = [part for part in parts if not (folder / part).is_dir()]
    if missing:
        raise ValueError(f"the base model's folder {folder} lacks {', '.join(missing)}; {format_} {', '.join(parts)}.")
    for part in parts:
        if part in PARTS_WITH_WEIGHTS and not (weights_of(folder / part) or weights_of(folder / part, "fp16")):
            raise ValueError(f"the base model's folder {folder} has no weights in {part} (.safetensors or .bin).")
    if parts[0] == "transformer":
        check_transformer(folder / "transformer")


def check_transformer(folder: Path) -> None:
    """Raise ValueError unless the folder's config names a transformer that can be loaded."""
    try:
        kind = read_config(folder / "config.json")["_class_name"]
    except (OSError, ValueError, KeyError):
        raise ValueError(f"{folder} has no config.json that names its class (_class_name).") from None
    if kind not in TRANSFORMERS:
        raise ValueError(f"{folder} is a {kind}; sdpet loads UNet2DConditionModel and {', '.join(TRANSFORMERS)}.")


def weights_of(folder: Path, variant: str | None = None) -> list[Path]:
    """Files of a part's weights of this variant, or without variant; .bin files only if there is no .safetensors."""
    kind = f".{variant}" if variant else ""
    found = [file for file in files_of(folder) if file.suffix in (".safetensors", ".bin")]
    names = {file: file.name.replace(kind, "", 1) if kind in file.name else "" for file in found}
    fitting = [file for file in found if _WHOLE.match(names[file] if variant else file.name)]
    safe = [file for file in fitting if file.suffix == ".safetensors"]
    return safe or fitting


def loaded_files(folder: Path, parts: tuple[str, ...]) -> list[Path]:
    """The files that loading reads. Other formats of the same weights, which tools may add later, are left out."""
    chosen: list[Path] = []
    for part in parts:
        weights = weights_of(folder / part) or weights_of(folder / part, "fp16")
        rest = [file for file in files_of(folder / part) if file.suffix in (".json", ".txt") and not _is_index(file)]
        chosen += sorted([*weights, *rest])
    return chosen


def config_files(folder: Path) -> list[Path]:
    """The configs of a part."""
    return [file for file in files_of(folder) if file.suffix == ".json" and not _is_index(file)]


def _is_index(file: Path) -> bool:
    return ".index." in file.name


def files_of(folder: Path) -> list[Path]:
    """All files of a part that may hold weights, configs or vocabulary, sorted."""
    return [file for file in sorted(folder.rglob("*")) if file.name.lower().endswith(WEIGHTS)]
