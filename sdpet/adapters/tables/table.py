"""What a table of taps is made of: taps, places and the table of one block class. Free of torch.

A table says, in datapath order, where the positions of a block are. The code that attaches adapters interprets tables
and knows no position by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
        For an input, the name of the argument of its `forward`; "" for the first one.
    index : int, optional
        For an output that is a tuple, the index of the tensor. None where the output is one tensor.
    is_map : bool
        Whether the value is a feature map (B, C, H, W) that is read as tokens (B, H * W, C).
    own : bool
        Whether the value is read as the module computes it, without what adapters add to it: a branch that is still to
        be added to the stream, and at which adapters write to the stream. Otherwise it is read with what adapters add
        at earlier positions.
    first : bool
        Whether an output is changed before forward hooks that are there already see it, as where the model itself
        records what its blocks give.
    """

    path: str
    side: Literal["in", "out"]
    argument: str = ""
    index: int | None = None
    is_map: bool = False
    own: bool = False
    first: bool = False

    def __str__(self) -> str:
        """The tap in words, such as "output 1 of attn"."""
        number = "" if self.index is None else f" {self.index}"
        return " ".join(f"{self.side}put{number} {self.argument}".split()) + f" of {self.path or 'the block'}"


@dataclass(frozen=True)
class Place:
    """Where one position is in the blocks of one class.

    Parameters
    ----------
    name : str
        The position.
    reads : tuple of Tap
        The value at the position is the sum of their values, or with `joined` their values one after another.
    writes : tuple of Tap
        What an adapter adds at the position is computed once and added to the value at each of them. Empty where
        writing is not offered, as where it would be the same as writing at the next position (addition commutes).
    width : str
        Attribute of the block that holds the number of channels, such as "attn1.to_q.in_features".
    written_width : str
        The same of what is written, where it differs from what is read, as at a projection; "" where it does not.
    stream : str
        Which tensors flow there. An adapter connects positions of one stream, because those of another differ in
        width or number.
    layout : {"tokens", "map"}
        (B, N, channels) or (B, channels, H, W).
    groups : str
        Attribute of the block that holds the number of groups of its norm; "" without.
    joined : bool
        Whether the values of the taps are one sequence, in parts: they are read one after another, and what is added
        is divided into parts of their lengths. The taps to write at are of one module and side.
    needs : tuple of str
        Submodules without which a block has no such position. Those of the taps are needed anyway.
    fusible : str
        Attention module whose projections, once fused, run without this one, such as "attn1"; "" without.
    meaning : str
        The position in words. Of a position that other tables have, it may be left out.
    order : int
        Number of the position on the datapath. Its table sets it.
    """

    name: str
    reads: tuple[Tap, ...]
    writes: tuple[Tap, ...]
    width: str
    written_width: str = ""
    stream: str = "transformer"
    layout: Literal["tokens", "map"] = "tokens"
    groups: str = ""
    joined: bool = False
    needs: tuple[str, ...] = ()
    fusible: str = ""
    meaning: str = ""
    order: int = -1

    @property
    def paths(self) -> tuple[str, ...]:
        """Submodules that a block must have for the position to exist."""
        return tuple(dict.fromkeys(tap.path for tap in (*self.reads, *self.writes) if tap.path)) + self.needs


@dataclass(frozen=True)
class BlockTable:
    """The positions of the blocks of one class.

    Parameters
    ----------
    block : str
        Name of the class.
    places : tuple of Place
        In datapath order: an adapter may write at the position where it reads, or later.
    package : str
        The package that defines the class, such as "diffusers" or "my_lab".
    only : mapping of str to str
        Attributes of the block and the values they must have: the variant of the class that the table describes.
    skip : tuple of str
        Attributes of the block; where one is true, the block gets no adapter.

    Raises
    ------
    ValueError
        If two places have one name, or taps that are written as one sequence are of different modules.
    """

    block: str
    places: tuple[Place, ...]
    package: str = "diffusers"
    only: Mapping[str, str] = field(default_factory=dict)
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [place.name for place in self.places]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"The table of {self.block} has {twice[0]} more than once.")
        for place in self.places:
            if place.joined and len({(tap.path, tap.side) for tap in place.writes}) > 1:
                raise ValueError(f"{place.name} of {self.block} is written as one sequence, but in different modules.")
        places = tuple(replace(place, order=order) for order, place in enumerate(self.places))
        object.__setattr__(self, "places", places)

    def place(self, name: str) -> Place | None:
        """The place with a name, or None."""
        return next((place for place in self.places if place.name == name), None)

    def outputs(self, din: str) -> tuple[str, ...]:
        """Names of the positions where an adapter that reads at `din` may write, in datapath order."""
        source = self.place(din)
        if source is None:
            return ()
        later = self.places[source.order :]
        return tuple(place.name for place in later if place.writes and place.stream == source.stream)

    @property
    def placements(self) -> tuple[str, ...]:
        """All placements, written ``din-dout``, in datapath order."""
        return tuple(f"{place.name}-{dout}" for place in self.places for dout in self.outputs(place.name))


def projection(name: str, path: str, fusible: str = "") -> Place:
    """A linear layer: it is read at its input and written at its output, and is a stream of its own.

    A low-rank adapter at such a place is LoRA (Hu et al. 2021, arXiv 2106.09685).

    Parameters
    ----------
    name : str
        The position.
    path : str
        The layer in the block.
    fusible : str
        See `Place`.

    Returns
    -------
    Place
    """
    return Place(name, (Tap(path, "in"),), (Tap(path, "out"),), f"{path}.in_features", f"{path}.out_features",
                 stream=name, fusible=fusible, meaning=f"linear layer {path}: its input and its output")  # fmt: skip


_LAYERS = {"q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out.0"}
_ADDED_LAYERS = {"q": "add_q_proj", "k": "add_k_proj", "v": "add_v_proj", "out": "to_add_out"}


def attention_projections(name: str, path: str, *, added: bool = False, layers: str = "q k v out") -> tuple[Place, ...]:
    """The projections of an attention module of diffusers.

    Parameters
    ----------
    name : str
        What their names begin with, such as "attn1" in "attn1.q".
    path : str
        The module in the block.
    added : bool
        Whether they are those of the second stream of a joint attention (add_q_proj ...).
    layers : str
        Which ones.

    Returns
    -------
    tuple of Place
    """
    paths = _ADDED_LAYERS if added else _LAYERS
    return tuple(
        projection(f"{name}.{layer}", f"{path}.{paths[layer]}", "" if layer == "out" else path)
        for layer in layers.split()
    )


def feed_forward_projections(name: str, path: str) -> tuple[Place, ...]:
    """The two linear layers of diffusers' FeedForward at `path`, as ``<name>.in`` and ``<name>.out``."""
    return projection(f"{name}.in", f"{path}.net.0.proj"), projection(f"{name}.out", f"{path}.net.2")
