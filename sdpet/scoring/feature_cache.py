"""Features of reference sets on disk, by hash of the images and of the scorer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from sdpet.files.atomic import atomically


def cached_features(
    folder: Path | None, images_hash: str, made_by: Mapping[str, Any], compute: Callable[[], torch.Tensor]
) -> torch.Tensor:
    """compute(), a float tensor (N, D), or what was kept in `folder` for the same images and the same `made_by`.

    A file holds its key and the hash of its numbers; one that is damaged or of another key is made anew. Two processes
    may both compute; each writes a whole file of equal content.
    """
    if folder is None:
        return compute()
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

    key = json.dumps({"images": images_hash, **made_by}, sort_keys=True)
    file = folder.expanduser() / f"{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}.safetensors"
    try:
        with safe_open(file, framework="pt") as kept:
            features = kept.get_tensor("features")
            if kept.metadata() == {"key": key, "hash": _hash(features)}:
                return features
    except (OSError, SafetensorError):
        pass
    features = compute().contiguous()
    file.parent.mkdir(parents=True, exist_ok=True)
    described = {"key": key, "hash": _hash(features)}
    atomically(file, lambda partial: save_file({"features": features}, partial, metadata=described))
    return features


def _hash(features: torch.Tensor) -> str:
    content = f"{features.dtype}{tuple(features.shape)}".encode() + features.numpy().tobytes()
    return hashlib.blake2b(content, digest_size=16).hexdigest()
