"""Saved adapters: sdpet's folder (adapters.safetensors + adapters.json), and loading of it or of the reference's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

import sdpet
from sdpet.adapters.handle import Adapters, attach, matching_blocks
from sdpet.adapters.modules import build_adapter
from sdpet.adapters.spec import AdapterSpec
from sdpet.files import atomically

WEIGHTS, DESIGN = "adapters.safetensors", "adapters.json"
_FORMAT = 1
_NAMED = 4  # so many blocks with missing or unknown keys are spelt out in an error


def save_adapters(adapters: Adapters, folder: str | Path) -> None:
    """Write both files, each atomically, the design last: a folder that has it is complete."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.detach().cpu().contiguous() for key, value in adapters.state_dict().items()}
    design = {
        "format": _FORMAT,
        "sdpet": sdpet.__version__,
        "spec": asdict(adapters.spec),
        "blocks": list(adapters.blocks),
        "parameters": adapters.num_parameters(),
    }
    weights = safetensors.torch.save(tensors, metadata={"format": "pt"})
    atomically(folder / WEIGHTS, lambda partial: partial.write_bytes(weights))
    atomically(folder / DESIGN, lambda partial: partial.write_text(json.dumps(design, indent=1) + "\n"))


def load_adapters(unet: nn.Module, folder: str | Path, spec: AdapterSpec | None = None) -> Adapters:
    """Attach the adapters saved in `folder` to the UNet; returns the handle.

    folder: sdpet's own, or the reference code's `<step>-adapters/`, which does not hold the design: pass `spec`.
    ValueError: the folder is missing, holds no adapters or is damaged, or does not fit the UNet or `spec`; keys that
    are missing or unknown are named. The UNet is then left as it was.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}.")
    if (folder / DESIGN).is_file():
        saved = _read_spec(folder / DESIGN)
        if spec is not None and spec != saved:
            raise ValueError(f"{folder} holds adapters of another design than spec: {saved}; leave spec out.")
        return attach_weights(unet, saved, _read_weights(folder / WEIGHTS), folder)
    if any(folder.glob("*.pt")):
        if spec is None:
            raise ValueError(f"{folder} is the reference code's, which keeps no design; pass spec=AdapterSpec(...).")
        from sdpet.adapters.reference import read_reference

        return attach_weights(unet, spec, read_reference(unet, folder, spec), folder)
    raise ValueError(f"{folder} holds neither {DESIGN} (sdpet) nor *.pt files (reference code).")


def attach_weights(unet: nn.Module, spec: AdapterSpec, tensors: Mapping[str, Tensor], source: object) -> Adapters:
    """Attach adapters with these weights, named as in `Adapters.state_dict()`. ValueError names keys that do not fit.

    source: what the weights are called in errors.
    """
    adapters = attach(unet, spec, seed=0)
    try:
        _fill(adapters, tensors, source)
    except BaseException:
        adapters.detach()
        raise
    return adapters


def unattached_weights(unet: nn.Module, spec: AdapterSpec, tensors: Mapping[str, Tensor], source: object) -> Adapters:
    """The same for a UNet of which only the shape is known (on the meta device): real adapters, not attached to it."""
    adapters = Adapters(spec, {path: build_adapter(spec, block) for path, block in matching_blocks(unet, spec).items()})
    _fill(adapters, tensors, source)
    return adapters


def read_saved(folder: str | Path) -> tuple[AdapterSpec, dict[str, Tensor]]:
    """Design and weights in a folder of sdpet's own. ValueError where it holds none or is damaged."""
    folder = Path(folder)
    if not (folder / DESIGN).is_file():
        raise ValueError(f"{folder} holds no {DESIGN}; give the folder of a finished run or of adapters.save.")
    return _read_spec(folder / DESIGN), _read_weights(folder / WEIGHTS)


def _fill(adapters: Adapters, tensors: Mapping[str, Tensor], source: object) -> None:
    own, spec = adapters.state_dict(), adapters.spec
    if missing := own.keys() - tensors.keys():
        raise ValueError(f"{source} does not fit this UNet and {spec.placement}: missing {_names(missing)}.")
    if unknown := tensors.keys() - own.keys():
        raise ValueError(f"{source} does not fit this UNet and {spec.placement}: left over {_names(unknown)}.")
    for key, value in own.items():
        if value.shape != tensors[key].shape:
            shapes = f"{tuple(tensors[key].shape)} in {source} but {tuple(value.shape)} in the design"
            raise ValueError(f"{key} has shape {shapes} (mid_dim {spec.mid_dim}).")
    adapters.load_state_dict(dict(tensors))


def _names(keys: set[str]) -> str:
    """Keys by block: `mid_block.attentions.0.transformer_blocks.0 (0.bias, 0.weight), ...`."""
    by_block: dict[str, list[str]] = {}
    for key in sorted(keys):
        block, *inner = key.rsplit(".", 2)
        by_block.setdefault(block, []).append(".".join(inner))
    named = ", ".join(f"{block} ({', '.join(inner)})" for block, inner in list(by_block.items())[:_NAMED])
    return named + (f" and {len(by_block) - _NAMED} more blocks" if len(by_block) > _NAMED else "")


def _read_spec(path: Path) -> AdapterSpec:
    try:
        design = json.loads(path.read_text())
        if design["format"] != _FORMAT:
            raise ValueError(f"its format is {design['format']!r}, and this version of sdpet reads {_FORMAT}")
        return AdapterSpec(**design["spec"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} does not describe adapters: {error}") from error


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def read_pickled(path: Path) -> dict[str, Tensor]:
    """A `torch.save`d state dict, read without executing what is pickled in it."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever is wrong with the file: the unpickler raises many kinds
        raise ValueError(f"{path} is not a state dict that can be read safely ({type(error).__name__}).") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} is not a state dict.")
    return dict(state)
