"""A form: what an adapter computes."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Gated(nn.Module):
    """A bottleneck whose hidden channels pass one or several sigmoid gates.

    Parameters
    ----------
    c_in, c_out, width : int
        sdpet gives the channels that are read and written, and the width that fits `adapter.params`.
    gates : int
        Our own option: `+form.gates=2` on the command line.
    """

    def __init__(self, c_in: int, c_out: int, width: int, gates: int = 1) -> None:
        super().__init__()
        self.value = nn.Linear(c_in, width)
        self.gates = nn.ModuleList(nn.Linear(c_in, width) for _ in range(gates))
        self.up = nn.Linear(width, c_out)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, c_in) -> (B, N, c_out)."""
        hidden = self.value(x)
        for gate in self.gates:
            hidden = hidden * torch.sigmoid(gate(x))
        return self.up(hidden)

    def start_at_zero(self) -> None:
        """Begin as the base model; the gates and the value still learn from the first step on."""
        self.up.weight.zero_()
        self.up.bias.zero_()
