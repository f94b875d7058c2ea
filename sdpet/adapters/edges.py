"""Paths through a block (edges), and what edges share: their handle's settings, and the rows of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakSet

import torch
from torch import Tensor

from sdpet.adapters.tables import Place, Tap


class Carrier(Protocol):
    """What an attachment put on a model: hooks with some edges, that can be taken off."""

    @property
    def edges(self) -> Sequence[Edge]:
        """The edges of these hooks, of this attachment and of others."""
        ...

    def remove(self, edges: list[Edge]) -> None:
        """Remove edges, and the hooks that no other edge needs."""
        ...


@dataclass(eq=False)
class RowShares:
    """How the rows of a batch are divided among the members of a fleet, in order.

    Parameters
    ----------
    counts : list of int
        Share i gets ``counts[i]`` of ``sum(counts)`` equal parts of the rows.
    """

    counts: list[int]

    def split(self, value: Tensor) -> list[Tensor]:
        """Divide the rows of a tensor.

        Parameters
        ----------
        value : Tensor, shape (B, ...)

        Returns
        -------
        list of Tensor
            One view a share, shape (counts[i] * B / sum(counts), ...).

        Raises
        ------
        ValueError
            If B is not a multiple of ``sum(counts)``.
        """
        rows = self._rows_per_part(value)
        return list(value.split([count * rows for count in self.counts]))

    def span(self, value: Tensor, first: int, count: int) -> tuple[int, int]:
        """Find the rows of several neighbouring shares.

        Parameters
        ----------
        value : Tensor, shape (B, ...)
        first : int
            Index of the first share.
        count : int
            Number of shares.

        Returns
        -------
        tuple of int
            First row, and the row after the last one.

        Raises
        ------
        ValueError
            If B is not a multiple of ``sum(counts)``.
        """
        rows = self._rows_per_part(value)
        return rows * sum(self.counts[:first]), rows * sum(self.counts[: first + count])

    def _rows_per_part(self, value: Tensor) -> int:
        rows, rest = divmod(len(value), sum(self.counts))
        if rest:
            raise ValueError(
                f"A fleet of {sum(self.counts)} members got a batch of {len(value)} rows; give each as many."
            )
        return rows


class Attachment:
    """What the edges of one handle share: their settings, and the blocks that carry them.

    The blocks' hooks are known by weak references, which are not copied. A copy of a block reports itself to the copy
    of the attachment, so that a handle copied together with its UNet is attached to that copy, and a handle copied
    alone is attached to nothing.

    Attributes
    ----------
    active : bool
        Whether the edges have an effect.
    strength : float
        Factor on what a single design's adapters add.
    carriers : WeakSet of Carrier
        The hooks of the blocks that carry its edges, and what else hangs on the model for them.
    """

    def __init__(self) -> None:
        self.active = True
        self.strength = 1.0
        self.carriers: WeakSet[Carrier] = WeakSet()

    def __getstate__(self) -> dict[str, Any]:
        return {"active": self.active, "strength": self.strength}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.carriers = WeakSet()

    @property
    def attached(self) -> bool:
        """Whether any block carries an edge of this attachment."""
        return bool(self.carriers)

    def remove(self) -> None:
        """Remove the edges from all blocks."""
        for hooks in list(self.carriers):
            hooks.remove([edge for edge in hooks.edges if edge.attachment is self])


@dataclass(eq=False)
class Edge:
    """A path through a block: reads at a position, and adds at another.

    Parameters
    ----------
    sources : tuple of Place
        Where it reads: one place for each share of the batch that the edge gets, which is one for the whole batch, and
        several where members of a fleet read at different positions and write at the same one.
    target : Place
        Where it adds.
    delta : callable
        ``delta(read, dtype)`` gives what is added, in that dtype. To be copied and pickled with the block, it must be
        a picklable object.
    attachment : Attachment
    shares : RowShares, optional
        None where the edge gets the whole batch.
    first : int
        Index of the first share that the edge gets.
    """

    sources: tuple[Place, ...]
    target: Place
    delta: Callable[[Tensor, torch.dtype], Tensor]
    attachment: Attachment
    shares: RowShares | None = None
    first: int = 0

    @property
    def taps(self) -> list[Tap]:
        """All taps at which it reads or writes."""
        return [*(tap for place in self.sources for tap in place.reads), *self.target.writes]
