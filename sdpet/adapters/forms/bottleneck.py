"""The paper's form: down-projection, activation, up-projection.

Layers stand in one `nn.Sequential`, so that the keys of a state dict are the reference code's (`0.weight`, `2.bias`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sdpet.adapters.forms.activation import activation_layer
from sdpet.adapters.forms.stacking import vmapped

Weights = Mapping[str, Tensor]


class Bottleneck(nn.Sequential):
    """The paper's form, with convolutions for maps.

    Tokens: (B, N, c_in) -> Linear -> activation -> Linear -> (B, N, c_out).
    Maps: (B, c_in, H, W) -> GroupNorm -> SiLU -> Conv3x3 -> activation -> Conv3x3 -> (B, c_out, H, W).

    Parameters
    ----------
    c_in, c_out, width : int
    activation : str
        See `activation_layer`.
    layout : {"tokens", "map"}
    groups : int, optional
        Of the norm.

    References
    ----------
    Xiang et al. 2023, arXiv 2303.18181, and its published code.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        width: int,
        activation: str = "relu",
        layout: str = "tokens",
        groups: int | None = None,
    ) -> None:
        middle = activation_layer(activation)
        if layout == "tokens":
            layers: list[nn.Module] = [nn.Linear(c_in, width), middle, nn.Linear(width, c_out)]
        else:
            assert groups is not None
            down, up = nn.Conv2d(c_in, width, 3, padding=1), nn.Conv2d(width, c_out, 3, padding=1)
            layers = [nn.GroupNorm(groups, c_in), nn.SiLU(), down, middle, up]
        super().__init__(*layers)

    def start_at_zero(self) -> None:
        """Set the last layer to zero."""
        for parameter in self[-1].parameters():
            parameter.zero_()

    def stacked(self, weights: Weights, x: Tensor) -> Tensor:
        """Compute M members at once, see `Form`."""
        if next(self[-2].parameters(), None) is not None:  # an activation that learns, such as PReLU
            return vmapped(self, weights, x)
        return self._linears(weights, x) if isinstance(self[0], nn.Linear) else self._convolutions(weights, x)

    def _linears(self, weights: Weights, x: Tensor) -> Tensor:
        """(M * R, N, c) -> (M * R, N, c_out): one batched product a layer."""
        members, tokens = len(weights["0.weight"]), x.shape[1]
        x = x.reshape(members, -1, x.shape[-1])  # (M, R * N, c)
        hidden = self[1](_linear(weights, "0", x))
        return _linear(weights, "2", hidden).unflatten(1, (-1, tokens)).flatten(0, 1)

    def _convolutions(self, weights: Weights, x: Tensor) -> Tensor:
        """(M * R, c, H, W) -> (M * R, c_out, H, W): the members' channels side by side, as groups of a convolution."""
        members = len(weights["0.weight"])
        norm: Any = self[0]  # nn.GroupNorm
        x = functional.group_norm(x, norm.num_groups, eps=norm.eps).unflatten(0, (members, -1))  # (M, R, c, H, W)
        weight, bias = (weights[f"0.{name}"][:, None, :, None, None] for name in ("weight", "bias"))
        x = self[1](x * weight + bias)
        x = x.transpose(0, 1).flatten(1, 2)  # (R, M * c, H, W)
        x = self[3](_convolution(weights, "2", x))
        x = _convolution(weights, "4", x)
        return x.unflatten(1, (members, -1)).transpose(0, 1).flatten(0, 1)


def _linear(weights: Weights, layer: str, x: Tensor) -> Tensor:
    """(M, T, c) -> (M, T, c_out)."""
    return torch.baddbmm(weights[f"{layer}.bias"].unsqueeze(1), x, weights[f"{layer}.weight"].transpose(1, 2))


def _convolution(weights: Weights, layer: str, x: Tensor) -> Tensor:
    """(R, M * c, H, W) -> (R, M * c_out, H, W)."""
    weight, bias = weights[f"{layer}.weight"], weights[f"{layer}.bias"]
    return functional.conv2d(x, weight.flatten(0, 1), bias.flatten(), padding=1, groups=len(weight))
