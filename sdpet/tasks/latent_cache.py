"""Latents and text states on disk, computed once for all runs and processes.

An entry is named by all that goes into it (pixels or texts, the model's weights, dtype, what computes it), so a changed
pixel or model is another entry, and a mirrored image is an image of its own. A folder of entries can be removed at any
time.
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

from sdpet.files.atomic import atomically
from sdpet.files.hashing import hash_images, hash_text
from sdpet.files.lock import claim
from sdpet.models.base import BaseModel

FORMAT = 1


class Cache:
    """What the frozen parts of a base model make of images and texts; folder None computes every time.

    Several processes may ask for one entry: one computes it, the others wait. A damaged entry is made anew; where
    nothing can be written, a note says so and the work goes on.
    """

    def __init__(self, base: BaseModel, folder: str | Path | None):
        self._base = base
        self._folder = None if folder is None else Path(folder).expanduser()

    def latents(self, images: np.ndarray) -> torch.Tensor:
        """Latents (N, C, h, w) of images uint8 (N, H, W, 3)."""
        return self._entry({"latents": hash_images(images)}, lambda: self._base.encode_images(images))

    def text(self, prompts: Sequence[str]) -> torch.Tensor:
        """Rows (N, L, D) of what `base.encode_text` gives."""
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
            "threads": torch.get_num_threads() if device.type == "cpu" else None,  # sums round by how they are shared
            "torch": torch.__version__,
        }
        file = self._folder / f"{hash_text(json.dumps([what, made_by], sort_keys=True))}.safetensors"
        if (found := _read(file)) is None:
            try:
                found = _made_once(file, compute)
            except OSError as error:
                warnings.warn(f"latents and text states are not kept in {self._folder} ({error}).", stacklevel=3)
                found = compute().contiguous()
        return found.to(device)


def _made_once(file: Path, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
    file.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with claim(file) as mine:
            if (found := _read(file)) is not None:
                return found
            if mine:
                made = compute().contiguous()  # as it is read back: sums are rounded by how a tensor lies in memory
                _write(file, made)
                return made
        time.sleep(0.1)


def _write(file: Path, value: torch.Tensor) -> None:
    from safetensors.torch import save_file

    value = value.detach().cpu().contiguous()
    atomically(file, lambda partial: save_file({"value": value}, partial, {"digest": _digest(value)}))


def _read(file: Path) -> torch.Tensor | None:
    """The value, or None when it is not there or not what was written."""
    from safetensors import safe_open

    try:
        with safe_open(file, "pt") as entry:
            value, digest = entry.get_tensor("value"), (entry.metadata() or {}).get("digest")
    except Exception:  # not there, or damaged in whatever way
        return None
    return value if digest == _digest(value) else None


def _digest(value: torch.Tensor) -> str:
    return hashlib.blake2b(value.flatten().view(torch.uint8).numpy().tobytes(), digest_size=16).hexdigest()
