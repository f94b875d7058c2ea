"""Features of reference sets on disk, stored by a hash of the images and of the scorer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from sdpet.files.atomic import write_atomic


def cached_features(
    folder: Path | None, images_hash: str, made_by: Mapping[str, Any], compute: Callable[[], torch.Tensor]
) -> torch.Tensor:
    """Read the features of a reference set from `folder`, or compute and store them.

    A file holds its key and a hash of its numbers; a damaged file, or one with another key, is replaced. Two processes
    may compute the same features; each writes a complete file with equal content.

    Parameters
    ----------
    folder : Path or None
        Folder of stored features; None computes them every time.
    images_hash : str
        Identifies the images.
    made_by : dict
        Identifies the scorer and how it prepares images; values that JSON can hold.
    compute : callable
        Returns the features, a float tensor (N, D).

    Returns
    -------
    Tensor (N, D)
    """
    if folder is None:
        return compute()
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

    key = json.dumps({"images": images_hash, **made_by}, sort_keys=True)
    file = folder.expanduser() / f"{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}.safetensors"
    try:
        with safe_open(file, framework="pt") as stored:
            features = stored.get_tensor("features")
            if stored.metadata() == {"key": key, "hash": _hash(features)}:
                return features
    except (OSError, SafetensorError):
        pass
    features = compute().contiguous()
    file.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"key": key, "hash": _hash(features)}
    write_atomic(file, lambda partial: save_file({"features": features}, partial, metadata=metadata))
    return features


def _hash(features: torch.Tensor) -> str:
    content = f"{features.dtype}{tuple(features.shape)}".encode() + features.numpy().tobytes()
    return hashlib.blake2b(content, digest_size=16).hexdigest()
