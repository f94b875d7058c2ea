"""Activations by name."""

from __future__ import annotations

import torch
from torch import nn

from sdpet.choices import ACTIVATION_ALIASES, ACTIVATIONS

_LONG = {short: long for long, short in ACTIVATION_ALIASES.items()}
_CLASSES: dict[str, type[nn.Module]] = {
    name.lower(): kind
    for name, kind in vars(torch.nn).items()
    if isinstance(kind, type) and issubclass(kind, nn.Module)
}


def activation_layer(name: str) -> nn.Module:
    """Make an activation.

    Parameters
    ----------
    name : str
        relu, sig, silu, ident, or another activation of torch.nn that acts on every number by itself.

    Returns
    -------
    nn.Module

    Raises
    ------
    ValueError
        There is none of that name; the message lists the valid ones.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"Unknown activation {name!r}; choose one of {', '.join(ACTIVATIONS)}.")
    return _CLASSES[_LONG.get(name, name)]()
