"""Forms as a user writes them, for tests. None says how it is stacked."""

import torch
from torch import nn


class Gated(nn.Module):
    """Several gates multiply the hidden channels; a buffer that differs from member to member shifts them."""

    def __init__(self, c_in, c_out, width, gates=1):
        super().__init__()
        self.value = nn.Linear(c_in, width)
        self.gates = nn.ModuleList(nn.Linear(c_in, width) for _ in range(gates))
        self.up = nn.Linear(width, c_out)
        self.register_buffer("shift", torch.randn(width))

    def forward(self, x):
        hidden = self.value(x) + self.shift
        for gate in self.gates:
            hidden = hidden * torch.sigmoid(gate(x))
        return self.up(hidden)

    def start_at_zero(self):
        self.up.weight.zero_()
        self.up.bias.zero_()


class Square(nn.Module):
    """Its number of parameters is quadratic in the width. It has no start at zero."""

    def __init__(self, c_in, c_out, width):
        super().__init__()
        self.down, self.mix = nn.Linear(c_in, width), nn.Linear(width, width)
        self.up = nn.Linear(width, c_out)

    def forward(self, x):
        return self.up(self.mix(self.down(x)))


class Frozen(Square):
    def __init__(self, c_in, c_out, width):
        super().__init__(c_in, c_out, width)
        self.mix.requires_grad_(False)
