"""What a form is, for those who write one."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Form(Protocol):
    """The function of an adapter: a subclass of `torch.nn.Module` that is built as ``Form(c_in, c_out, width)``.

    The three arguments are the channels that it reads, the channels that it adds to, and the width that the user gave
    or that was found for a number of parameters. Further arguments of ``__init__`` are options of the user's, by name.
    Three of them are filled in by sdpet if ``__init__`` has them: ``activation``, the name of the design's activation
    (see `activation_layer`); ``layout``, "tokens" or "map"; and ``groups``, the number of groups of a group norm for
    maps, None for tokens.

    A form gets tokens (B, N, c_in). In ResBlocks the tokens are the pixels of the feature map, unless the form takes
    ``layout``: then it gets the map (B, c_in, H, W) and returns a map. If ``forward`` takes ``grid``, it is given the
    height and width (H, W) of the tokens' grid, N = H * W.

    A form draws no random numbers in ``forward``. All of its parameters are trained; what is fixed is a buffer. The
    number of parameters may not shrink when the width grows. The scale of the design is applied by sdpet.

    Two methods are optional. ``start_at_zero()`` changes the weights so that the form returns exactly zero and still
    learns; ``init=zero`` needs it. ``stacked(weights, x)`` computes the form for M members of a fleet at once:
    ``weights`` holds the parameters by name, each of shape (M, ...), and ``x`` the rows of the first member, then of
    the second, and so on; further arguments are those of ``forward``. Without it the members are computed one after
    another. `vmapped` is such a method for most forms.
    """

    def __init__(self, c_in: int, c_out: int, width: int) -> None: ...

    def forward(self, x: Tensor) -> Tensor:
        """What is added, (B, N, c_out) for tokens (B, N, c_in).

        Parameters
        ----------
        x : Tensor
            What is read.

        Returns
        -------
        Tensor
        """
        ...
