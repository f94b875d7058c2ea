"""How many parameters the adapters of each placement of a model have."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import nn


class Count(NamedTuple):
    """Size of the adapters of one placement.

    Parameters
    ----------
    placement : str
    adapters : int
        Number of blocks that have one.
    mid_dim : int
    parameters : int
        Of all of them together.
    """

    placement: str
    adapters: int
    mid_dim: int
    parameters: int


def counts(model: nn.Module, mid_dim: int = 60, params: int | None = None, projections: bool = False) -> list[Count]:
    """Count the parameters of every placement.

    Parameters
    ----------
    model : nn.Module
        A UNet or transformer; it may be on the meta device.
    mid_dim : int
        Width of the adapters.
    params : int, optional
        Number of parameters to aim at; then every placement has the width that comes nearest to it.
    projections : bool
        Whether the placements at linear layers are counted, too, with the form lowrank (LoRA).

    Returns
    -------
    list of Count
        In datapath order.
    """
    from sdpet.adapters import AdapterSpec, count_parameters, matching_blocks, mid_dim_for, placements_of
    from sdpet.adapters.positions import position

    found = []
    for placement in placements_of(model):
        at_projection = position(placement.partition("-")[0]).is_projection
        if at_projection and not projections:
            continue
        spec = AdapterSpec.parse(placement, mid_dim=mid_dim, form="lowrank" if at_projection else "bottleneck")
        if params is not None:
            spec = replace(spec, mid_dim=mid_dim_for(model, spec, params))
        blocks = len(matching_blocks(model, spec))
        found.append(Count(placement, blocks, int(spec.mid_dim or 0), count_parameters(model, spec)))
    return found
