"""LoRA files of other tools: read as a design to compare with, and written for them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdpet.adapters.parts import UNET, where_of
from sdpet.files.atomic import write_atomic
from sdpet.methods.lora import ATTENTION, FEED_FORWARD, LoraTuning
from sdpet.methods.saved import read_design, read_weights, write_design, write_weights

FORMATS = ("diffusers", "kohya", "comfy")
_TEXT = r"text_encoder\w*\.text_model\.encoder\.layers\.\d+"
_PROJECTIONS = {
    ATTENTION: re.compile(
        rf"unet\..+transformer_blocks\.\d+\.attn[12]\.(to_q|to_k|to_v|to_out\.0)|{_TEXT}\.self_attn\.(q|k|v|out)_proj"
    ),
    FEED_FORWARD: re.compile(rf"unet\..+transformer_blocks\.\d+\.ff\.net\.(0\.proj|2)|{_TEXT}\.mlp\.fc[12]"),
}
# What kohya's names begin with, by diffusers' name of the part; with one text encoder and with two.
_KOHYA = {"unet": ("lora_unet_",), "text_encoder": ("lora_te_", "lora_te1_"), "text_encoder_2": ("lora_te2_",)}
_SIDES = {"lora_down": "lora_A", "lora_up": "lora_B", "lora_A": "lora_A", "lora_B": "lora_B"}
# The words of the paths of these layers, in diffusers' and in the original names.
_WORDS = re.compile(
    "down_blocks|up_blocks|mid_block|input_blocks|output_blocks|middle_block|attentions|transformer_blocks|attn1|attn2|"
    "to_q|to_k|to_v|to_out|ff|net|proj|text_model|encoder|layers|self_attn|mlp|q_proj|k_proj|v_proj|out_proj|fc1|fc2|"
    "[0-9]+"
)


def export_format(folder: str | Path, out: str | Path, kind: str) -> int:
    """Write the LoRA of a run for another tool.

    Parameters
    ----------
    folder : str or Path
        Of a run with LoRA.
    out : str or Path
        The .safetensors file to write.
    kind : {"diffusers", "kohya", "comfy"}
        ComfyUI and AUTOMATIC1111 read kohya's format, with diffusers' names of layers.

    Returns
    -------
    int
        Number of projections.

    Raises
    ------
    ValueError
        If the run's design has no place in such a file; the sentence says why.
    """
    folder = Path(folder)
    if not (folder / "lora.json").is_file() or not (folder / LoraTuning.FILE).is_file():
        why = "holds no LoRA; give the folder of a finished run with adapter=lora"
        if (folder / "adapters.json").is_file():
            why = (
                "holds adapters that read at one place and write at another, and such files have updates of a layer's "
                "own weights only; sdpet.load_adapters puts them into a pipeline"
            )
        elif (folder / "peft.json").is_file():
            why = "holds a method of peft, which peft's own files keep: PeftModel.from_pretrained reads the folder"
        raise ValueError(f"{folder} {why}.")
    tensors = read_weights(folder / LoraTuning.FILE)
    strange = [key for key in tensors if not key.startswith("text_encoder")]
    if kind != "diffusers" and any("attn1" not in key and "attn2" not in key and ".ff." not in key for key in strange):
        raise ValueError(
            f"{folder} holds LoRA of a transformer, whose layers have other names in kohya's files; use --format "
            "diffusers, which diffusers' pipelines load."
        )
    if kind == "diffusers":
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(Path(out), lambda partial: shutil.copyfile(folder / LoraTuning.FILE, partial))
    else:
        write_weights(Path(out), _in_kohyas_names(tensors, read_design(folder / "lora.json")), {"format": "pt"})
    return len(tensors) // 2


def _in_kohyas_names(tensors: Mapping[str, Tensor], design: Mapping[str, float]) -> dict[str, Tensor]:
    """``lora_unet_<path with underscores>.lora_down.weight``, ``.lora_up.weight`` and ``.alpha`` of each projection.

    Those of the text encoder begin with lora_te, of two text encoders with lora_te1 and lora_te2. alpha is
    rank * scale, from which readers take the strength.
    """
    names = {"lora_A": "lora_down", "lora_B": "lora_up"}
    two = any(key.startswith("text_encoder_2.") for key in tensors)
    written: dict[str, Tensor] = {}
    for key, value in tensors.items():
        path, side, _ = key.rsplit(".", 2)
        part, _, inner = path.partition(".")
        begins = _KOHYA.get(part, ("lora_unet_",))
        inner = inner if part in _KOHYA else path
        layer = begins[-1 if two else 0] + inner.replace(".", "_")
        written[f"{layer}.{names[side]}.weight"] = value
        written[f"{layer}.alpha"] = torch.tensor(float(design["rank"] * design["scale"]))
    return written


def import_lora(file: str | Path, out: str | Path) -> tuple[int, int]:
    """Read a LoRA file of kohya's scripts or of diffusers, and write it as a design of sdpet.

    Layers of different ranks are filled up with zeros, and different strengths go into the weights: the updates stay
    what they were.

    Parameters
    ----------
    file : str or Path
        A .safetensors file whose updates are those of the projections of attention, of feed-forwards, or of both, in
        the UNet, in the text encoder, or in both.
    out : str or Path
        The folder to write, which `sdpet.methods.load` reads.

    Returns
    -------
    (int, int)
        Number of projections, and the rank.

    Raises
    ------
    ValueError
        If the file is no such LoRA, or changes other layers, too; the sentence names the first one.
    """
    tensors = read_weights(Path(file))
    layers: dict[str, dict[str, Tensor]] = {}
    others, strange = [], []
    for key, value in tensors.items():
        name, _, part = key.removesuffix(".weight").rpartition(".")
        path = _place(name)
        if path is None:
            others.append(name)
        elif part not in (*_SIDES, "alpha"):
            strange.append(key)
        else:
            layers.setdefault(path, {})[_SIDES.get(part, part)] = value
    if strange:
        raise ValueError(
            f"{file} holds more than LoRA's two matrices of a layer ({len(strange)} weights, first {min(strange)}), as "
            "DoRA, LoHa, LoKr and Tucker-decomposed files do, so it is not read."
        )
    if not layers and any(re.search(r"lora_(down|up|A|B)(\.|$)", key) for key in tensors):
        raise ValueError(
            f"{file} changes no attention and no feed-forward; its first layer is {min(others)}, and such LoRA is not "
            "read."
        )
    if not layers or any({"lora_A", "lora_B"} - parts.keys() for parts in layers.values()):
        raise ValueError(f"{file} holds no LoRA of attention or feed-forwards in kohya's or diffusers' names.")
    if others:
        raise ValueError(
            f"{file} changes other layers than attention and feed-forwards, too ({len(set(others))} layers, first "
            f"{min(others)}); without them it would not be the same LoRA, so it is not read."
        )
    named, rank, scale = _alike(layers, _alphas(file))
    folder = Path(out)
    meta: dict[str, Any] = {"format": 1, "method": "lora", "rank": rank, "scale": scale}
    if (where := where_of(layers)) != UNET:
        meta["where"] = where
    found = {
        part: [name for name, of in _PROJECTIONS.items() if any(of.fullmatch(p) for p in layers if _part(p) == part)]
        for part in dict.fromkeys(map(_part, layers))
    }
    first = next(iter(found.values()))
    if any(names != first for names in found.values()):
        meta["layers"] = found
    elif first != [ATTENTION]:
        meta["layers"] = first
    meta["parameters"] = sum(value.numel() for value in named.values())
    write_design(folder / "lora.json", meta)
    write_weights(folder / LoraTuning.FILE, named, {"format": "pt"})
    return len(layers), rank


def _part(path: str) -> str:
    return path.partition(".")[0]


def _alphas(file: str | Path) -> dict[str, float]:
    """The alpha of all layers of each part, where diffusers has put it into the file's header."""
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        told = (opened.metadata() or {}).get("lora_adapter_metadata", "{}")
    try:
        known = json.loads(told)
        return {part: float(known[f"{part}.lora_alpha"]) for part in _KOHYA if f"{part}.lora_alpha" in known}
    except (ValueError, TypeError):
        return {}


def _alike(
    layers: Mapping[str, Mapping[str, Tensor]], alphas: Mapping[str, float]
) -> tuple[dict[str, Tensor], int, float]:
    """The weights of all layers by diffusers' names, at one rank and one strength, and these.

    A layer without an alpha of its own has its part's, or else its rank, which is a strength of 1.
    """
    ranks = {path: len(parts["lora_A"]) for path, parts in layers.items()}
    rank = max(ranks.values())
    scales = {
        path: float(parts.get("alpha", alphas.get(_part(path)) or ranks[path])) / ranks[path]
        for path, parts in layers.items()
    }
    scale = next(iter(scales.values())) or 1.0
    named: dict[str, Tensor] = {}
    for path, parts in layers.items():
        down = parts["lora_A"].float().flatten(1)  # (r, in); convolutions of one pixel have two more dimensions
        up = parts["lora_B"].float().flatten(1) * (scales[path] / scale)  # (out, r)
        more = rank - len(down)
        named[f"{path}.lora_A.weight"] = torch.nn.functional.pad(down, (0, 0, 0, more)).contiguous()
        named[f"{path}.lora_B.weight"] = torch.nn.functional.pad(up, (0, more)).contiguous()
    return named, rank, scale


def _place(name: str) -> str | None:
    """The part and path of a layer that kohya's scripts or diffusers name; None if it is no projection."""
    for part, kohyas in _KOHYA.items():
        begins = next((begins for begins in kohyas if name.startswith(begins)), None)
        if begins is not None:
            words = _WORDS.findall(name.removeprefix(begins))
            path = ".".join(words) if "_".join(words) == name.removeprefix(begins) else ""
        elif name.startswith(f"{part}."):
            path = name.removeprefix(f"{part}.").replace(".processor.", ".").removesuffix("_lora")
        else:
            continue
        found = f"{part}.{_in_diffusers_names(path)}"
        return found if any(pattern.fullmatch(found) for pattern in _PROJECTIONS.values()) else None
    return None


def _in_diffusers_names(path: str) -> str:
    """A path in a UNet, also in the original numbering, by diffusers' names."""
    path = re.sub(r"^input_blocks\.(\d+)\.1", lambda m: _block("down_blocks", int(m[1]) - 1), path)
    path = re.sub(r"^output_blocks\.(\d+)\.1", lambda m: _block("up_blocks", int(m[1])), path)
    path = re.sub(r"^middle_block\.1", "mid_block.attentions.0", path)
    return re.sub(r"to_out$", "to_out.0", path)


def _block(side: str, number: int) -> str:
    """An attention of the original numbering, which counts the layers of all levels; a level has three numbers."""
    return f"{side}.{number // 3}.attentions.{number % 3}"
