"""The function of an adapter: down-projection, activation, up-projection.

Layers stand in one `nn.Sequential`, so that the keys of a state dict are the reference code's (`0.weight`, `2.bias`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from sdpet.adapters.routes import Route
from sdpet.adapters.spec import AdapterSpec

ACTIVATION_LAYERS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "sig": nn.Sigmoid,
    "silu": nn.SiLU,
    "ident": nn.Identity,
}
_GROUPS = 32  # of the group norm, as in the reference code


def build_adapter(spec: AdapterSpec, route: Route) -> nn.Sequential:
    """Build an adapter that fits a route through a block.

    Tokens: (B, N, c_in) -> Linear -> activation -> Linear -> (B, N, c_out).
    Feature maps: (B, c_in, H, W) -> GroupNorm -> SiLU -> Conv3x3 -> activation -> Conv3x3 -> (B, c_out, H, W). The norm
    has 32 groups, or where 32 does not divide c_in, as many as the block's own norm of those channels.

    Parameters
    ----------
    spec : AdapterSpec
    route : Route
        It gives widths and layout.

    Returns
    -------
    nn.Sequential
        On the CPU (or the default device) in the default dtype, with weights drawn from the global random generator.

    References
    ----------
    Xiang et al. 2023, arXiv 2303.18181, and its published code.
    """
    c_in, c_out, layout, own_groups = route.shape
    activation = ACTIVATION_LAYERS[spec.activation]()
    if layout == "tokens":
        layers: list[nn.Module] = [nn.Linear(c_in, spec.mid_dim), activation, nn.Linear(spec.mid_dim, c_out)]
    else:
        groups = _GROUPS if c_in % _GROUPS == 0 else own_groups or 1
        down = nn.Conv2d(c_in, spec.mid_dim, 3, padding=1)
        up = nn.Conv2d(spec.mid_dim, c_out, 3, padding=1)
        layers = [nn.GroupNorm(groups, c_in), nn.SiLU(), down, activation, up]
    INITIALISATIONS[spec.init](layers[-1])
    return nn.Sequential(*layers)


@torch.no_grad()
def _start_at_zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        parameter.zero_()


def _as_drawn(layer: nn.Module) -> None:
    """Keep PyTorch's initialisation."""


INITIALISATIONS: dict[str, Callable[[nn.Module], None]] = {"zero": _start_at_zero, "default": _as_drawn}  # last layer
