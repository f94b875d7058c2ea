"""Latents and text states on disk, computed once for all runs and processes.

An entry is named by a hash of everything that affects it: pixels or texts, the model's weights, dtype, device and
versions. So another pixel or model gives another entry, and a mirrored image has its own. A folder of entries can be
deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdpet.files.atomic import write_atomic
from sdpet.files.hashing import hash_images, hash_text
from sdpet.files.lock import run_lock
from sdpet.models.base import BaseModel

FORMAT = 1


class LatentCache:
    """Stored outputs of a base model's frozen VAE and text encoder.

    If several processes ask for one entry, one computes it and the others wait. A damaged entry is computed again.
    Where nothing can be written, it warns and computes every time.

    Parameters
    ----------
    base : BaseModel
        The model.
    folder : path or None
        Folder of the entries; None stores nothing.
    """

    def __init__(self, base: BaseModel, folder: str | Path | None):
        self._base = base
        self._folder = None if folder is None else Path(folder).expanduser()

    def latents(self, images: np.ndarray) -> torch.Tensor:
        """Latents of images.

        Parameters
        ----------
        images : ndarray of uint8, (N, H, W, 3)
            The images.

        Returns
        -------
        Tensor (N, C, h, w)
        """
        return self._entry({"latents": hash_images(images)}, lambda: self._base.encode_images(images))

    def text(self, prompts: Sequence[str]) -> torch.Tensor:
        """Text states of prompts.

        Parameters
        ----------
        prompts : sequence of str, N
            The prompts.

        Returns
        -------
        Tensor (N, L, D)
            As `BaseModel.encode_text` gives them.
        """
        return self._entry({"text": list(prompts)}, lambda: self._base.encode_text(prompts))

    def _entry(self, what: dict[str, Any], compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        if self._folder is None:
            return compute().contiguous()
        device = self._base.device
        made_by = {
            "format": FORMAT,
            "model": self._base.weight_hash,
            "dtype": str(self._base.dtype),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "threads": torch.get_num_threads() if device.type == "cpu" else None,  # it changes the rounding of sums
            "torch": torch.__version__,
        }
        file = self._folder / f"{hash_text(json.dumps([what, made_by], sort_keys=True))}.safetensors"
        if (found := _read(file)) is None:
            try:
                found = _compute_once(file, compute)
            except OSError as error:
                warnings.warn(f"latents and text states are not kept in {self._folder} ({error}).", stacklevel=3)
                found = compute().contiguous()
        return found.to(device)


def _compute_once(file: Path, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
    file.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with run_lock(file) as mine:
            if (found := _read(file)) is not None:
                return found
            if mine:
                made = compute().contiguous()  # as when read: rounding of sums depends on memory layout
                _write(file, made)
                return made
        time.sleep(0.1)


def _write(file: Path, value: torch.Tensor) -> None:
    from safetensors.torch import save_file

    value = value.detach().cpu().contiguous()
    metadata = {"digest": _digest(value), "made_from": file.stem}
    write_atomic(file, lambda partial: save_file({"value": value}, partial, metadata))


def _read(file: Path) -> torch.Tensor | None:
    """The stored value, or None when it is missing or damaged."""
    from safetensors import safe_open

    try:
        with safe_open(file, "pt") as entry:
            value, metadata = entry.get_tensor("value"), entry.metadata() or {}
    except Exception:  # missing, or damaged in any way
        return None
    made_from = metadata.get("made_from", file.stem)  # entries of earlier versions lack it
    return value if metadata.get("digest") == _digest(value) and made_from == file.stem else None


def _digest(value: torch.Tensor) -> str:
    return hashlib.blake2b(value.flatten().view(torch.uint8).numpy().tobytes(), digest_size=16).hexdigest()
