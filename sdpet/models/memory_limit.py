"""How many images the VAE takes at a time: no more than a limit, and fewer where the device's free memory is short."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

VAE_IMAGES, VAE_PIXELS = 64, 4 * 512 * 512  # at most at a time; more gain nothing
SHARE = 0.5  # of the free memory that the VAE may take; kernels' workspace and other processes need the rest
FINEST = 4  # maps of the finest level, at twice its channels, that are alive at once: an upper estimate


def free_memory(device: torch.device) -> int:
    """Free memory of a device in bytes.

    Parameters
    ----------
    device : torch.device

    Returns
    -------
    int
        On a GPU with what torch keeps for later; on the CPU of the machine or of its control group.
    """
    import psutil
    import torch

    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + cached
    free = psutil.virtual_memory().available
    with suppress(OSError, ValueError):
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
        free = min(free, max(0, limit - used))
    return free


def images_at_once(height: int, width: int) -> int:
    """Number of images of this size in pixels that the VAE takes at a time, if memory allows."""
    return max(1, min(VAE_IMAGES, VAE_PIXELS // (height * width)))


def image_bytes(vae: Any, height: int, width: int) -> int:
    """Upper estimate of the memory that the VAE needs for one image beyond its weights.

    Parameters
    ----------
    vae : AutoencoderKL
    height, width : int
        In pixels; with tiling, that of a tile counts.

    Returns
    -------
    int
        Bytes. Almost all of them are maps of the finest levels: of its first level's channels, or of half its second's.
    """
    first, second = (*vae.config.block_out_channels, 0)[:2]
    if vae.use_tiling:
        height, width = (min(side, vae.tile_sample_min_size) for side in (height, width))
    return FINEST * max(2 * first, second) * vae.dtype.itemsize * height * width


def images_that_fit(vae: Any, height: int, width: int, free: int) -> int:
    """Number of images that the VAE takes at a time.

    Parameters
    ----------
    vae : AutoencoderKL
        With slicing it takes one.
    height, width : int
        In pixels.
    free : int
        Free memory of its device in bytes.

    Returns
    -------
    int
        At least 1, and at most `images_at_once`.
    """
    most = 1 if vae.use_slicing else images_at_once(height, width)
    fitting = max(1, min(most, int(SHARE * free) // image_bytes(vae, height, width)))
    if fitting < most:
        logging.getLogger("sdpet").info(
            f"The VAE takes {fitting} instead of {most} images of {height} x {width} pixels at a time, because "
            f"{free / 2**30:.1f} GiB of memory are free."
        )
    return fitting
