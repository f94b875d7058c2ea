"""The design of an adapter: where it reads and writes, and the form of its function. Free of torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal

from sdpet.adapters.positions import check_placement, split_placement
from sdpet.choices import ACTIVATIONS, INITS


@dataclass(frozen=True)
class AdapterSpec:
    """A point in the space of designs: a placement, and the form of the adapter's function.

    Parameters
    ----------
    din, dout : str
        Positions where the adapter reads and writes; see sdpet.adapters.positions.
    activation : {"relu", "sig", "silu", "ident"}
    mid_dim : int
        Width of the bottleneck. The default is the paper's: 1.5 M parameters on Stable Diffusion v1.
    scale : float
        Factor on what the adapter adds.
    init : {"zero", "default"}
        "zero": the last layer starts at zero, so step 0 is the base model. "default": PyTorch's initialisation, as in
        the reference code.

    Raises
    ------
    ValueError
        If a value is not valid; the message names the valid choices.

    References
    ----------
    Xiang et al. 2023, arXiv 2303.18181.
    """

    din: str
    dout: str
    activation: Literal["relu", "sig", "silu", "ident"] = "relu"
    mid_dim: int = 60
    scale: float = 1.0
    init: Literal["zero", "default"] = "zero"

    def __post_init__(self) -> None:
        check_placement(self.din, self.dout)
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"Unknown activation {self.activation!r}; choose one of {', '.join(ACTIVATIONS)}.")
        if self.init not in INITS:
            raise ValueError(f"Unknown init {self.init!r}; choose one of {', '.join(INITS)}.")
        if not isinstance(self.mid_dim, Integral) or isinstance(self.mid_dim, bool) or self.mid_dim < 1:
            raise ValueError(f"mid_dim must be a whole number of at least 1, not {self.mid_dim!r}.")
        object.__setattr__(self, "mid_dim", int(self.mid_dim))
        object.__setattr__(self, "scale", finite("scale", self.scale))

    @classmethod
    def parse(cls, placement: str, **form: Any) -> AdapterSpec:
        """Make a design from a written placement.

        Parameters
        ----------
        placement : str
            ``din-dout``, such as "attn2o-ffni".
        **form
            The other parameters of `AdapterSpec`.

        Returns
        -------
        AdapterSpec

        Raises
        ------
        ValueError
            If the placement or a value is not valid; the message names the valid choices.
        """
        din, dout = split_placement(placement)
        return cls(din, dout, **form)

    @property
    def placement(self) -> str:
        """The placement, written ``din-dout``."""
        return f"{self.din}-{self.dout}"


def finite(name: str, value: object) -> float:
    """Check a number.

    Parameters
    ----------
    name : str
        What errors call it.
    value : object

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If the value is not a finite number.
    """
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, not {value!r}.")
    return float(value)
