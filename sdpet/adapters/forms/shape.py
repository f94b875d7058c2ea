"""What an adapter connects: a place in a block, with the numbers of channels on both sides."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import Literal

from torch import nn

from sdpet.adapters.positions import position
from sdpet.adapters.spec import AdapterSpec

_GROUPS = 32  # of the group norm, as in the reference code


@dataclass(frozen=True)
class FormShape:
    """What a form must fit.

    Parameters
    ----------
    c_in, c_out : int
        Channels of what is read and of what is written.
    layout : {"tokens", "map"}
        Values are (B, N, c) or (B, c, H, W).
    groups : int, optional
        Of a group norm of what is read, for maps: 32, or where 32 does not divide c_in, as many as the block's own norm
        of those channels.
    text : bool
        Whether the tokens are text: they lie on a line and not on a grid.
    """

    c_in: int
    c_out: int
    layout: Literal["tokens", "map"]
    groups: int | None = None
    text: bool = False


@dataclass(frozen=True)
class Site:
    """One adapter of a design in a model.

    Parameters
    ----------
    path : str
        Of its block.
    block : nn.Module
    spec : AdapterSpec
        The design with the one placement that this adapter has.
    shape : FormShape
    """

    path: str
    block: nn.Module
    spec: AdapterSpec
    shape: FormShape


def shape_of(spec: AdapterSpec, block: nn.Module) -> FormShape:
    """The place of an adapter of a design with one placement in a block."""
    source, target = position(str(spec.din)), position(str(spec.dout))
    c_in, c_out = attrgetter(source.width)(block), attrgetter(target.width)(block)
    if source.groups is None:
        return FormShape(c_in, c_out, "tokens", text=source.component == "context")
    return FormShape(c_in, c_out, "map", _GROUPS if c_in % _GROUPS == 0 else attrgetter(source.groups)(block))
