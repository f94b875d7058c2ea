"""Memory of scorers, counted on torch's meta device; no weights are read or fetched."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sdpet.config import ScorerSettings
from sdpet.models.estimate import count
from sdpet.models.estimate_passes import peak_bytes

IMAGES = 32  # that DINO, Inception and LPIPS take at a time
CLIP_IMAGES = 128
LAB_SCORERS = ("lab-clip", "judge", "digit-judge")  # of less than 10 MB
_SMALL, _BASE, _LARGE = (
    {"hidden_size": width, "num_attention_heads": heads, "num_hidden_layers": layers, "intermediate_size": 4 * width}
    for width, heads, layers in ((384, 6, 12), (768, 12, 12), (1024, 16, 24))
)
DINOS: dict[str, tuple[str, dict[str, Any]]] = {  # by name on the hub: class of the config, and its sizes
    "facebook/dino-vits16": ("ViTConfig", _SMALL | {"patch_size": 16}),
    "facebook/dino-vits8": ("ViTConfig", _SMALL | {"patch_size": 8}),
    "facebook/dino-vitb16": ("ViTConfig", _BASE | {"patch_size": 16}),
    "facebook/dino-vitb8": ("ViTConfig", _BASE | {"patch_size": 8}),
    "facebook/dinov2-small": ("Dinov2Config", _SMALL | {"patch_size": 14, "image_size": 518}),
    "facebook/dinov2-base": ("Dinov2Config", _BASE | {"patch_size": 14, "image_size": 518}),
    "facebook/dinov2-large": ("Dinov2Config", _LARGE | {"patch_size": 14, "image_size": 518}),
}


@dataclass(frozen=True)
class ScorerMemory:
    """Memory of scorers in bytes, in float32.

    Parameters
    ----------
    weights : mapping of str to int
        Of each scorer, by its name.
    at_work : mapping of str to int
        What each needs beyond weights while it works.
    unknown : tuple of str
        Scorers of unknown size, such as those of the user's own.
    """

    weights: Mapping[str, int]
    at_work: Mapping[str, int]
    unknown: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """Weights of all of them."""
        return sum(self.weights.values())


def scorer_memory(scorers: Mapping[str, ScorerSettings], device: str, side: int) -> ScorerMemory:
    """Count the memory of the scorers that are on a device.

    Parameters
    ----------
    scorers : mapping of str to ScorerSettings
        By their key in `eval`.
    device : str
    side : int
        Side of the images in pixels.

    Returns
    -------
    ScorerMemory
    """
    weights: dict[str, int] = {}
    at_work: dict[str, int] = {}
    unknown = []
    for key, scorer in scorers.items():
        name = {"scorer": "clip"}.get(key) or (key.rpartition(".")[2] if "." in key else scorer.target)
        if scorer.target in LAB_SCORERS or scorer.arguments.get("device", "cpu") != device:
            continue
        made = _made(scorer.target, scorer.arguments, side)
        if made is None:
            unknown.append(name)
            continue
        network, run = made
        weights[name] = 4 * count(network)
        at_work[name] = peak_bytes(network.requires_grad_(False).eval(), run)
    return ScorerMemory(weights, at_work, tuple(unknown))


Made = tuple[nn.Module, Callable[[], Any]]  # a network without weights, and a call with as many images as it gets


def _made(target: str, arguments: Mapping[str, Any], side: int) -> Made | None:
    """A scorer's network on the meta device; None if its architecture is not known."""
    with torch.device("meta"):
        match target:
            case "openclip":
                return _open_clip(arguments.get("model", "ViT-B-32-quickgelu"))
            case "dino":
                return _dino(arguments.get("model", "facebook/dino-vits16"))
            case "inception":  # torchvision's has the layers of FID's
                from torchvision.models import inception_v3

                network = inception_v3(weights=None, aux_logits=False, init_weights=False)
                return network, lambda: network(_pixels(IMAGES, 299))
            case "lpips":
                return _lpips(arguments.get("net", "alex"), side)
    return None


def _pixels(images: int, side: int) -> torch.Tensor:
    return torch.zeros(images, 3, side, side, device="meta")


@contextmanager
def without_warnings() -> Iterator[None]:
    """Silence the root logger inside the block."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _open_clip(name: str) -> Made | None:
    import open_clip

    sizes = open_clip.get_model_config(name)
    if sizes is None:
        return None
    with without_warnings():  # that it has no weights
        network = open_clip.create_model(name, load_weights=False, device="meta")
    sides = sizes["vision_cfg"].get("image_size", 224)
    side = sides if isinstance(sides, int) else max(sides)
    return network, lambda: network.encode_image(_pixels(CLIP_IMAGES, side))


def _dino(name: str) -> Made | None:
    import transformers

    if Path(name).expanduser().is_dir():
        config = transformers.AutoConfig.from_pretrained(Path(name).expanduser(), local_files_only=True)
    elif name in DINOS:
        kind, sizes = DINOS[name]
        config = getattr(transformers, kind)(**sizes)
    else:
        return None
    network = transformers.AutoModel.from_config(config)
    more = {"interpolate_pos_encoding": True} if config.model_type == "vit" and config.image_size != 224 else {}
    return network, lambda: network(pixel_values=_pixels(IMAGES, 224), **more)


def _lpips(net: str, side: int) -> Made:
    from torchmetrics.functional.image import lpips

    network = lpips._NoTrainLpips(pretrained=False, net=net, pnet_rand=True).to("meta")  # type: ignore[arg-type]
    return network, lambda: network(_pixels(IMAGES, side), _pixels(IMAGES, side))
