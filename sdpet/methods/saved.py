"""The files of a method: a small JSON file that says what it is, and a .safetensors file with its weights."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sdpet.adapters.format import read_weights
from sdpet.adapters.identity import is_other_model
from sdpet.files.atomic import write_atomic
from sdpet.files.hashing import hash_bytes
from sdpet.files.received import read_json


def save_method(
    folder: Path,
    design_file: str,
    design: Mapping[str, Any],
    weights_file: str,
    tensors: Mapping[str, Tensor],
    base: Sequence[float] | None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write the design and, last, the weights, each atomically; the folder is made if it does not exist.

    Parameters
    ----------
    folder : Path
    design_file : str
        Name of the JSON file. It gets the design, the digest of the weights and the sample of the base model.
    design : mapping
        Values that JSON can hold.
    weights_file : str
        Name of the .safetensors file.
    tensors : mapping of str to Tensor
        They are written on the CPU and contiguous.
    base : sequence of float, optional
        A sample of the weights that the method changes or adds to, see `sdpet.adapters.identity`.
    metadata : mapping, optional
        Of the .safetensors file.
    """
    content = _content(tensors, metadata)
    write_design(folder / design_file, {**design, "digest": hash_bytes(content), "base": base})
    write_atomic(folder / weights_file, partial(Path.write_bytes, data=content))


def read_method(folder: Path, design_file: str, weights_file: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what `save_method` wrote, here or in an earlier version, which kept neither digest nor sample.

    Parameters
    ----------
    folder : Path
    design_file, weights_file : str
        Names of the files.

    Returns
    -------
    (dict, dict of str to Tensor)
        The design and the weights.

    Raises
    ------
    ValueError
        A file is missing or damaged, or the weights were changed since they were saved.
    """
    design = read_design(folder / design_file)
    return design, read_weights(folder / weights_file, design.get("digest"), design_file)


def check_base(
    folder: Path, design: Mapping[str, Any], model: nn.Module | Mapping[str, Tensor], strict: bool = False
) -> None:
    """Say it where weights were made for another base model.

    Parameters
    ----------
    folder : Path
        Where they were saved, for the message.
    design : mapping
        As `read_method` returns it.
    model : nn.Module or mapping of str to Tensor
        The model that they are for, as it is without them, or its parameters by name.
    strict : bool
        Whether this is an error; by default a warning says so.

    Raises
    ------
    ValueError
        If it is another model and `strict`.
    """
    if not is_other_model(design.get("base"), model):
        return
    said = f"{folder} holds weights for another base model: those of this one differ from those they were made for"
    if strict:
        raise ValueError(f"{said}; load the model that they were trained on.")
    warnings.warn(f"{said}.", stacklevel=3)


def write_design(file: Path, design: Mapping[str, Any]) -> None:
    """Write a JSON file atomically; its folder is made if it does not exist.

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
    """Write weights that stand alone atomically; the file's folder is made if it does not exist.

    Parameters
    ----------
    file : Path
    tensors : mapping of str to Tensor
        They are written on the CPU and contiguous.
    metadata : mapping, optional
        Of the .safetensors file.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, partial(Path.write_bytes, data=_content(tensors, metadata)))


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


def _content(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> bytes:
    from safetensors.torch import save

    kept = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    return save(kept, dict(metadata) if metadata else None)
