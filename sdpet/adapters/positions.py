"""The vocabulary of positions, and which pairs of them are placements. Free of torch.

A position is a named place on the datapath of a block. Where it is in the blocks of a class, the class's table says
(sdpet.adapters.tables); names mean the same in all of them. `POSITIONS`, `INPUTS`, `OUTPUTS` and `PLACEMENTS` are the
paper's, on the blocks of a UNet, without the projections.

Names, paper names and the 20 placements: Xiang et al., arXiv 2303.18181, and its published configuration files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from operator import is_
from types import MappingProxyType

from sdpet.adapters.tables import TABLES, UNET_TABLES, BlockTable, Place

_WORDS = {  # position: (paper name, meaning)
    "attn1i": ("SA_in", "residual stream where the block begins"),
    "attn1o": ("SA_out", "output of self-attention (joint attention), before it is gated or added"),
    "attn2i": ("CA_in", "residual stream after self-attention was added"),
    "attn2c": ("CA_c", "context (text embedding) that this block's cross-attention reads"),
    "attn2o": ("CA_out", "output of cross-attention, before it is added"),
    "ffni": ("FFN_in", "residual stream before the feed-forward, after all attention was added"),
    "ffno": ("FFN_out", "output of the feed-forward layer, before it is gated or added"),
    "transo": ("Trans_out", "residual stream at the end of the block"),
    "resi": ("Res_in", "input of the ResBlock, branch and skip"),
    "reso": ("Res_out", "output of the ResBlock"),
    "dualo": ("", "output of the second attention, of the image alone (SD3.5), before it is gated"),
}
_STREAMS = {"text_": "of the text stream: ", "joint_": "of text and image as one sequence: "}


@dataclass(frozen=True)
class Position:
    """A named place on the datapath of a block.

    Parameters
    ----------
    name, paper_name : str
        Its names here and in the paper; "" if it is not in the paper.
    block : {"transformer", "resnet"}
        Kind of block that it belongs to.
    component : str
        Which tensors flow there: "transformer" (the image's), "context", "resnet", "text", "joint", or a projection's
        own name. An adapter connects positions of one component, because tensors of another differ in width or
        number; so placements form components that are not connected.
    meaning : str
        The position in words.
    is_projection : bool
        Whether it is a linear layer, read at its input and written at its output.
    """

    name: str
    paper_name: str
    block: str
    component: str
    meaning: str = ""
    is_projection: bool = False


def _described(place: Place) -> Position:
    kind = "resnet" if place.stream == "resnet" else "transformer"
    prefix = next((prefix for prefix in _STREAMS if place.name.startswith(prefix)), "")
    paper_name, meaning = _WORDS.get(place.name.removeprefix(prefix), ("", ""))
    meaning = place.meaning or (_STREAMS.get(prefix, "") + meaning)
    return Position(place.name, "" if prefix else paper_name, kind, place.stream, meaning, place.stream == place.name)


def all_positions() -> Mapping[str, Position]:
    """All positions of all tables by name, those of the UNet first."""
    return _positions_of(_Tables(TABLES))


class _Tables(tuple[BlockTable, ...]):
    """The tables there are, compared by identity, which is quick; more can be added at any time."""

    def __hash__(self) -> int:
        return hash(tuple(map(id, self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Tables) and len(self) == len(other) and all(map(is_, self, other))


@cache
def _positions_of(tables: _Tables) -> Mapping[str, Position]:
    found: dict[str, Position] = {}
    for table in tables:
        for place in table.places:
            if place.name not in found:
                found[place.name] = _described(place)
    return MappingProxyType(found)


POSITIONS: tuple[Position, ...] = tuple(
    position
    for table in UNET_TABLES
    for position in map(_described, table.places)
    if not position.is_projection
)  # fmt: skip


def position(name: str) -> Position:
    """Look up a position.

    Parameters
    ----------
    name : str

    Returns
    -------
    Position

    Raises
    ------
    ValueError
        If there is none with that name; the message names the valid ones.
    """
    known = all_positions()
    if name not in known:
        by_paper_name = {p.paper_name.lower(): p.name for p in known.values() if p.paper_name}
        hint = by_paper_name.get(str(name).lower())
        hint = f" (the paper's {name} is {hint})" if hint else ""
        projections = [p.name for p in known.values() if p.is_projection]
        others = [p.name for p in known.values() if not p.is_projection]
        raise ValueError(
            f"Unknown position {name!r}{hint}; the positions are {', '.join(others)}, and the projections "
            f"{', '.join(projections)}."
        )
    return known[name]


def valid_outputs(din: str) -> tuple[str, ...]:
    """Names of the positions where an adapter that reads at `din` may write, in the blocks of some class.

    They are in the same component and not before `din` on the datapath.
    """
    return tuple(dict.fromkeys(dout for table in TABLES for dout in table.outputs(din)))


def check_placement(din: str, dout: str) -> None:
    """Raise ValueError with cause and valid choices unless an adapter can read at `din` and write at `dout`."""
    source, target = position(din), position(dout)
    valid = valid_outputs(din)
    if dout in valid:
        return
    if source.block != target.block:
        cause = f"{din} is in the {source.block} block and {dout} in the {target.block} block"
    elif source.is_projection or target.is_projection:
        cause = "a projection is read at its input and written at its output, and at no other position"
    elif source.component != target.component:
        cause = f"{din} and {dout} have different tokens (image and text), which do not mix"
    elif not any((place := table.place(dout)) and place.writes for table in TABLES):
        cause = f"{dout} can be read but not written"
    else:
        cause = f"{dout} comes before {din} on the datapath"
    raise ValueError(f"No adapter can read {din} and write {dout}: {cause}; from {din} write to {' or '.join(valid)}.")


INPUTS: tuple[str, ...] = tuple(p.name for p in POSITIONS)
PLACEMENTS: tuple[str, ...] = tuple(
    f"{name}-{dout}" for name in INPUTS for table in UNET_TABLES for dout in table.outputs(name)
)


def datapath_order(placement: str) -> tuple[int, int]:
    """A key that sorts placements along the datapath: first the UNet's, then those of other models."""
    order = {name: number for number, name in enumerate(all_positions())}
    din, _, dout = placement.partition("-")
    return order[din], order[dout]


OUTPUTS: tuple[str, ...] = tuple(name for name in INPUTS if any(p.endswith(f"-{name}") for p in PLACEMENTS))


def split_placement(placement: str) -> tuple[str, str]:
    """Split a placement into its positions.

    Parameters
    ----------
    placement : str
        Written ``din-dout``.

    Returns
    -------
    tuple of str
        din and dout.

    Raises
    ------
    ValueError
        If it is not a valid placement; the message names the valid ones.
    """
    din, dash, dout = str(placement).partition("-")
    if not dash:
        raise ValueError(f"{placement!r} is not a placement `din-dout`; the placements are {', '.join(PLACEMENTS)}.")
    check_placement(din, dout)
    return din, dout


def component(placement: str) -> str:
    """The component that a placement belongs to, such as "transformer", "context" or "resnet"."""
    din, _ = split_placement(placement)
    return position(din).component
