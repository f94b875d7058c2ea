"""The function of an adapter: down-projection, activation, up-projection.

Layers stand in one `nn.Sequential`, so that the keys of a state dict are the reference code's (`0.weight`, `2.bias`).
"""

from __future__ import annotations

from operator import attrgetter

import torch
from torch import nn

from sdpet.adapters.positions import position
from sdpet.adapters.spec import AdapterSpec

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "sig": nn.Sigmoid,
    "silu": nn.SiLU,
    "ident": nn.Identity,
}
_GROUPS = 32  # of the group norm, as in the reference code


def build_adapter(spec: AdapterSpec, block: nn.Module) -> nn.Sequential:
    """An adapter that fits `block`, on the CPU (or the default device) in the default dtype.

    Transformer blocks: (B, N, c) -> Linear -> activation -> Linear -> (B, N, c).
    ResBlocks: (B, c_in, H, W) -> GroupNorm -> SiLU -> Conv3x3 -> activation -> Conv3x3 -> (B, c_out, H, W), with 32
    groups, or where 32 does not divide c_in, as many as the block's own norm of those channels has.
    """
    source, target = position(spec.din), position(spec.dout)
    c_in, c_out = attrgetter(source.width)(block), attrgetter(target.width)(block)
    activation = _ACTIVATIONS[spec.activation]()
    if source.groups is None:
        layers: list[nn.Module] = [nn.Linear(c_in, spec.mid_dim), activation, nn.Linear(spec.mid_dim, c_out)]
    else:
        groups = _GROUPS if c_in % _GROUPS == 0 else attrgetter(source.groups)(block)
        down = nn.Conv2d(c_in, spec.mid_dim, 3, padding=1)
        up = nn.Conv2d(spec.mid_dim, c_out, 3, padding=1)
        layers = [nn.GroupNorm(groups, c_in), nn.SiLU(), down, activation, up]
    if spec.init == "zero":
        with torch.no_grad():
            for parameter in layers[-1].parameters():
                parameter.zero_()
    return nn.Sequential(*layers)
