"""The design of an adapter: where it reads and writes, and the form of its function. Free of torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal

from sdpet.adapters.positions import check_placement, split_placement

ACTIVATIONS = ("relu", "sig", "silu", "ident")
INITS = ("zero", "default")


@dataclass(frozen=True)
class AdapterSpec:
    """A point in the space of designs: placement (din, dout) and form.

    din, dout: positions, see sdpet.adapters.positions. activation: relu, sig, silu or ident. mid_dim: width of the
    bottleneck; the default 60 is the paper's, 1.5 M parameters on Stable Diffusion v1. scale: factor on what the
    adapter adds. init: "zero" (the last layer starts at zero, so step 0 is the base model) or "default" (PyTorch's
    initialisation, as in the reference code). ValueError names the valid choices.
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
        """The design with that placement, written `din-dout`, and the default form where `form` does not change it."""
        din, dout = split_placement(placement)
        return cls(din, dout, **form)

    @property
    def placement(self) -> str:
        return f"{self.din}-{self.dout}"


def finite(name: str, value: object) -> float:
    """`value` as a float. ValueError unless it is a finite number."""
    if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, not {value!r}.")
    return float(value)
