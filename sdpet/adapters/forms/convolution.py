"""A form that mixes neighbouring tokens."""

from __future__ import annotations

from torch import Tensor, nn

from sdpet.adapters.forms.activation import activation_layer
from sdpet.adapters.forms.stacking import vmapped


class Conv(nn.Module):
    """A bottleneck with a depth-wise convolution in its middle.

    Linear (B, N, c_in) -> (B, N, width), then each hidden channel is convolved over the tokens' grid, kernel x kernel,
    then the activation, then linear (B, N, width) -> (B, N, c_out).

    Inside a transformer block tokens have no height and width. They are found from the size of the latents with which
    the model was called: N tokens are those latents, halved in height and width as often as it takes.

    Parameters
    ----------
    c_in, c_out, width : int
    kernel : int
        Side of the kernel; odd.
    activation : str
        See `activation_layer`.

    Raises
    ------
    ValueError
        If the kernel is not odd.

    References
    ----------
    Jie and Deng 2022, arXiv 2207.07039, convolve the tokens of a vision transformer in an adapter's middle.
    """

    stacked = vmapped

    def __init__(self, c_in: int, c_out: int, width: int, kernel: int = 3, activation: str = "relu") -> None:
        super().__init__()
        if not isinstance(kernel, int) or kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel must be an odd whole number, not {kernel!r}")
        self.down = nn.Linear(c_in, width)
        self.depthwise = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width)
        self.activation = activation_layer(activation)
        self.up = nn.Linear(width, c_out)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, N, c_in) -> (B, N, c_out), with N = H * W for a grid (H, W)."""
        hidden = self.down(x).transpose(1, 2).unflatten(2, grid)  # (B, width, H, W)
        hidden = self.activation(self.depthwise(hidden))
        return self.up(hidden.flatten(2).transpose(1, 2))

    def start_at_zero(self) -> None:
        """Set the last layer to zero."""
        self.up.weight.zero_()
        self.up.bias.zero_()
