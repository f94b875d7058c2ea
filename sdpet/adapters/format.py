"""sdpet's folder of adapters: adapters.safetensors with the weights, adapters.json with the design."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

import sdpet
from sdpet.adapters.parts import UNET, where_of
from sdpet.adapters.spec import AdapterSpec
from sdpet.choices import WHERES
from sdpet.files.atomic import write_atomic
from sdpet.files.hashing import hash_bytes
from sdpet.files.received import read_json

WEIGHTS, DESIGN = "adapters.safetensors", "adapters.json"
_FORMAT, _FORMAT_OF_PARTS = 1, 2  # the second one of adapters in a text encoder, which version 1 did not know
MOST_BYTES = 1 << 20  # of adapters.json


def save_adapters(
    folder: str | Path,
    spec: AdapterSpec,
    blocks: Sequence[str],
    tensors: Mapping[str, Tensor],
    base: Sequence[float] | None = None,
) -> None:
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
    base : sequence of float, optional
        A sample of the model's weights, see `sdpet.adapters.identity`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    weights = safetensors.torch.save(written, metadata={"format": "pt"})
    where = where_of(blocks)
    design = {
        "format": _FORMAT if where == UNET else _FORMAT_OF_PARTS,
        "sdpet": sdpet.__version__,
        **({} if where == UNET else {"where": where}),
        "spec": spec.described(),
        "blocks": list(blocks),
        "parameters": sum(value.numel() for value in tensors.values()),
        "digest": hash_bytes(weights),
        "base": None if base is None else list(base),
    }
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
    design = read_design(folder / DESIGN)
    return _spec(design, folder / DESIGN), read_weights(folder / WEIGHTS, design.get("digest"))


def read_spec(path: Path) -> AdapterSpec:
    """Read a design from adapters.json. Raises ValueError if it is damaged or of another format."""
    return _spec(read_design(path), path)


def read_design(path: Path) -> dict[str, Any]:
    """Read the content of adapters.json. Raises ValueError if it is damaged or of another format."""
    try:
        design = read_json(path, MOST_BYTES)
    except ValueError as error:
        raise ValueError(f"{path} does not describe adapters: {error}") from error
    if not isinstance(design, dict) or not isinstance(design.get("spec"), dict):
        raise ValueError(f"{path} does not describe adapters.")
    if design.get("format") not in (_FORMAT, _FORMAT_OF_PARTS):
        raise ValueError(
            f"{path} does not describe adapters: its format is {design.get('format')!r}, and this version of sdpet "
            f"reads {_FORMAT} and {_FORMAT_OF_PARTS}"
        )
    if design.setdefault("where", UNET) not in WHERES:
        raise ValueError(f"{path} does not describe adapters: where is {design['where']!r}, not one of "
                         f"{', '.join(WHERES)}.")  # fmt: skip
    return design


def _spec(design: dict[str, Any], path: Path) -> AdapterSpec:
    try:
        return AdapterSpec(**design["spec"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} does not describe adapters: {error}") from error


def read_weights(path: Path, digest: str | None = None, kept_in: str = DESIGN) -> dict[str, Tensor]:
    """Read weights from a .safetensors file.

    Parameters
    ----------
    path : Path
    digest : str, optional
        Of the file's content.
    kept_in : str
        Name of the file that holds the digest, for the message.

    Returns
    -------
    dict of str to Tensor

    Raises
    ------
    ValueError
        It cannot be read, is not as it was saved, or a weight is NaN or infinite; the message names it.
    """
    try:
        content = path.read_bytes()
        tensors = safetensors.torch.load(content)
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if digest is not None and hash_bytes(content) != digest:
        raise ValueError(f"{path} was changed since it was saved: its digest is not that of {kept_in}.")
    if bad := [name for name, value in tensors.items() if not torch.isfinite(value).all()]:
        raise ValueError(f"{path} holds weights that are NaN or infinite, in {bad[0]}.")
    return tensors


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
