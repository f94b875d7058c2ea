"""LoRA (Hu et al. 2021, arXiv 2106.09685) on the projections of the UNet's attention, through peft."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sdpet.files.atomic import write_atomic
from sdpet.models.base import BaseModel

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")  # of self- and cross-attention, as in diffusers' LoRA training
_NAME = "default"  # peft's name of the one set of layers


class LoraTuning:
    """Replaces W x by W x + scale * B A x. B starts at zero, so step 0 is the base model.

    peft wraps the projections, and `detach` puts the original layers back. The new weights are float32, also in a
    half-precision UNet.

    Parameters
    ----------
    base : BaseModel
    rank : int
        A has shape (rank, in) and B (out, rank).
    scale : float
        Factor on the update; peft's lora_alpha / rank.

    Raises
    ------
    ValueError
        If the rank is below 1, or the UNet has no attention, or its projections are fused.

    References
    ----------
    Hu et al. 2021, arXiv 2106.09685.
    """

    FILE = "pytorch_lora_weights.safetensors"  # the name that diffusers' pipe.load_lora_weights(folder) looks for

    def __init__(self, base: BaseModel, rank: int, scale: float = 1.0):
        from peft import LoraConfig, inject_adapter_in_model

        if rank < 1:
            raise ValueError(f"rank must be at least 1, not {rank}.")
        self._unet, self.rank, self.scale = base.unet, rank, float(scale)
        paths = projections(base.unet)
        alpha: Any = rank * scale  # peft multiplies by alpha / rank
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=paths)
        inject_adapter_in_model(config, base.unet, _NAME)
        self._layers = {path: base.unet.get_submodule(path) for path in paths}
        for layer in self._layers.values():
            for part in (layer.lora_A[_NAME], layer.lora_B[_NAME]):
                part.to(base.device, torch.float64 if base.dtype == torch.float64 else torch.float32)

    def parameters(self) -> list[nn.Parameter]:
        """A and B of every projection."""
        return [part.weight for layer in self._layers.values() for part in (layer.lora_A[_NAME], layer.lora_B[_NAME])]

    def num_parameters(self) -> int:
        """Number of weights of all updates."""
        return sum(p.numel() for p in self.parameters())

    def __len__(self) -> int:
        """Number of projections that have an update."""
        return len(self._layers)

    def disable(self) -> None:
        """Compute without the updates, until `enable`."""
        self._enable(False)

    def enable(self) -> None:
        """Undo `disable`."""
        self._enable(True)

    def detach(self) -> None:
        """Put the original projections back. The learned weights stay here and can be saved."""
        if not carries_lora(self._unet):
            return
        for path, layer in self._layers.items():
            parent, _, name = path.rpartition(".")
            setattr(self._unet.get_submodule(parent), name, layer.get_base_layer())
        if hasattr(self._unet, "peft_config"):
            del self._unet.peft_config

    def save(self, folder: str | Path) -> None:
        """Write lora.json and, last, the weights with diffusers' key names; both atomically.

        Parameters
        ----------
        folder : str or Path
            Created if it does not exist.
        """
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {key: p.detach().cpu().contiguous() for key, p in self._named().items()}
        peft = {"r": self.rank, "lora_alpha": self.rank * self.scale, "target_modules": list(self._layers)}
        header = {"lora_adapter_metadata": json.dumps({f"unet.{key}": value for key, value in peft.items()})}
        meta = {"format": 1, "method": "lora", "rank": self.rank, "scale": self.scale}
        meta["parameters"] = self.num_parameters()
        write_atomic(folder / "lora.json", lambda file: file.write_text(json.dumps(meta, indent=1) + "\n"))
        write_atomic(folder / self.FILE, lambda file: save_file(tensors, file, {"format": "pt", **header}))

    @classmethod
    def load(cls, base: BaseModel, folder: str | Path) -> LoraTuning:
        """Put saved weights back on a base model.

        Parameters
        ----------
        base : BaseModel
        folder : str or Path
            What `save` wrote.

        Returns
        -------
        LoraTuning

        Raises
        ------
        ValueError
            If the saved weights do not fit this UNet.
        """
        from safetensors.torch import load_file

        meta = json.loads((Path(folder) / "lora.json").read_text(encoding="utf-8"))
        tensors = load_file(Path(folder) / cls.FILE)
        with torch.random.fork_rng(devices=[]):
            handle = cls(base, meta["rank"], meta["scale"])
        named = handle._named()
        both = tensors.keys() & named.keys()
        wrong = sorted((tensors.keys() ^ named.keys()) | {k for k in both if tensors[k].shape != named[k].shape})
        if wrong:
            handle.detach()
            raise ValueError(
                f"{folder} does not fit this UNet: {len(wrong)} weights differ in name or shape, first {wrong[0]}."
            )
        with torch.no_grad():
            for key, parameter in named.items():
                parameter.copy_(tensors[key])
        return handle

    def _named(self) -> dict[str, nn.Parameter]:
        sides = ("lora_A", "lora_B")
        return {
            f"unet.{p}.{s}.weight": getattr(layer, s)[_NAME].weight for p, layer in self._layers.items() for s in sides
        }

    def _enable(self, on: bool) -> None:
        for layer in self._layers.values():
            layer.enable_adapters(on)
            for part in (layer.lora_A, layer.lora_B):
                part.requires_grad_(True)  # peft switches gradients off together with the layers


def projections(unet: nn.Module) -> list[str]:
    """Find the linear projections of every attention layer.

    Parameters
    ----------
    unet : nn.Module

    Returns
    -------
    list of str
        Their paths.

    Raises
    ------
    ValueError
        If there is none, or they are fused (`fuse_qkv_projections`), so that what is added to them has no effect.
    """
    from diffusers.models.attention_processor import Attention

    found = [path for path, module in unet.named_modules() if isinstance(module, Attention)]
    processors: list[Any] = [unet.get_submodule(path).processor for path in found]
    if any("Fused" in type(processor).__name__ for processor in processors):
        raise ValueError(
            "the UNet's attention has fused projections, past which LoRA would learn in vain; call "
            "unet.unfuse_qkv_projections() first."
        )
    paths = [f"{path}.{name}" for path in found for name in PROJECTIONS]
    linear = [path for path in paths if isinstance(unet.get_submodule(path), nn.Linear)]
    if not linear:
        raise ValueError(f"this {type(unet).__name__} has no attention, which LoRA tunes; choose an adapter at resi.")
    return linear


def rank_for(unet: nn.Module, params: int) -> int:
    """The rank for which the number of parameters comes nearest to a given one.

    Parameters
    ----------
    unet : nn.Module
    params : int
        Number of parameters to aim at.

    Returns
    -------
    int
        At least 1.
    """
    layers: list[Any] = [unet.get_submodule(path) for path in projections(unet)]
    each = sum(layer.in_features + layer.out_features for layer in layers)
    return max(1, round(params / each))


def carries_lora(unet: nn.Module) -> bool:
    """Whether a UNet contains LoRA layers."""
    return any(hasattr(module, "lora_A") for module in unet.modules())
