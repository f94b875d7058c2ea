"""Updates of a layer's own weight from few numbers: low-rank (LoRA, LoCon), DoRA, LoHa and LoKr."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ALPHA, LENGTHS = "alpha", "dora_scale"  # the rank times the strength; and DoRA's lengths of rows or columns
# The factors of each kind, by LyCORIS' names; those that end in _t are for kernels, and may be missing.
KINDS = {
    "LoRA": re.compile(r"lora_down lora_up"),
    "LoHa": re.compile(r"(hada_t1 hada_t2 )?hada_w1_a hada_w1_b hada_w2_a hada_w2_b"),
    "LoKr": re.compile(r"(lokr_t2 )?(lokr_w1|lokr_w1_a lokr_w1_b) (lokr_w2|lokr_w2_a lokr_w2_b)"),
}
FACTORS = re.compile(r"lora_(down|up|mid)|hada_(w[12]_[ab]|t[12])|lokr_(w[12](_[ab])?|t2)")


def kind_of(factors: Mapping[str, Any]) -> str | None:
    """LoRA, LoHa or LoKr, by the names of a layer's factors; None if some are missing, or of several kinds."""
    names = " ".join(sorted(name for name in factors if name not in (ALPHA, LENGTHS)))
    return next((kind for kind, form in KINDS.items() if form.fullmatch(names)), None)


def rank_of(factors: Mapping[str, Tensor]) -> int | None:
    """The rank of a layer's update; None for a Kronecker product of two whole matrices, which has none."""
    return next((len(factors[n]) for n in ("lora_down", "hada_w1_b", "lokr_w1_b", "lokr_w2_b") if n in factors), None)


def axis_of(lengths: Tensor) -> int:
    """The axis of the weight along which DoRA's lengths lie: 0 if they are of its rows, 1 of its columns."""
    return int(len(lengths) == 1 and lengths.numel() > 1)


class Update(nn.Module):
    """The update of one layer.

    Parameters
    ----------
    factors : mapping of str to Tensor
        By the names of LyCORIS: lora_down (r, c_in[, k, k]) and lora_up (c_out, r[, 1, 1]); or hada_w1_a (c_out, r),
        hada_w1_b (r, c_in), hada_w2_a, hada_w2_b; or lokr_w1 and lokr_w2, each whole or as product of _a and _b; with
        cores (r, r, k, k) of a Tucker decomposition, hada_t1, hada_t2 and lokr_t2, where the factors are for one pixel.
        alpha is the rank times the strength; without it the strength is 1. dora_scale (c_out, 1[, 1, 1]) or
        (1, c_in[, 1, 1]) has the lengths of the rows or columns of the weight.

    References
    ----------
    Hu et al. 2021, arXiv 2106.09685 (LoRA). Liu et al. 2024, arXiv 2402.09353 (DoRA). Hyeon-Woo et al. 2021, arXiv
    2108.06098 (LoHa). Yeh et al. 2023, arXiv 2309.14859 (LoCon, LoKr).
    """

    def __init__(self, factors: Mapping[str, Tensor]) -> None:
        super().__init__()
        rank = rank_of(factors)
        self.alpha = None if ALPHA not in factors or rank is None else float(factors[ALPHA])
        self.strength = 1.0 if self.alpha is None else self.alpha / (rank or 1)
        for name, value in factors.items():
            if name != ALPHA:
                self.register_parameter(name, nn.Parameter(value.detach().float().clone()))

    def factors(self) -> dict[str, Tensor]:
        """The factors, and alpha if there is one; what the update can be made from again."""
        found: dict[str, Tensor] = dict(self.named_parameters())
        return found if self.alpha is None else {**found, ALPHA: torch.tensor(self.alpha)}

    def change(self, weight: Tensor) -> Tensor:
        """What is added to the layer's weight.

        Parameters
        ----------
        weight : Tensor, shape (c_out, c_in) or (c_out, c_in, k, k)

        Returns
        -------
        Tensor, of the same shape
        """
        factors = dict(self.named_parameters())
        change = self.strength * _product(factors).reshape(weight.shape)
        if LENGTHS not in factors:
            return change
        whole, lengths = weight + change, factors[LENGTHS]
        own = axis_of(lengths)
        norm = torch.linalg.vector_norm(whole, dim=[n for n in range(whole.dim()) if n != own], keepdim=True)
        return whole * (lengths.reshape(norm.shape) / norm.clamp_min(torch.finfo(norm.dtype).tiny)) - weight

    def forward(self, x: Tensor, layer: nn.Module) -> Tensor:
        """What the update adds to what a linear layer or convolution gives.

        Parameters
        ----------
        x : Tensor, shape (..., c_in) or (B, c_in, H, W)
            What the layer reads.
        layer : nn.Module

        Returns
        -------
        Tensor, of the shape of the layer's output
        """
        weight: Any = layer.weight
        factors = dict(self.named_parameters())
        if factors.keys() == {"lora_down", "lora_up"}:  # the product of both need not be computed
            down, up = factors["lora_down"].flatten(1), factors["lora_up"].flatten(1)
            if isinstance(layer, nn.Conv2d):
                read = _convolve(x, down.reshape(len(down), *weight.shape[1:]), layer)
                return self.strength * F.conv2d(read, up[:, :, None, None])
            return self.strength * F.linear(F.linear(x, down), up)
        change = self.change(weight.to(device=x.device, dtype=x.dtype))
        return _convolve(x, change, layer) if isinstance(layer, nn.Conv2d) else F.linear(x, change)

    def misfit(self, layer: nn.Module | None) -> str | None:
        """Why the update is none for a layer, in words that follow the layer's name; None if it is."""
        if layer is None:
            return "is no layer of this model"
        if not isinstance(layer, nn.Linear | nn.Conv2d) or (isinstance(layer, nn.Conv2d) and layer.groups != 1):
            return f"is {type(layer).__name__}, and not a linear layer or a convolution of all channels"
        try:
            given = [*_product({name: value.to("meta") for name, value in self.named_parameters()}).shape]
        except (RuntimeError, IndexError) as error:
            return f"has factors that do not fit each other ({str(error).splitlines()[0]})"
        own = [len(layer.weight), layer.weight[0].numel()]
        if given != own:
            return f"has a weight of {own[0]} x {own[1]} numbers, and the file's update is of {given[0]} x {given[1]}"
        lengths = getattr(self, LENGTHS, None)
        if lengths is not None and lengths.numel() != layer.weight.shape[axis_of(lengths)]:
            return f"has {lengths.numel()} lengths of DoRA for a weight of {own[0]} x {own[1]} numbers"
        return None


@dataclass
class Settings:
    """What the updates of one handle share: the factor on what they add, and whether they do."""

    strength: float = 1.0
    active: bool = True


class Added:
    """Forward hook that adds an update to what a layer gives; it is copied and pickled with the layer."""

    def __init__(self, update: Update, settings: Settings) -> None:
        self.update, self.settings = update, settings

    def __call__(self, layer: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if not self.settings.active:
            return None
        own = next(self.update.parameters())
        if own.device != output.device:
            self.update.to(output.device)
        added = self.update(given[0].to(own.dtype), layer)
        return output + (self.settings.strength * added).to(output.dtype)


def carries_updates(model: nn.Module) -> bool:
    """Whether a model carries such updates."""
    return any(isinstance(hook, Added) for module in model.modules() for hook in module._forward_hooks.values())


def _product(factors: Mapping[str, Tensor]) -> Tensor:
    """The update of a weight, (c_out, c_in * k * k), at strength 1."""
    if "lora_up" in factors:
        return factors["lora_up"].flatten(1) @ factors["lora_down"].flatten(1)
    if "hada_w1_a" in factors:
        return _pair(factors, "hada_w1", "hada_t1") * _pair(factors, "hada_w2", "hada_t2")
    first, second = (
        factors[name] if name in factors else _pair(factors, name, "lokr_t2" if name == "lokr_w2" else "")
        for name in ("lokr_w1", "lokr_w2")
    )
    return torch.kron(first.contiguous(), second.flatten(1).contiguous())


def _pair(factors: Mapping[str, Tensor], name: str, core: str) -> Tensor:
    """The product of the factors _a and _b, with the core of a Tucker decomposition between them where there is one."""
    a, b = factors[f"{name}_a"], factors[f"{name}_b"]
    if core in factors:
        return torch.einsum("ijkl,ip,jr->prkl", factors[core], a, b).flatten(1)
    return a.flatten(1) @ b.flatten(1)


def _convolve(x: Tensor, weight: Tensor, like: nn.Conv2d) -> Tensor:
    return F.conv2d(x, weight, None, like.stride, like.padding, like.dilation)  # type: ignore[arg-type]
