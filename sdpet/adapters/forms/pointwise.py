"""Forms that treat every token, or every pixel of a feature map, by itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sdpet.adapters.forms.activation import activation_layer
from sdpet.adapters.forms.stacking import vmapped


class LowRank(nn.Module):
    """Two linear maps without bias and without activation: (B, N, c_in) -> (B, N, width) -> (B, N, c_out).

    The initial values are LoRA's: the first map as PyTorch draws it, the second zero with init=zero.

    References
    ----------
    Hu et al. 2021, arXiv 2106.09685.
    """

    stacked = vmapped

    def __init__(self, c_in: int, c_out: int, width: int) -> None:
        super().__init__()
        self.down = nn.Linear(c_in, width, bias=False)
        self.up = nn.Linear(width, c_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, c_in) -> (B, N, c_out)."""
        return self.up(self.down(x))

    def start_at_zero(self) -> None:
        """Set the second map to zero."""
        self.up.weight.zero_()


class Gated(nn.Module):
    """A bottleneck whose hidden channels are switched by a gate: up(activation(gate(x)) * value(x)).

    gate and value are linear, (B, N, c_in) -> (B, N, width), and up is linear, (B, N, width) -> (B, N, c_out). With the
    activation sig it is the gated linear unit (GLU), with relu, silu and gelu ReGLU, SwiGLU and GEGLU.

    References
    ----------
    Shazeer 2020, arXiv 2002.05202.
    """

    stacked = vmapped

    def __init__(self, c_in: int, c_out: int, width: int, activation: str = "sig") -> None:
        super().__init__()
        self.value = nn.Linear(c_in, width)
        self.gate = nn.Linear(c_in, width)
        self.activation = activation_layer(activation)
        self.up = nn.Linear(width, c_out)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, c_in) -> (B, N, c_out)."""
        return self.up(self.activation(self.gate(x)) * self.value(x))

    def start_at_zero(self) -> None:
        """Set the last layer to zero."""
        self.up.weight.zero_()
        self.up.bias.zero_()


class ScaleShift(nn.Module):
    """A factor and a constant for each channel of what is read: weight * x + bias. The width has no meaning.

    Parameters
    ----------
    c_in, c_out : int
        They must be equal.
    width : int
        Not used: there are 2 * c_in weights, whatever it is.

    Raises
    ------
    ValueError
        If c_in and c_out differ.

    References
    ----------
    Lian et al. 2022, arXiv 2210.08823, scale and shift all features; here they are added to what is written.
    """

    stacked = vmapped

    def __init__(self, c_in: int, c_out: int, width: int = 1) -> None:
        super().__init__()
        if c_in != c_out:
            raise ValueError("it works channel by channel, so as many channels must be written as are read")
        bound = c_in**-0.5  # as PyTorch draws the weights of a linear layer
        self.weight = nn.Parameter(torch.empty(c_in).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(c_in).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, c) -> (B, N, c)."""
        return self.weight * x + self.bias

    def start_at_zero(self) -> None:
        """Set factors and constants to zero."""
        self.weight.zero_()
        self.bias.zero_()
