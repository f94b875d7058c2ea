"""A base model by its hub id: from the local cache, or fetched once. Does not import torch."""

from __future__ import annotations

import logging
import re
from functools import cache
from pathlib import Path

from sdpet.files.hashing import PIPELINE_PARTS
from sdpet.models.pipeline_folder import PARTS_WITH_WEIGHTS, THIRD_PARTS, XL_PARTS, check_folder, parts_of, weights_of

LOG = logging.getLogger("sdpet")


def looks_like_hub_id(text: str) -> bool:
    """Whether a text has the form OWNER/NAME."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", text) is not None and not text.startswith(".")


def from_hub(name: str, quiet: bool, fetch: bool) -> Path:
    """The folder of a hub id in the local cache, downloaded if it is not there."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
        check_folder(folder)
        return folder
    except (OSError, ValueError):
        if not fetch:
            raise ValueError(f"{name} is not in the local cache of the hub; hf download {name} fetches it.") from None
        return _fetched(name, quiet)


@cache
def _fetched(name: str, quiet: bool) -> Path:
    from huggingface_hub import snapshot_download

    if not quiet:
        LOG.warning("fetching the base model %s from the hub, once (several GB)", name)
    try:
        for weights in ("model.safetensors", "model-0*.safetensors", "model.fp16.safetensors", "model.bin"):
            parts = ("transformer", *PIPELINE_PARTS, *XL_PARTS, *THIRD_PARTS)
            wanted = [f"{part}/*{end}" for part in parts for end in (".json", ".txt", ".model", weights)]
            folder = Path(snapshot_download(name, allow_patterns=[*wanted, "model_index.json"]))
            if all(
                weights_of(folder / p) or weights_of(folder / p, "fp16")
                for p in parts_of(folder)
                if p in PARTS_WITH_WEIGHTS
            ):
                break
        return folder
    except Exception as error:  # no network, no such repository, not allowed: the libraries below raise many kinds
        raise ValueError(
            f"the base model {name!r} is no folder here, is not in the local cache and could not be fetched "
            f"({type(error).__name__}); give unet.path a pipeline folder or a checkpoint file, or fetch it first where "
            f"there is a network: hf download {name}."
        ) from error
