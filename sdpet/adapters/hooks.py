"""Interprets taps (sdpet.adapters.positions) as forward hooks on one block and its submodules.

Forward hooks are the only change: no parameter, buffer, submodule or method of the block is touched. All state hangs on
these hooks, and nowhere else. So it goes wherever the block goes: `copy.deepcopy` and `pickle` of a block copy its
adapters with it, and the copy shares nothing with the original.

Values that an adapter has read are kept for one forward pass of the block. They are dropped when the block returns, and
also when an exception ends it, which is how torch ends the recomputation of a checkpointed block.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sdpet.adapters.edges import Edge, RowShares
from sdpet.adapters.positions import Tap


class BlockHooks:
    """The hooks of one block, for all its edges.

    An edge reads what the block and the edges that write earlier on the datapath computed. Edges that write to one tap
    do not see each other. They are applied in the order in which they were added; as all of them add, the order does
    not matter.

    Parameters
    ----------
    name : str
        The block's path in the UNet.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.edges: list[Edge] = []
        self._handles: dict[Tap | str, RemovableHandle] = {}
        self._seen: dict[Tap, Tensor] = {}
        self._parts: dict[tuple[Tap, RowShares], list[Tensor]] = {}  # values of _seen, divided by rows

    def __getstate__(self) -> dict[str, Any]:
        # The handles are part of the state, as torch then gives hooks that come later other ids.
        return {"name": self.name, "edges": self.edges, "_handles": self._handles}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._seen, self._parts = {}, {}
        for edge in self.edges:
            edge.attachment.carriers.add(self)

    def add(self, block: nn.Module, edge: Edge) -> None:
        """Add an edge to the block whose hooks these are."""
        self.edges.append(edge)
        edge.attachment.carriers.add(self)
        self._remove_handles(list(self._handles))
        self._handles["begin"] = block.register_forward_pre_hook(self._begin)
        for tap in dict.fromkeys(tap for edge in self.edges for tap in edge.taps):
            module = block.get_submodule(tap.path)
            if tap.side == "in":
                index = list(inspect.signature(type(module).forward).parameters).index(tap.argument) - 1
                hook = partial(self._intercept_input, tap, index)
                self._handles[tap] = module.register_forward_pre_hook(hook, with_kwargs=True)
            else:
                self._handles[tap] = module.register_forward_hook(partial(self._intercept_output, tap))
        self._handles["end"] = block.register_forward_hook(self._end, always_call=True)

    def remove(self, edges: list[Edge]) -> None:
        """Remove edges, and the hooks that no other edge needs."""
        self.edges = [edge for edge in self.edges if edge not in edges]
        for edge in edges:
            if not any(other.attachment is edge.attachment for other in self.edges):
                edge.attachment.carriers.discard(self)
        needed: set[Tap | str] = {tap for edge in self.edges for tap in edge.taps}
        if self.edges:
            needed |= {"begin", "end"}
        self._remove_handles([key for key in self._handles if key not in needed])

    def _remove_handles(self, keys: list[Tap | str]) -> None:
        for key in keys:
            self._handles.pop(key).remove()
        self._forget()

    def _begin(self, module: nn.Module, args: Any) -> None:
        self._forget()

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        self._forget()

    def _forget(self) -> None:
        self._seen.clear()
        self._parts.clear()

    def _intercept_input(self, tap: Tap, index: int, module: nn.Module, args: tuple, kwargs: dict) -> tuple:
        if tap.argument in kwargs:
            return args, {**kwargs, tap.argument: self._intercept(tap, kwargs[tap.argument])}
        if index < len(args):
            return (*args[:index], self._intercept(tap, args[index]), *args[index + 1 :]), kwargs
        return args, {**kwargs, tap.argument: self._intercept(tap, None)}

    def _intercept_output(self, tap: Tap, module: nn.Module, args: Any, output: Any) -> Any:
        return self._intercept(tap, output)

    def _intercept(self, tap: Tap, value: Any) -> Any:
        """Store the value at a tap for the edges that read it, and return it with the additions of those that write."""
        edges = [edge for edge in self.edges if edge.attachment.active]
        if any(tap in edge.read_taps for edge in edges):
            self._seen[tap] = self._checked(tap, value)
        spans, deltas = [], []
        for edge in edges:
            if tap not in edge.writes:
                continue
            if edge.shares is None:
                value = value + edge.delta(self._read(edge), value.dtype)
            else:
                spans.append(edge.shares.span(value, edge.first, len(edge.reads)))
                deltas.append(edge.delta(self._read(edge), value.dtype))
        return _AddToRows.apply(value, spans, *deltas) if spans else value

    def _read(self, edge: Edge) -> Tensor:
        parts = []
        for share, (first, *others) in enumerate(edge.reads, edge.first):
            total = self._part(first, edge, share)
            for tap in others:
                total = self._part(tap, edge, share) + total
            parts.append(total)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _part(self, tap: Tap, edge: Edge, share: int) -> Tensor:
        """The value at a tap: of the whole batch, or of one of the edge's shares."""
        if edge.shares is None:
            return self._seen[tap]
        if (tap, edge.shares) not in self._parts:
            self._parts[tap, edge.shares] = edge.shares.split(self._seen[tap])
        return self._parts[tap, edge.shares][share]

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
    """Add deltas to spans of rows of a tensor (B, ...), one delta a span; the spans do not overlap.

    Slices and concatenation would do the same, but copy the whole gradient of the value at every tap.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, spans: list[tuple[int, int]], *deltas: Tensor) -> Tensor:  # type: ignore[override]
        ctx.spans = spans
        value = value.clone()
        for (start, stop), delta in zip(spans, deltas, strict=True):
            value[start:stop] += delta
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        return grad, None, *(grad[start:stop] for start, stop in ctx.spans)


def connect(block: nn.Module, name: str, edge: Edge) -> None:
    """Add an edge to a block; `Attachment.remove` takes it out again.

    Parameters
    ----------
    block : nn.Module
    name : str
        The block's path in the UNet, for messages and for handles made of the block's edges.
    edge : Edge
    """
    (find_hooks(block) or BlockHooks(name)).add(block, edge)


def find_hooks(block: nn.Module) -> BlockHooks | None:
    """The hooks that carry a block's edges, or None if it has no edge."""
    owners = (getattr(hook, "__self__", None) for hook in block._forward_pre_hooks.values())
    return next((owner for owner in owners if isinstance(owner, BlockHooks)), None)


def all_hooks(unet: nn.Module) -> Iterator[BlockHooks]:
    """The hooks of every block below `unet` that has an edge, in the order of its modules."""
    for module in unet.modules():
        if (hooks := find_hooks(module)) is not None:
            yield hooks
