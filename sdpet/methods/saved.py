"""The files of a method: a small JSON file that says what it is, and a .safetensors file with its weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from sdpet.adapters.format import read_weights
from sdpet.files.atomic import write_atomic
from sdpet.files.received import read_json

__all__ = ["check_fit", "read_design", "read_weights", "write_design", "write_weights"]


def write_design(file: Path, design: Mapping[str, Any]) -> None:
    """Write what a method is, atomically; the file's folder is made if it does not exist.

    Parameters
    ----------
    file : Path
    design : mapping
        Values that JSON can hold; others are written as text.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(design, indent=1, default=str) + "\n"
    write_atomic(file, partial(Path.write_text, data=text, encoding="utf-8"))


def read_design(file: Path) -> dict[str, Any]:
    """Read what `write_design` wrote.

    Parameters
    ----------
    file : Path

    Returns
    -------
    dict

    Raises
    ------
    ValueError
        The file is missing, is no JSON, or holds no mapping; the message names it.
    """
    try:
        design = read_json(file)
    except FileNotFoundError:
        raise ValueError(f"{file.parent} holds no {file.name}.") from None
    if not isinstance(design, dict):
        raise ValueError(f"{file} holds no mapping.")
    return design


def write_weights(file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write weights atomically, on the CPU and contiguous; the file's folder is made if it does not exist.

    Parameters
    ----------
    file : Path
    tensors : mapping of str to Tensor
    metadata : mapping, optional
        Of the .safetensors file.
    """
    from safetensors.torch import save_file

    file.parent.mkdir(parents=True, exist_ok=True)
    kept = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_atomic(file, lambda part: save_file(kept, part, dict(metadata) if metadata else None))


def check_fit(source: object, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless saved weights have the names and shapes of those they are for.

    Parameters
    ----------
    source : object
        Where they were saved, for the message.
    tensors : mapping of str to Tensor
        The saved weights.
    expected : mapping of str to Tensor
        Those they are for.
    """
    both = tensors.keys() & expected.keys()
    wrong = sorted((tensors.keys() ^ expected.keys()) | {k for k in both if tensors[k].shape != expected[k].shape})
    if wrong:
        raise ValueError(
            f"{source} does not fit this UNet: {len(wrong)} weights differ in name or shape, first {wrong[0]}."
        )
