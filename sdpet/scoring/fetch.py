"""Are weights here, or to be had? Asked before a library begins to try, again and again, where there is no network."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from functools import cache
from pathlib import Path


def need_from_hub(repo: str, files: Sequence[str]) -> None:
    """ValueError unless one of the files of a hub repository is in the local cache or the hub answers."""
    from huggingface_hub import constants, try_to_load_from_cache

    if any(isinstance(try_to_load_from_cache(repo, file), str) for file in files):
        return
    if constants.HF_HUB_OFFLINE or not _answers(constants.ENDPOINT):
        raise ValueError(f"{repo} is not on this machine and the hub cannot be reached")


def need_from_url(url: str) -> None:
    """ValueError unless torch.hub has kept the file of this address or its server answers."""
    import torch

    kept = Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(url)
    if not kept.is_file() and not _answers(url):
        raise ValueError(f"{kept.name} is not on this machine and its server cannot be reached")


@cache
def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10).close()
    except urllib.error.HTTPError:
        return True  # whatever it says, it is there
    except (OSError, ValueError):
        return False
    return True


def reason(error: Exception) -> str:
    """Why weights could not be had, in a few words."""
    return str(error) if isinstance(error, ValueError) else type(error).__name__
