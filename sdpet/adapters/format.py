"""sdpet's folder of adapters: adapters.safetensors with the weights, adapters.json with the design."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

import sdpet
from sdpet.adapters.spec import AdapterSpec
from sdpet.files.atomic import write_atomic

WEIGHTS, DESIGN = "adapters.safetensors", "adapters.json"
_FORMAT = 1


def save_adapters(folder: str | Path, spec: AdapterSpec, blocks: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
    """Write both files atomically, the design last, so that a folder that contains it is complete.

    Parameters
    ----------
    folder : str or Path
        Created if it does not exist.
    spec : AdapterSpec
    blocks : sequence of str
        Paths of the blocks that have an adapter.
    tensors : mapping of str to Tensor
        All weights, named as in `Adapters.state_dict()`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    design = {
        "format": _FORMAT,
        "sdpet": sdpet.__version__,
        "spec": spec.described(),
        "blocks": list(blocks),
        "parameters": sum(value.numel() for value in tensors.values()),
    }
    weights = safetensors.torch.save(written, metadata={"format": "pt"})
    write_atomic(folder / WEIGHTS, lambda partial: partial.write_bytes(weights))
    write_atomic(folder / DESIGN, lambda partial: partial.write_text(json.dumps(design, indent=1) + "\n"))


def read_saved(folder: str | Path) -> tuple[AdapterSpec, dict[str, Tensor]]:
    """Read sdpet's own folder.

    Parameters
    ----------
    folder : str or Path

    Returns
    -------
    AdapterSpec
    dict of str to Tensor
        The weights, named as in `Adapters.state_dict()`.

    Raises
    ------
    ValueError
        If the folder holds no adapters or is damaged.
    """
    folder = Path(folder)
    if not (folder / DESIGN).is_file():
        raise ValueError(f"{folder} holds no {DESIGN}; give the folder of a finished run or of adapters.save.")
    return read_spec(folder / DESIGN), read_weights(folder / WEIGHTS)


def read_spec(path: Path) -> AdapterSpec:
    """Read a design from adapters.json. Raises ValueError if it is damaged or of another format."""
    try:
        design = json.loads(path.read_text())
        if design["format"] != _FORMAT:
            raise ValueError(f"its format is {design['format']!r}, and this version of sdpet reads {_FORMAT}")
        return AdapterSpec(**design["spec"])
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} does not describe adapters: {error}") from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read weights from a .safetensors file. Raises ValueError if it cannot be read."""
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def read_pickled(path: Path) -> dict[str, Tensor]:
    """Read a state dict that `torch.save` wrote, without executing anything that is pickled in it.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict of str to Tensor
        On the CPU.

    Raises
    ------
    ValueError
        If the file is not a state dict or cannot be read safely.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever is wrong with the file: the unpickler raises many kinds
        raise ValueError(f"{path} is not a state dict that can be read safely ({type(error).__name__}).") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} is not a state dict.")
    return dict(state)
