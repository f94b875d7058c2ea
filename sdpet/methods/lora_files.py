"""Files of LoRA and its relatives that other tools wrote: read as a design to compare with."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdpet.files.received import read_json
from sdpet.methods.file_tuning import save_file
from sdpet.methods.layer_names import layer_path
from sdpet.methods.layer_updates import ALPHA, FACTORS, LENGTHS, kind_of, rank_of
from sdpet.methods.saved import read_weights

PEFT_CONFIG, _PEFT = "adapter_config.json", "base_model.model."
_MAGNITUDE = "lora_magnitude_vector"  # peft's name of DoRA's lengths
_PARTS = {"lora_A": "lora_down", "lora_B": "lora_up", "down": "lora_down", "up": "lora_up", _MAGNITUDE: LENGTHS}
READS = "LoRA, DoRA, LoHa and LoKr of linear layers and convolutions"


def import_lora(file: str | Path, out: str | Path) -> tuple[int, int]:
    """Read a file of LoRA, LoCon, DoRA, LoHa or LoKr, and write it as a design of sdpet.

    Parameters
    ----------
    file : str or Path
        A .safetensors file of kohya's scripts, LyCORIS, diffusers or peft. Ranks and strengths may differ from layer to
        layer. Without a strength it is 1. peft keeps strengths in adapter_config.json, which must lie beside its file.
    out : str or Path
        The folder to write, which `sdpet.methods.load` reads.

    Returns
    -------
    (int, int)
        Number of layers, and the largest rank; 0 if no layer has one.

    Raises
    ------
    ValueError
        If the file holds none of these, or more; the sentence names the first such layer and says why.
    """
    read = read_lora(Path(file))
    save_file(Path(out), read)
    return len(read), max(rank_of(factors) or 0 for factors in read.values())


def read_lora(file: Path) -> dict[str, dict[str, Tensor]]:
    """Read a file of LoRA, LoCon, DoRA, LoHa or LoKr.

    Parameters
    ----------
    file : Path
        See `import_lora`, which raises the same errors.

    Returns
    -------
    dict of str to dict of str to Tensor
        The factors of each layer (`Update`) by its path, such as ``unet.mid_block.attentions.0.proj_in``.
    """
    tensors = read_weights(file)
    layers = _layers(file, tensors)
    alpha_of = _alphas(file, any(key.startswith(_PEFT) for key in tensors))
    return {path: _complete(file, path, parts, partial(alpha_of, path)) for path, parts in layers.items()}


def _layers(file: Path, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The parts of each layer by its path; ValueError if there are others than `READS`."""
    layers: dict[str, dict[str, Tensor]] = {}
    unknown, strange = set(), {}
    for key, value in sorted(tensors.items()):
        name, _, part = key.removesuffix(".weight").removesuffix(".default").rpartition(".")
        known = _PARTS.get(part, part)
        path = layer_path(name)
        if not (FACTORS.fullmatch(known) or known in (ALPHA, LENGTHS)):
            strange[name] = part
        elif path is None:
            unknown.add(name)
        elif known in layers.setdefault(path, {}):
            raise ValueError(f"{file} holds the {part} of {path} twice, under two names, so it is not read.")
        else:
            layers[path][known] = value.reshape(-1, 1) if part == _MAGNITUDE else value  # lengths of rows
    if not layers and not any(FACTORS.search(key) for key in tensors):
        raise ValueError(f"{file} holds none of {READS}, in the names of kohya's scripts, LyCORIS, diffusers or peft.")
    rest = "so without it this would not be the same design, and the file is not read"
    if strange:
        name = min(strange)
        raise ValueError(
            f"{file} holds {strange[name]} of the layer {name} ({len(strange)} such layers), and only {READS} are "
            f"read, {rest}."
        )
    if unknown:
        raise ValueError(
            f"{file} changes {min(unknown)} ({len(unknown)} such layers), which is no linear layer or convolution of "
            f"Stable Diffusion's UNet or CLIP's text encoders, {rest}."
        )
    return layers


def _complete(
    file: Path, path: str, parts: Mapping[str, Tensor], alpha_of: Callable[[int | None], float | None]
) -> dict[str, Tensor]:
    """The factors of a layer as `Update` takes them: float32, with alpha where there is one, without lora_mid."""
    factors = {part: value.float() for part, value in parts.items()}
    if "lora_mid" in factors and {"lora_down", "lora_up"} <= factors.keys():
        factors = _without_core(file, path, factors)
    if kind_of(factors) is None:
        raise ValueError(
            f"{file} holds {', '.join(sorted(factors))} of the layer {path}, and these are not the factors of a LoRA, "
            "LoHa or LoKr."
        )
    if LENGTHS in factors and factors.get("lora_down", factors[LENGTHS]).dim() == 4 > factors[LENGTHS].dim():
        factors[LENGTHS] = factors[LENGTHS].reshape(*factors[LENGTHS].shape, 1, 1)
    rank = rank_of(factors)
    if rank is None:  # a Kronecker product of whole matrices: only peft gives it a strength
        factors.pop(ALPHA, None)
        strength = alpha_of(None)
        return factors if strength is None else {**factors, "lokr_w1": factors["lokr_w1"] * strength}
    if ALPHA in factors:
        factors[ALPHA] = factors[ALPHA].reshape(())
    elif (alpha := alpha_of(rank)) is not None:
        factors[ALPHA] = torch.tensor(alpha)
    return factors


def _without_core(file: Path, path: str, factors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A Tucker-decomposed LoRA as a plain one: the core goes into lora_down."""
    core = factors.pop("lora_mid")  # (r, r, k, k)
    down = factors["lora_down"].flatten(1)  # (r, c_in)
    if core.dim() != 4 or core.shape[1] != len(down):
        raise ValueError(f"{file} holds a lora_mid of the layer {path} that does not fit its lora_down.")
    return {**factors, "lora_down": torch.einsum("ijkl,jc->ickl", core, down).contiguous()}


def _alphas(file: Path, is_peft: bool) -> Callable[[str, int | None], float | None]:
    """Alpha by path and rank, where the file's header (diffusers) or adapter_config.json (peft) says it.

    Where there is no rank, it is the strength instead.
    """
    told = _config(file) if is_peft else _header(file)

    def alpha_of(path: str, rank: int | None) -> float | None:
        part, _, inner = path.partition(".")
        begins = "" if is_peft else f"{part}."
        own = {key.removeprefix(begins): value for key, value in told.items() if key.startswith(begins)}
        alpha = _by_pattern(file, own.get("alpha_pattern"), inner, own.get("lora_alpha", own.get("alpha")))
        if not isinstance(alpha, int | float):
            return None
        if rank is None:
            return float(alpha) / float(_by_pattern(file, own.get("rank_pattern"), inner, own.get("r")) or alpha)
        return float(alpha) * (rank**0.5 if own.get("use_rslora") else 1)

    return alpha_of


def _by_pattern(file: Path, patterns: Any, path: str, default: Any) -> Any:
    """A value that peft's config gives for layers with certain endings."""
    for name, value in (patterns if isinstance(patterns, dict) else {}).items():
        ending = name.removeprefix("^")
        if re.fullmatch(r"[\w.]+", ending) is None:
            raise ValueError(f"{file} sets alpha by the regular expression {name!r}; only names of layers are read.")
        if path == ending or (ending == name and path.endswith(f".{ending}")):
            return value
    return default


def _config(file: Path) -> dict[str, Any]:
    """peft's config, which lies beside its file."""
    beside = file.parent / PEFT_CONFIG
    if not beside.is_file():
        raise ValueError(f"{file} is peft's, which keeps strengths in {PEFT_CONFIG}; put that file beside it.")
    told = read_json(beside)
    return told if isinstance(told, dict) else {}


def _header(file: Path) -> dict[str, Any]:
    """What diffusers writes into a file's header, by part."""
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        text = (opened.metadata() or {}).get("lora_adapter_metadata", "{}")
    try:
        told = json.loads(text)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}
