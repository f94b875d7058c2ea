"""LoRA and its relatives written for other tools."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sdpet.files.atomic import write_atomic
from sdpet.methods.file_tuning import FileTuning, read_file
from sdpet.methods.layer_names import TRANSFORMER, kohya_name, layer_path
from sdpet.methods.layer_updates import ALPHA, LENGTHS, axis_of, kind_of
from sdpet.methods.lora import LoraTuning
from sdpet.methods.saved import read_design, read_weights, write_weights

FORMATS = ("diffusers", "kohya", "comfy")
_FACTORS = {"lora_A": "lora_down", "lora_B": "lora_up"}
_PEFT_NAMES = {"lora_down": "lora_A.weight", "lora_up": "lora_B.weight", LENGTHS: "lora_magnitude_vector"}


def export_format(folder: str | Path, out: str | Path, kind: str) -> int:
    """Write the LoRA of a run, or a file that was imported, for another tool.

    Parameters
    ----------
    folder : str or Path
        Of a run with LoRA, or what `import_lora` wrote.
    out : str or Path
        The .safetensors file to write.
    kind : {"diffusers", "kohya", "comfy"}
        ComfyUI and AUTOMATIC1111 read kohya's format, with diffusers' names of layers.

    Returns
    -------
    int
        Number of layers.

    Raises
    ------
    ValueError
        If the design has no place in such a file; the sentence says why.
    """
    folder, out = Path(folder), Path(out)
    if (folder / FileTuning.DESIGN).is_file():
        _, layers = read_file(folder)
        if kind == "diffusers":
            write_weights(out, _for_diffusers(folder, layers), {"format": "pt"})
            return len(layers)
    else:
        layers = _lora_of_run(folder)
        if kind == "diffusers":
            out.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(out, lambda partial: shutil.copyfile(folder / LoraTuning.FILE, partial))
            return len(layers)
    write_weights(out, _in_kohyas_names(folder, layers), {"format": "pt"})
    return len(layers)


def _lora_of_run(folder: Path) -> dict[str, dict[str, Tensor]]:
    """The factors of each layer of a run with LoRA."""
    if not (folder / LoraTuning.DESIGN).is_file() or not (folder / LoraTuning.FILE).is_file():
        why = "holds no LoRA; give the folder of a finished run with adapter=lora"
        if (folder / "adapters.json").is_file():
            why = (
                "holds adapters that read at one place and write at another, and such files have updates of a layer's "
                "own weights only; sdpet.load_adapters puts them into a pipeline"
            )
        elif (folder / "peft.json").is_file():
            why = "holds a method of peft, which peft's own files keep: PeftModel.from_pretrained reads the folder"
        raise ValueError(f"{folder} {why}.")
    design = read_design(folder / LoraTuning.DESIGN)
    alpha = float(design["rank"] * design["scale"])
    layers: dict[str, dict[str, Tensor]] = {}
    for key, value in read_weights(folder / LoraTuning.FILE).items():
        path, side, _ = key.rsplit(".", 2)
        layers.setdefault(path, {ALPHA: torch.tensor(alpha)})[_FACTORS[side]] = value
    return layers


def _in_kohyas_names(folder: Path, layers: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """``lora_unet_<path with underscores>.lora_down.weight``, ``.lora_up.weight`` and ``.alpha`` of each layer.

    Those of the text encoder begin with lora_te, of two text encoders with lora_te1 and lora_te2. alpha is
    rank * scale, from which readers take the strength. Factors of LoHa and LoKr have LyCORIS' names.
    """
    strange = next((path for path in layers if path.startswith(TRANSFORMER) or layer_path(path) != path), None)
    if strange is not None:
        raise ValueError(
            f"{folder} holds LoRA of a transformer, whose layers (first {strange}) have other names in kohya's files; "
            "use --format diffusers, which diffusers' pipelines load."
        )
    two = any(path.startswith("text_encoder_2.") for path in layers)
    written: dict[str, Tensor] = {}
    for path, factors in layers.items():
        layer = kohya_name(path, two)
        for name, value in factors.items():
            written[f"{layer}.{name}{'.weight' if name.startswith('lora_') else ''}"] = value
    return written


def _for_diffusers(folder: Path, layers: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """peft's names of LoRA and DoRA. The strength goes into lora_B, as that format has one for all layers."""
    written: dict[str, Tensor] = {}
    for path, factors in layers.items():
        found = dict(factors)
        alpha = found.pop(ALPHA, None)
        lengths = found.get(LENGTHS)
        held = kind_of(found)
        if held != "LoRA" or (lengths is not None and axis_of(lengths) == 1):
            what = "DoRA with lengths of columns" if held == "LoRA" else held
            raise ValueError(
                f"{folder} holds {what}, at first of {path}, for which diffusers' format has no place; use --format "
                "kohya."
            )
        if alpha is not None:
            found["lora_up"] = found["lora_up"] * (alpha / len(found["lora_down"]))
        if lengths is not None:
            found[LENGTHS] = _as_peft_keeps(lengths, found["lora_down"])
        written |= {f"{path}.{_PEFT_NAMES[name]}": value for name, value in found.items()}
    return written


def _as_peft_keeps(lengths: Tensor, down: Tensor) -> Tensor:
    """Lengths of rows: (c_out,) of a linear layer, (1, c_out, 1, 1) of a convolution."""
    return lengths.reshape(1, -1, 1, 1) if down.dim() == 4 else lengths.flatten()
