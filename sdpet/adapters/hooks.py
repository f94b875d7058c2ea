"""Interprets taps (sdpet.adapters.positions) as forward hooks on one block and its submodules.

Hooks are all that is changed: no parameter, buffer, submodule or method of the block. What is remembered between a
read and a write lives for one forward pass of the block: it is forgotten when the block returns, also when it is left
by an exception, which is how torch ends the recomputation of a checkpointed block.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sdpet.adapters.positions import Tap


@dataclass(eq=False)
class Shares:
    """How the rows of a batch are shared out, in order: share i has counts[i] of sum(counts) equal parts."""

    counts: list[int]

    def split(self, value: Tensor) -> list[Tensor]:
        """Views of value (B, ...), one a share. ValueError when the rows cannot be shared out evenly."""
        rows = self._rows_each(value)
        return list(value.split([count * rows for count in self.counts]))

    def span(self, value: Tensor, first: int, count: int) -> tuple[int, int]:
        """(start, stop): the rows of value (B, ...) that `count` shares from number `first` on have."""
        rows = self._rows_each(value)
        return rows * sum(self.counts[:first]), rows * sum(self.counts[: first + count])

    def _rows_each(self, value: Tensor) -> int:
        rows, rest = divmod(len(value), sum(self.counts))
        if rest:
            raise ValueError(
                f"A fleet of {sum(self.counts)} members got a batch of {len(value)} rows; give each as many."
            )
        return rows


@dataclass(eq=False)
class Edge:
    """One way through a block: from the sum of the values at the taps that are read to the value at the taps `writes`.

    change(read, dtype): what is added to the value at a tap of `writes`, in its dtype, given what was read.
    reads: the taps to sum up, for each share of the batch that the edge gets: one for the whole batch, several where
    members of a fleet that read at different places write here together.
    shares: None where it gets the whole batch, or of which shares it gets those from number `first` on.
    """

    reads: tuple[tuple[Tap, ...], ...]
    writes: tuple[Tap, ...]
    change: Callable[[Tensor, torch.dtype], Tensor]
    active: bool = True
    shares: Shares | None = None
    first: int = 0

    @property
    def read_taps(self) -> list[Tap]:
        return [tap for taps in self.reads for tap in taps]


class Wiring:
    """The hooks of one block for all its edges.

    Every edge reads what the block and the edges that write earlier on the datapath made; edges that write to one tap
    do not see each other and are applied in the order in which they came, so for additions the order does not matter.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.edges: list[Edge] = []
        self._seen: dict[Tap, Tensor] = {}
        self._parts: dict[tuple[Tap, Shares], list[Tensor]] = {}  # what was seen, shared out
        self._hooks: list[RemovableHandle] = []

    def hook(self, block: nn.Module) -> None:
        """Put the hooks that `edges` need, in place of those that were there."""
        for handle in self._hooks:
            handle.remove()
        self._hooks = []
        self._forget()
        if not self.edges:
            return
        self._hooks.append(block.register_forward_pre_hook(self._begin))
        taps = dict.fromkeys(tap for edge in self.edges for tap in (*edge.read_taps, *edge.writes))
        for tap in taps:
            module = block.get_submodule(tap.path)
            if tap.side == "in":
                index = list(inspect.signature(type(module).forward).parameters).index(tap.argument) - 1
                hook = partial(self._enter, tap, index)
                self._hooks.append(module.register_forward_pre_hook(hook, with_kwargs=True))
            else:
                self._hooks.append(module.register_forward_hook(partial(self._leave, tap)))
        self._hooks.append(block.register_forward_hook(self._end, always_call=True))

    def _begin(self, module: nn.Module, args: Any) -> None:
        self._forget()

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        self._forget()

    def _forget(self) -> None:
        self._seen.clear()
        self._parts.clear()

    def _enter(self, tap: Tap, index: int, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        if tap.argument in kwargs:
            return args, {**kwargs, tap.argument: self._pass(tap, kwargs[tap.argument])}
        if index < len(args):
            return (*args[:index], self._pass(tap, args[index]), *args[index + 1 :]), kwargs
        return args, {**kwargs, tap.argument: self._pass(tap, None)}

    def _leave(self, tap: Tap, module: nn.Module, args: Any, output: Any) -> Any:
        return self._pass(tap, output)

    def _pass(self, tap: Tap, value: Any) -> Any:
        """`value` goes by: remember it for the edges that read here, have it rewritten by those that write here."""
        edges = [edge for edge in self.edges if edge.active]
        if any(tap in edge.read_taps for edge in edges):
            self._seen[tap] = self._checked(tap, value)
        spans, changes = [], []
        for edge in edges:
            if tap not in edge.writes:
                continue
            if edge.shares is None:
                value = value + edge.change(self._read(edge), value.dtype)
            else:
                spans.append(edge.shares.span(value, edge.first, len(edge.reads)))
                changes.append(edge.change(self._read(edge), value.dtype))
        return _AddToRows.apply(value, spans, *changes) if spans else value

    def _read(self, edge: Edge) -> Tensor:
        parts = []
        for number, (first, *others) in enumerate(edge.reads, edge.first):
            total = self._part(first, edge, number)
            for tap in others:
                total = self._part(tap, edge, number) + total
            parts.append(total)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _part(self, tap: Tap, edge: Edge, number: int) -> Tensor:
        """What was seen at the tap, of the batch or of one of the edge's shares of it."""
        if edge.shares is None:
            return self._seen[tap]
        if (tap, edge.shares) not in self._parts:
            self._parts[tap, edge.shares] = edge.shares.split(self._seen[tap])
        return self._parts[tap, edge.shares][number]

    def _checked(self, tap: Tap, value: Any) -> Tensor:
        place = f"{tap.side}put {tap.argument}".strip() + f" of {tap.path or 'the block'} in {self.name}"
        if not isinstance(value, Tensor):
            raise ValueError(f"An adapter reads the {place}, which must be one tensor but is {type(value).__name__}.")
        if tap in self._seen:
            raise ValueError(
                f"An adapter reads the {place}, which was computed more than once in a forward pass; "
                "switch feed-forward chunking off."
            )
        return value


class _AddToRows(torch.autograd.Function):
    """value (B, ...) with changes added to its rows start to stop, one change a span; spans do not overlap.

    Slices and concatenation would do the same, but copy the whole gradient of the value at every tap.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, spans: list[tuple[int, int]], *changes: Tensor) -> Tensor:  # type: ignore[override]
        ctx.spans = spans
        value = value.clone()
        for (start, stop), change in zip(spans, changes, strict=True):
            value[start:stop] += change
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        return grad, None, *(grad[start:stop] for start, stop in ctx.spans)


_WIRINGS: WeakKeyDictionary[nn.Module, Wiring] = WeakKeyDictionary()


def connect(block: nn.Module, name: str, edge: Edge) -> Callable[[], None]:
    """Add `edge` to the block that is called `name`; the function returned takes it away again."""
    wiring = _WIRINGS.setdefault(block, Wiring(name))
    wiring.edges.append(edge)
    wiring.hook(block)

    def disconnect() -> None:
        wiring.edges.remove(edge)
        wiring.hook(block)
        if not wiring.edges:
            del _WIRINGS[block]

    return disconnect


def is_connected(block: nn.Module) -> bool:
    """Whether any edge goes through the block."""
    return block in _WIRINGS
