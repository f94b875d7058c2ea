"""The positions where an adapter may read and write, as one table in datapath order. Free of torch.

A position is data. Its *taps* say where its value can be read in diffusers' block: the path of a submodule inside the
block, the side (its input or its output) and, for an input, the name of the argument. The code that attaches adapters
(sdpet.adapters) interprets taps and knows no position by name.

Two facts about diffusers' blocks shape the table (names as in the datapath of `BasicTransformerBlock`):

    x1 = attn1(norm1(x0)) + x0;  x2 = attn2(norm2(x1), context) + x1;  x3 = ff(norm3(x2)) + x2

- x1 and x2 exist only inside `forward`. They are *read* as the sum of their terms: x1 is the input of norm1
  plus the output of attn1.
- A *write* to x1 has to reach the branch (norm2) and the skip (the "+ x1"). Addition commutes, so adding to
  the output of attn1 is adding to x1. Changing the input of norm2 would miss the skip, and would be wrong.

Names, paper names and the 20 placements: Xiang et al., arXiv 2303.18181, and its published configuration files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Tap:
    """A place in a block where a tensor can be read or changed.

    Parameters
    ----------
    path : str
        Submodule inside the block; "" for the block itself.
    side : {"in", "out"}
        Input or output of that submodule.
    argument : str
        For an input, the name of the argument of its `forward`. An output must be one tensor.
    """

    path: str
    side: Literal["in", "out"]
    argument: str = ""


@dataclass(frozen=True)
class Position:
    """A named place on the datapath of a block.

    Parameters
    ----------
    name, paper_name : str
        Its names here and in the paper.
    block : {"transformer", "resnet"}
        Kind of block that it belongs to.
    component : {"transformer", "context", "resnet"}
        Which tokens flow there. An adapter connects positions of one component, because tokens of another differ in
        width or number; so placements form components that are not connected.
    reads : tuple of Tap
        The sum of their values is the value at the position.
    writes : tuple of Tap
        An addition to their values is an addition at the position. Empty where it would be the same as writing at
        the next position (addition commutes).
    width : str
        Attribute of the block that holds the number of channels.
    groups : str, optional
        Attribute of the block that holds the number of groups of its norm.
    meaning : str
        The position in words.
    """

    name: str
    paper_name: str
    block: Literal["transformer", "resnet"]
    component: Literal["transformer", "context", "resnet"]
    reads: tuple[Tap, ...]
    writes: tuple[Tap, ...]
    width: str
    groups: str | None = None
    meaning: str = ""


_X0 = Tap("", "in", "hidden_states")
_SA = Tap("attn1", "out")
_CONTEXT = Tap("attn2", "in", "encoder_hidden_states")
_CA = Tap("attn2", "out")
_FF = Tap("ff", "out")
_OUT = Tap("", "out")
_X1 = (Tap("norm1", "in", "input"), _SA)
_X2 = (Tap("norm2", "in", "input"), _CA)
_RES_IN = Tap("", "in", "input_tensor")

POSITIONS: tuple[Position, ...] = (
    Position("attn1i", "SA_in", "transformer", "transformer", (_X0,), (_X0,), "dim",
             meaning="residual stream where the block begins"),
    Position("attn1o", "SA_out", "transformer", "transformer", (_SA,), (), "dim",
             meaning="output of self-attention, before it is added"),
    Position("attn2i", "CA_in", "transformer", "transformer", _X1, (_SA,), "dim",
             meaning="residual stream after self-attention was added"),
    Position("attn2c", "CA_c", "transformer", "context", (_CONTEXT,), (_CONTEXT,), "attn2.cross_attention_dim",
             meaning="context (text embedding) that this block's cross-attention reads"),
    Position("attn2o", "CA_out", "transformer", "transformer", (_CA,), (), "dim",
             meaning="output of cross-attention, before it is added"),
    Position("ffni", "FFN_in", "transformer", "transformer", _X2, (_CA,), "dim",
             meaning="residual stream after cross-attention was added"),
    Position("ffno", "FFN_out", "transformer", "transformer", (_FF,), (), "dim",
             meaning="output of the feed-forward layer, before it is added"),
    Position("transo", "Trans_out", "transformer", "transformer", (_OUT,), (_OUT,), "dim",
             meaning="residual stream at the end of the block"),
    Position("resi", "Res_in", "resnet", "resnet", (_RES_IN,), (_RES_IN,), "in_channels", "norm1.num_groups",
             meaning="input of the ResBlock, branch and skip"),
    Position("reso", "Res_out", "resnet", "resnet", (_OUT,), (_OUT,), "out_channels", "norm2.num_groups",
             meaning="output of the ResBlock"),
)  # fmt: skip

INPUTS: tuple[str, ...] = tuple(p.name for p in POSITIONS)
OUTPUTS: tuple[str, ...] = tuple(p.name for p in POSITIONS if p.writes)
_INDEX = {p.name: i for i, p in enumerate(POSITIONS)}


def position(name: str) -> Position:
    """Look up a position.

    Parameters
    ----------
    name : str

    Returns
    -------
    Position
        A row of the table.

    Raises
    ------
    ValueError
        If there is none with that name; the message names the valid ones.
    """
    if name not in _INDEX:
        by_paper_name = {p.paper_name.lower(): p.name for p in POSITIONS}
        hint = by_paper_name.get(str(name).lower())
        hint = f" (the paper's {name} is {hint})" if hint else ""
        raise ValueError(f"Unknown position {name!r}{hint}; the positions are {', '.join(INPUTS)}.")
    return POSITIONS[_INDEX[name]]


def valid_outputs(din: Position) -> tuple[str, ...]:
    """Names of the positions where an adapter that reads at `din` may write.

    They are in the same component and not before `din` on the datapath.
    """
    later = POSITIONS[_INDEX[din.name] :]
    return tuple(p.name for p in later if p.writes and p.component == din.component)


def check_placement(din: str, dout: str) -> None:
    """Raise ValueError with cause and valid choices unless an adapter can read at `din` and write at `dout`."""
    source, target = position(din), position(dout)
    valid = valid_outputs(source)
    if dout in valid:
        return
    if source.block != target.block:
        cause = f"{din} is in the {source.block} block and {dout} in the {target.block} block"
    elif source.component != target.component:
        cause = f"{din} and {dout} have different tokens (image and text), which do not mix"
    elif not target.writes:
        cause = f"{dout} can be read but not written"
    else:
        cause = f"{dout} comes before {din} on the datapath"
    raise ValueError(f"No adapter can read {din} and write {dout}: {cause}; from {din} write to {' or '.join(valid)}.")


PLACEMENTS: tuple[str, ...] = tuple(f"{p.name}-{dout}" for p in POSITIONS for dout in valid_outputs(p))


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
    """The component that a placement belongs to: "transformer", "context" or "resnet"."""
    din, _ = split_placement(placement)
    return position(din).component
