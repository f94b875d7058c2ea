"""Memory of passes without gradients, of the VAE and the denoiser: what is alive at once on torch's meta device."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sdpet.models.estimate import inputs
from sdpet.models.estimate_functions import fused_attention
from sdpet.models.memory_limit import VAE_IMAGES, images_at_once


def caching_bytes(vae: Any, image_side: int, tiling: bool = False, images: int | None = None) -> int:
    """Count the bytes beyond the weights that the VAE needs to encode as many images as it takes at a time.

    Parameters
    ----------
    vae : AutoencoderKL
        On the meta device, in float32.
    image_side : int
        Side of the images in pixels.
    tiling : bool
        Whether it works tile by tile.
    images : int, optional
        Number of images, if they are fewer than the VAE takes at a time.

    Returns
    -------
    int
        In float32; half of it in half precision.
    """
    count = min(images_at_once(image_side, image_side), images or VAE_IMAGES)
    with torch.device("meta"):
        pixels = torch.zeros(count, 3, *(2 * [_tile(vae, image_side, tiling)]))
    return peak_bytes(vae, lambda: vae.encode(pixels).latent_dist.mean)


def sampling_bytes(
    networks: Mapping[str, Any],
    rows: int,
    latent_side: int,
    tiling: bool = False,
    half: tuple[bool, bool] = (False, False),
    images: int | None = None,
) -> int:
    """Count the bytes beyond the weights that drawing images needs at its peak: of the denoiser, or of decoding.

    Parameters
    ----------
    networks : mapping
        As `sdpet.models.estimate.on_meta` returns them, with unet and vae.
    rows : int
        Rows of the denoiser in a step, two for each image with guidance.
    latent_side : int
        Side of the latents.
    tiling : bool
        Whether the VAE works tile by tile.
    half : (bool, bool)
        Whether the denoiser and the VAE compute in half precision.
    images : int, optional
        Number of images, if they are fewer than the VAE takes at a time.

    Returns
    -------
    int
    """
    unet, vae = networks["unet"], networks["vae"]
    call = inputs(unet, rows, latent_side)
    denoising = peak_bytes(unet, lambda: unet(**call))
    side = latent_side * 2 ** (len(vae.config.block_out_channels) - 1)
    shown = _tile(vae, side, tiling)
    with torch.device("meta"):
        count = min(images_at_once(side, side), images or VAE_IMAGES)
        latents = torch.zeros(count, vae.config.latent_channels, *(2 * [latent_side * shown // side]))
    decoding = peak_bytes(vae, lambda: vae.decode(latents, return_dict=False)[0])
    return max(denoising // (2 if half[0] else 1), decoding // (2 if half[1] else 1))


def peak_bytes(network: nn.Module, run: Callable[[], Any]) -> int:
    """Count the largest number of bytes that are alive at once while a network runs, without its weights.

    Parameters
    ----------
    network : nn.Module
        On the meta device.
    run : callable
        Runs it, without arguments.

    Returns
    -------
    int
        Buffers that kernels take for themselves are not in it.
    """
    alive = _Alive(network)
    with torch.no_grad(), fused_attention(), alive:
        result = run()
    del result
    return alive.most


def _tile(vae: Any, side: int, tiling: bool) -> int:
    return min(side, vae.tile_sample_min_size) if tiling else side


class _Alive(TorchDispatchMode):
    """Adds up the storages that operations make, and subtracts them when their last tensor is gone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._weights = {_name(tensor) for tensor in (*network.parameters(), *network.buffers())}
        self._owners: Counter[int] = Counter()
        self._sizes: dict[int, int] = {}
        self._now = self.most = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and _name(leaf) not in self._weights:
                self._add(leaf)
        return result

    def _add(self, tensor: Tensor) -> None:
        name = _name(tensor)
        if not self._owners[name]:
            self._sizes[name] = tensor.untyped_storage().nbytes()
            self._now += self._sizes[name]
            self.most = max(self.most, self._now)
        self._owners[name] += 1
        weakref.finalize(tensor, self._drop, name)

    def _drop(self, name: int) -> None:
        self._owners[name] -= 1
        if not self._owners[name]:
            self._now -= self._sizes.pop(name)


def _name(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
