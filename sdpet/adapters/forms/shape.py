"""What a form must fit: the channels and the layout of what it reads and writes."""

from __future__ import annotations

from dataclasses import dataclass

from sdpet.adapters.routes import Route
from sdpet.adapters.spec import AdapterSpec

_GROUPS = 32  # of the group norm, as in the reference code
_ON_A_GRID = ("transformer", "resnet")  # streams of image tokens alone


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
    on_a_grid : bool
        Whether the tokens are those of the image, in rows and columns, and not text.
    """

    c_in: int
    c_out: int
    layout: str
    groups: int | None = None
    on_a_grid: bool = True


@dataclass(frozen=True)
class Site:
    """One adapter of a design in a model.

    Parameters
    ----------
    path : str
        Of its block.
    route : Route
        Its way through the block.
    spec : AdapterSpec
        The design with the one placement that this adapter has.
    """

    path: str
    route: Route
    spec: AdapterSpec

    @property
    def shape(self) -> FormShape:
        """What its form must fit."""
        c_in, c_out, layout, own_groups = self.route.shape
        on_a_grid = self.route.source.stream in _ON_A_GRID
        groups = None if layout == "tokens" else _GROUPS if c_in % _GROUPS == 0 else own_groups or 1
        return FormShape(c_in, c_out, layout, groups, on_a_grid)
