"""Adapters of equal shapes computed together: the function of sdpet.adapters.modules for M members at once.

Rows of the batch are those of the first member, then of the second, and so on. Weights stay parameters of each member
and are stacked in every pass, which is one operation a layer whatever M is; gradients flow back to each member's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


def stacked_addition(adapters: Sequence[nn.Sequential], scales: Sequence[float]) -> Callable[[Tensor, Tensor], Tensor]:
    """add(value, read): value + scale of the member * its adapter(read), rows (M * R, ...) in order of the members.

    adapters: as made by `build_adapter`, equal in shapes and activation. Like a single adapter, they compute in their
    own dtype and follow what they read to another device.
    """
    compute = _linears if len(adapters[0]) == 3 else _convolutions
    factors: dict[torch.device, Tensor] = {}

    def add(value: Tensor, read: Tensor) -> Tensor:
        weight: Tensor = adapters[0][-1].weight  # type: ignore[assignment]
        if weight.device != read.device:
            for adapter in adapters:
                adapter.to(read.device)
        if read.device not in factors:
            factors[read.device] = torch.tensor(scales, dtype=weight.dtype, device=read.device)
        change = compute(adapters, read.to(weight.dtype)).unflatten(0, (len(adapters), -1))  # (M, R, ...)
        scaled = factors[read.device].view(-1, *[1] * (change.dim() - 1)) * change.to(value.dtype)
        return value + scaled.flatten(0, 1).to(value.dtype)

    return add


def _linears(adapters: Sequence[nn.Sequential], x: Tensor) -> Tensor:
    """(M * R, N, c) -> (M * R, N, c_out): one batched product a layer."""
    members, tokens = len(adapters), x.shape[1]
    x = x.reshape(members, -1, x.shape[-1])  # (M, R * N, c)
    hidden = adapters[0][1](_linear([adapter[0] for adapter in adapters], x))
    return _linear([adapter[2] for adapter in adapters], hidden).unflatten(1, (-1, tokens)).flatten(0, 1)


def _linear(layers: Sequence[nn.Module], x: Tensor) -> Tensor:
    """(M, T, c) -> (M, T, c_out)."""
    weights, biases = _stack(layers, "weight"), _stack(layers, "bias")
    return torch.baddbmm(biases.unsqueeze(1), x, weights.transpose(1, 2))


def _convolutions(adapters: Sequence[nn.Sequential], x: Tensor) -> Tensor:
    """(M * R, c, H, W) -> (M * R, c_out, H, W): members side by side as groups of channels."""
    members = len(adapters)
    norm: nn.GroupNorm = adapters[0][0]  # type: ignore[assignment]
    norms = [adapter[0] for adapter in adapters]
    x = functional.group_norm(x, norm.num_groups, eps=norm.eps).unflatten(0, (members, -1))  # (M, R, c, H, W)
    weight, bias = (_stack(norms, name)[:, None, :, None, None] for name in ("weight", "bias"))
    x = adapters[0][1](x * weight + bias)
    x = x.transpose(0, 1).flatten(1, 2)  # (R, M * c, H, W)
    x = adapters[0][3](_convolution([adapter[2] for adapter in adapters], x))
    x = _convolution([adapter[4] for adapter in adapters], x)
    return x.unflatten(1, (members, -1)).transpose(0, 1).flatten(0, 1)


def _convolution(layers: Sequence[nn.Module], x: Tensor) -> Tensor:
    """(R, M * c, H, W) -> (R, M * c_out, H, W)."""
    weights, biases = _stack(layers, "weight"), _stack(layers, "bias")
    return functional.conv2d(x, weights.flatten(0, 1), biases.flatten(), padding=1, groups=len(layers))


def _stack(layers: Sequence[nn.Module], name: str) -> Tensor:
    return torch.stack([getattr(layer, name) for layer in layers])
