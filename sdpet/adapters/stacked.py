"""Adapters of equal shapes computed together: the function of sdpet.adapters.modules for M members at once.

Rows of the batch are those of the first member, then of the second, and so on. The members' weights lie in one buffer,
one row a member, and the members' own parameters are views of it. So the weights of a layer for all members are one
tensor without copying, which is what autograd differentiates. And all weights of a member are one vector: an
elementwise optimiser (AdamW) then updates one tensor instead of dozens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Stack:
    """The adapters of M members with equal shapes and activation, block by block.

    Like a single adapter, they compute in their own dtype.

    Parameters
    ----------
    members : sequence of mappings of str to nn.Sequential
        `Adapters.by_block` of each. The parameters become views of this stack's buffer, and gradients that they hold
        are taken over.
    scales : sequence of float
        Factor on each member's additions.

    Attributes
    ----------
    weights, gradients : Tensor, shape (M, P)
        The P weights of each member, and their gradients.
    """

    def __init__(self, members: Sequence[Mapping[str, nn.Sequential]], scales: Sequence[float]) -> None:
        owned = [[p for adapter in member.values() for p in adapter.parameters()] for member in members]
        like = owned[0][0]
        size = sum(p.numel() for p in owned[0])
        self.weights = torch.empty(len(members), size, dtype=like.dtype, device=like.device)
        self.gradients = torch.zeros_like(self.weights)
        with torch.no_grad():
            for row, gradient, parameters in zip(self.weights, self.gradients, owned, strict=True):
                row.copy_(torch.cat([p.flatten() for p in parameters]))
                shapes = [p.shape for p in parameters]
                for p, mine, its in zip(parameters, _views(row, shapes), _views(gradient, shapes), strict=True):
                    if p.grad is not None:
                        its.copy_(p.grad)
                    p.data, p.grad = mine, its
        self._factors = None if all(s == 1 for s in scales) else self.weights.new_tensor(scales)
        self._layers = {path: _Layers(adapter) for path, adapter in members[0].items()}
        self._stacked = self._stack()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_stacked"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._stacked = self._stack()

    def delta(self, path: str, read: Tensor, dtype: torch.dtype) -> Tensor:
        """Compute what each member's adapter of one block adds.

        Parameters
        ----------
        path : str
            Of the block.
        read : Tensor, shape (M * R, N, c_in) or (M * R, c_in, H, W)
            R rows of each member, in the order of the members.
        dtype : torch.dtype
            Of the result.

        Returns
        -------
        Tensor, shape (M * R, N, c_out) or (M * R, c_out, H, W)
        """
        layers, weights = self._layers[path], self._stacked[path]
        compute = _linears if layers.norm is None else _convolutions
        delta = compute(layers, weights, read.to(self.weights.dtype)).to(dtype)
        if self._factors is None:
            return delta
        factors = self._factors.to(dtype).view(-1, *[1] * delta.dim())
        return (factors * delta.unflatten(0, (len(factors), -1))).flatten(0, 1)

    def _stack(self) -> dict[str, dict[str, Tensor]]:
        """By path and name, the weights (M, *shape) of all members: leaves of autograd, and views of the buffer."""
        shapes = [shape for layers in self._layers.values() for shape in layers.shapes.values()]
        leaves = iter(zip(_views(self.weights, shapes), _views(self.gradients, shapes), strict=True))
        stacked: dict[str, dict[str, Tensor]] = {path: {} for path in self._layers}
        for path, layers in self._layers.items():
            for name in layers.shapes:
                weight, gradient = next(leaves)
                weight.requires_grad_().grad = gradient
                stacked[path][name] = weight
        return stacked


class _Layers:
    """An adapter without its weights: their shapes, and the functions between the layers."""

    def __init__(self, adapter: nn.Sequential) -> None:
        self.shapes = {name: p.shape for name, p in adapter.named_parameters()}
        self.norm: tuple[int, float] | None = None  # groups and eps, for ResBlocks
        if isinstance(norm := adapter[0], nn.GroupNorm):
            self.norm = (norm.num_groups, norm.eps)
        self.activations = [layer for layer in adapter if next(layer.parameters(), None) is None]


def _views(flat: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """Divide flat (..., P) into views of these shapes, in order: (..., *shape)."""
    parts = flat.split([shape.numel() for shape in shapes], dim=-1)
    return [part.unflatten(-1, shape) for part, shape in zip(parts, shapes, strict=True)]


def _linears(layers: _Layers, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """(M * R, N, c) -> (M * R, N, c_out): one batched product a layer."""
    members, tokens = len(weights["0.weight"]), x.shape[1]
    x = x.reshape(members, -1, x.shape[-1])  # (M, R * N, c)
    hidden = layers.activations[0](_linear(weights, "0", x))
    return _linear(weights, "2", hidden).unflatten(1, (-1, tokens)).flatten(0, 1)


def _linear(weights: Mapping[str, Tensor], layer: str, x: Tensor) -> Tensor:
    """(M, T, c) -> (M, T, c_out)."""
    return torch.baddbmm(weights[f"{layer}.bias"].unsqueeze(1), x, weights[f"{layer}.weight"].transpose(1, 2))


def _convolutions(layers: _Layers, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """(M * R, c, H, W) -> (M * R, c_out, H, W): the members' channels side by side, as groups of one convolution."""
    members = len(weights["0.weight"])
    assert layers.norm is not None
    groups, eps = layers.norm
    first, second = layers.activations
    x = functional.group_norm(x, groups, eps=eps).unflatten(0, (members, -1))  # (M, R, c, H, W)
    weight, bias = (weights[f"0.{name}"][:, None, :, None, None] for name in ("weight", "bias"))
    x = first(x * weight + bias)
    x = x.transpose(0, 1).flatten(1, 2)  # (R, M * c, H, W)
    x = second(_convolution(weights, "2", x))
    x = _convolution(weights, "4", x)
    return x.unflatten(1, (members, -1)).transpose(0, 1).flatten(0, 1)


def _convolution(weights: Mapping[str, Tensor], layer: str, x: Tensor) -> Tensor:
    """(R, M * c, H, W) -> (R, M * c_out, H, W)."""
    weight, bias = weights[f"{layer}.weight"], weights[f"{layer}.bias"]
    return functional.conv2d(x, weight.flatten(0, 1), bias.flatten(), padding=1, groups=len(weight))
