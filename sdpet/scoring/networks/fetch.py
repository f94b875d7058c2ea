"""Check that weights are cached or reachable, so that libraries do not retry for minutes when offline."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from functools import cache
from pathlib import Path


def need_from_hub(repo: str, files: Sequence[str]) -> None:
    """Check that a repository of the Hugging Face hub is in the local cache or can be downloaded.

    Parameters
    ----------
    repo : str
        Name of the repository.
    files : sequence of str
        File names of which one is enough.

    Raises
    ------
    ValueError
        None of the files is in the cache and the hub does not answer.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    if any(isinstance(try_to_load_from_cache(repo, file), str) for file in files):
        return
    if constants.HF_HUB_OFFLINE or not _is_reachable(constants.ENDPOINT):
        raise ValueError(f"{repo} is not on this machine and the hub cannot be reached")


def need_from_url(url: str) -> None:
    """Check that a file is in the cache of torch.hub or can be downloaded.

    Parameters
    ----------
    url : str
        Address of the file.

    Raises
    ------
    ValueError
        The file is not in the cache and its server does not answer.
    """
    import torch

    cached = Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(url)
    if not cached.is_file() and not _is_reachable(url):
        raise ValueError(f"{cached.name} is not on this machine and its server cannot be reached")


@cache
def _is_reachable(url: str) -> bool:
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=10).close()
    except urllib.error.HTTPError:
        return True  # any answer means that the server is reachable
    except (OSError, ValueError):
        return False
    return True


def reason(error: Exception) -> str:
    """Say in a few words why weights are not available.

    Parameters
    ----------
    error : Exception
        What was raised while they were fetched or read.

    Returns
    -------
    str
        The message of a ValueError, which was written for users; the type of any other error.
    """
    return str(error) if isinstance(error, ValueError) else type(error).__name__
