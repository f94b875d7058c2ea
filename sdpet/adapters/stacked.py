"""Adapters of equal shapes computed together: the function of sdpet.adapters.modules for M members at once.

Rows of the batch are those of the first member, then of the second, and so on. The members' weights lie in one buffer,
a row a member, and the members' own parameters are views of it. A layer's weights of all members are then one tensor
without copying, which is what is differentiated, and all weights of one member are one vector, which is what an
optimiser of elementwise steps (AdamW) wants: one tensor instead of dozens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class Stack:
    """The adapters of M members, equal in shapes and activation, block by block.

    members: by_block of each (`Adapters.by_block`), whose parameters become views of this stack's buffer; gradients
    that they hold are kept. scales: factor of each member's adapters.
    Like a single adapter, they compute in their own dtype.
    """

    def __init__(self, members: Sequence[Mapping[str, nn.Sequential]], scales: Sequence[float]) -> None:
        self._layers = dict(members[0])
        owned = [[p for adapter in member.values() for p in adapter.parameters()] for member in members]
        like = owned[0][0]
        size = sum(p.numel() for p in owned[0])
        self.weights = torch.empty(len(members), size, dtype=like.dtype, device=like.device)
        self.gradients = torch.zeros_like(self.weights)
        with torch.no_grad():
            for row, gradient, parameters in zip(self.weights, self.gradients, owned, strict=True):
                row.copy_(torch.cat([p.flatten() for p in parameters]))
                for p, mine, its in zip(parameters, _views(row, parameters), _views(gradient, parameters), strict=True):
                    if p.grad is not None:
                        its.copy_(p.grad)
                    p.data, p.grad = mine, its
        self._factors = None if all(s == 1 for s in scales) else self.weights.new_tensor(scales)
        self._stacked: dict[str, dict[str, Tensor]] = {path: {} for path in members[0]}
        leaves = iter(zip(_views(self.weights, owned[0]), _views(self.gradients, owned[0]), strict=True))
        for path, adapter in members[0].items():
            for name, _ in adapter.named_parameters():
                weight, gradient = next(leaves)  # (M, *shape): one for all members
                weight.requires_grad_().grad = gradient
                self._stacked[path][name] = weight

    def change(self, path: str, read: Tensor, dtype: torch.dtype) -> Tensor:
        """What each member's adapter of that block adds, rows (M * R, ...) in order of the members."""
        adapter, weights = self._layers[path], self._stacked[path]
        compute = _linears if len(adapter) == 3 else _convolutions
        change = compute(adapter, weights, read.to(self.weights.dtype)).to(dtype)
        if self._factors is None:
            return change
        factors = self._factors.to(dtype).view(-1, *[1] * change.dim())
        return (factors * change.unflatten(0, (len(factors), -1))).flatten(0, 1)


def _views(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Parts of flat (..., P) in the shapes of `like`, in order: (..., *shape)."""
    parts = flat.split([p.numel() for p in like], dim=-1)
    return [part.unflatten(-1, p.shape) for part, p in zip(parts, like, strict=True)]


def _linears(adapter: nn.Sequential, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """(M * R, N, c) -> (M * R, N, c_out): one batched product a layer."""
    members, tokens = len(weights["0.weight"]), x.shape[1]
    x = x.reshape(members, -1, x.shape[-1])  # (M, R * N, c)
    hidden = adapter[1](_linear(weights, "0", x))
    return _linear(weights, "2", hidden).unflatten(1, (-1, tokens)).flatten(0, 1)


def _linear(weights: Mapping[str, Tensor], layer: str, x: Tensor) -> Tensor:
    """(M, T, c) -> (M, T, c_out)."""
    return torch.baddbmm(weights[f"{layer}.bias"].unsqueeze(1), x, weights[f"{layer}.weight"].transpose(1, 2))


def _convolutions(adapter: nn.Sequential, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """(M * R, c, H, W) -> (M * R, c_out, H, W): members side by side as groups of channels."""
    members = len(weights["0.weight"])
    norm: nn.GroupNorm = adapter[0]  # type: ignore[assignment]
    x = functional.group_norm(x, norm.num_groups, eps=norm.eps).unflatten(0, (members, -1))  # (M, R, c, H, W)
    weight, bias = (weights[f"0.{name}"][:, None, :, None, None] for name in ("weight", "bias"))
    x = adapter[1](x * weight + bias)
    x = x.transpose(0, 1).flatten(1, 2)  # (R, M * c, H, W)
    x = adapter[3](_convolution(weights, "2", x))
    x = _convolution(weights, "4", x)
    return x.unflatten(1, (members, -1)).transpose(0, 1).flatten(0, 1)


def _convolution(weights: Mapping[str, Tensor], layer: str, x: Tensor) -> Tensor:
    """(R, M * c, H, W) -> (R, M * c_out, H, W)."""
    weight, bias = weights[f"{layer}.weight"], weights[f"{layer}.bias"]
    return functional.conv2d(x, weight.flatten(0, 1), bias.flatten(), padding=1, groups=len(weight))
