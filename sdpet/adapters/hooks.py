"""Interprets taps (sdpet.adapters.tables) as forward hooks on one block and its submodules.

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
from sdpet.adapters.tables import Tap


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
        self._handles: dict[tuple[str, str] | str, RemovableHandle] = {}
        self._clear()

    def _clear(self) -> None:
        self._seen: dict[tuple[Tap, int], Tensor] = {}  # by tap and order of the position that reads it
        self._parts: dict[tuple[Tap, int, RowShares], dict[int, Tensor]] = {}  # rows of values of _seen, by share
        self._readers: dict[tuple[Tap, int, RowShares], list[int]] = {}  # the shares that are read there
        self._deltas: dict[Edge, Tensor] = {}  # of edges that write at several taps, one after another
        self._written: dict[Edge, int] = {}  # at how many of its taps an edge has written

    def __getstate__(self) -> dict[str, Any]:
        # The handles are part of the state, as torch then gives hooks that come later other ids.
        return {"name": self.name, "edges": self.edges, "_handles": self._handles}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._clear()
        for edge in self.edges:
            edge.attachment.carriers.add(self)

    def add(self, block: nn.Module, edge: Edge) -> None:
        """Add an edge to the block whose hooks these are."""
        self.edges.append(edge)
        self._readers.clear()
        edge.attachment.carriers.add(self)
        self._remove_handles(list(self._handles))
        self._handles["begin"] = block.register_forward_pre_hook(self._begin)
        sides: dict[tuple[str, str], dict[Tap, None]] = {}
        for tap in (tap for edge in self.edges for tap in edge.taps):
            sides.setdefault((tap.path, tap.side), {})[tap] = None
        for (path, side), taps in sides.items():
            module = block.get_submodule(path)
            if side == "in":
                arguments = {tap: _argument(module, tap) for tap in taps}
                hook = partial(self._intercept_inputs, arguments)
                self._handles[path, side] = module.register_forward_pre_hook(hook, with_kwargs=True)
            else:
                hook = partial(self._intercept_outputs, tuple(taps))
                first = any(tap.first for tap in taps)
                self._handles[path, side] = module.register_forward_hook(hook, prepend=first)
        self._handles["missed"] = block.register_forward_hook(self._refuse_missed)  # not called if an exception ends it
        self._handles["end"] = block.register_forward_hook(self._end, always_call=True)

    def remove(self, edges: list[Edge]) -> None:
        """Remove edges, and the hooks that no other edge needs."""
        self.edges = [edge for edge in self.edges if edge not in edges]
        for edge in edges:
            if not any(other.attachment is edge.attachment for other in self.edges):
                edge.attachment.carriers.discard(self)
        needed: set[tuple[str, str] | str] = {(tap.path, tap.side) for edge in self.edges for tap in edge.taps}
        if self.edges:
            needed |= {"begin", "missed", "end"}
        self._remove_handles([key for key in self._handles if key not in needed])

    def _remove_handles(self, keys: list[tuple[str, str] | str]) -> None:
        for key in keys:
            self._handles.pop(key).remove()
        self._clear()

    def _begin(self, module: nn.Module, args: Any) -> None:
        self._forget()

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        self._forget()

    def _refuse_missed(self, module: nn.Module, args: Any, output: Any) -> None:
        """Raise ValueError if an active edge did not write at all of its taps."""
        for edge in self.edges:
            if edge.attachment.active and self._written.get(edge, 0) < len(edge.target.writes):
                raise ValueError(
                    f"The adapter at {edge.target.name} in {self.name} has no effect: the block ran without the "
                    f"{' or the '.join(map(str, edge.target.writes))}; if its projections are fused, call "
                    "unfuse_qkv_projections()."
                )

    def _forget(self) -> None:
        for kept in (self._seen, self._parts, self._deltas, self._written):
            kept.clear()

    def _intercept_inputs(
        self, arguments: dict[Tap, tuple[str, int]], module: nn.Module, args: tuple, kwargs: dict
    ) -> Any:
        values: dict[Tap, Any] = {}
        for tap, (name, index) in arguments.items():
            values[tap] = args[index] if name not in kwargs and index < len(args) else kwargs.get(name)
        # With an IP-Adapter the context is a tuple: the text, and the states of images, which stay as they are.
        rest = {tap: value[1:] for tap, value in values.items() if isinstance(value, tuple) and value}
        values |= {tap: values[tap][0] for tap in rest}
        for tap, value in self._intercept(values).items():
            name, index = arguments[tap]
            given = (value, *rest[tap]) if tap in rest else value
            if name not in kwargs and index < len(args):
                args = (*args[:index], given, *args[index + 1 :])
            else:
                kwargs = {**kwargs, name: given}
        return args, kwargs

    def _intercept_outputs(self, taps: tuple[Tap, ...], module: nn.Module, args: Any, output: Any) -> Any:
        elements = output if isinstance(output, tuple | list) else ()
        values = {}
        for tap in taps:
            if tap.index is None:
                values[tap] = output
            else:
                values[tap] = elements[tap.index] if tap.index < len(elements) else None
        for tap, value in self._intercept(values).items():
            i = tap.index
            output = value if i is None else (*output[:i], value, *output[i + 1 :])
        return output

    def _intercept(self, values: dict[Tap, Any]) -> dict[Tap, Tensor]:
        """Store values for the edges that read them, and return those to which edges add.

        Positions that share a tap are served in datapath order, so that a value read at a later one contains what is
        written at an earlier one, unless the module's own value is asked for (`Tap.own`).
        """
        edges = [edge for edge in self.edges if edge.attachment.active]
        readers = {
            (tap, place.order): None for edge in edges for place in edge.sources for tap in place.reads if tap in values
        }
        writers = [edge for edge in edges if any(tap in values for tap in edge.target.writes)]
        changed: dict[Tap, Tensor] = {}
        for now in sorted({order for _, order in readers} | {edge.target.order for edge in writers}):
            for tap, order in readers:
                if order == now:
                    self._seen[tap, order] = self._checked(tap, order, changed.get(tap, values[tap]))
            for tap, value in self._additions([e for e in writers if e.target.order == now], {**values, **changed}):
                changed[tap] = value
        return changed

    def _additions(self, edges: list[Edge], values: dict[Tap, Any]) -> list[tuple[Tap, Tensor]]:
        """The values to which edges add, with their additions. All of them write at one position."""
        spans: dict[Tap, list[tuple[int, int]]] = {}
        deltas: dict[Tap, list[Tensor]] = {}
        for edge in edges:
            taps = [tap for tap in edge.target.writes if tap in values]
            for tap in taps:
                _require_tensor("writes", tap, self.name, values[tap])
            for tap, delta in zip(taps, self._delta(edge, taps, values), strict=True):
                if edge.shares is None:
                    values[tap] = values[tap] + delta
                    deltas.setdefault(tap, [])
                else:
                    spans.setdefault(tap, []).append(edge.shares.span(values[tap], edge.first, len(edge.sources)))
                    deltas.setdefault(tap, []).append(delta)
            self._written[edge] = self._written.get(edge, 0) + len(taps)
        return [
            (tap, _AddToRows.apply(values[tap], spans[tap], *parts) if parts else values[tap])
            for tap, parts in deltas.items()
        ]

    def _delta(self, edge: Edge, taps: list[Tap], values: dict[Tap, Any]) -> list[Tensor]:
        """What an edge adds at taps. It is computed once a pass, also where the taps are of several modules."""
        place, dtype = edge.target, values[taps[0]].dtype
        if place.joined:
            delta = edge.delta(self._read(edge), dtype)
            if delta.dim() == 0:
                return [delta] * len(taps)
            return list(delta.split([values[tap].shape[1] for tap in taps], dim=1))
        if len(place.writes) == 1:
            return [edge.delta(self._read(edge), dtype)]
        if edge not in self._deltas:
            self._deltas[edge] = edge.delta(self._read(edge), dtype)
        return [self._deltas[edge].to(values[tap].dtype) for tap in taps]

    def _read(self, edge: Edge) -> Tensor:
        parts = []
        for share, place in enumerate(edge.sources, edge.first):
            values = [self._part((tap, place.order), edge, share) for tap in place.reads]
            total = torch.cat(values, dim=1) if place.joined else values[0]
            for value in () if place.joined else values[1:]:
                total = value + total
            parts.append(total)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _part(self, key: tuple[Tap, int], edge: Edge, share: int) -> Tensor:
        """The value at a tap: of the whole batch, or of one of the edge's shares."""
        if key not in self._seen:
            raise ValueError(
                f"An adapter reads the {key[0]} in {self.name}, which this pass did not compute before it is needed."
            )
        if edge.shares is None:
            return self._seen[key]
        place = (*key, edge.shares)
        if place not in self._parts:
            read = self._shares_read(*place)
            spans = [edge.shares.span(self._seen[key], one, 1) for one in read]
            self._parts[place] = dict(zip(read, _TakeRows.apply(self._seen[key], spans), strict=True))
        return self._parts[place][share]

    def _shares_read(self, tap: Tap, order: int, shares: RowShares) -> list[int]:
        """The shares that any edge reads at a tap."""
        if (tap, order, shares) not in self._readers:
            self._readers[tap, order, shares] = sorted({
                share
                for edge in self.edges if edge.shares == shares
                for share, place in enumerate(edge.sources, edge.first)
                if place.order == order and tap in place.reads
            })  # fmt: skip
        return self._readers[tap, order, shares]

    def _checked(self, tap: Tap, order: int, value: Any) -> Tensor:
        _require_tensor("reads", tap, self.name, value)
        if (tap, order) in self._seen:
            raise ValueError(
                f"An adapter reads the {tap} in {self.name}, which was computed more than once in a forward pass; "
                "switch feed-forward chunking off."
            )
        return value.flatten(2).transpose(1, 2) if tap.is_map else value


def _argument(module: nn.Module, tap: Tap) -> tuple[str, int]:
    """Name and index of an input's argument. Raises ValueError if the module's forward has no such argument."""
    names = list(inspect.signature(type(module).forward).parameters)[1:]
    name = tap.argument or names[0]
    if name not in names:
        raise ValueError(f"{type(module).__name__}.forward has no argument {name}, which an adapter needs.")
    return name, names.index(name)


def _require_tensor(does: str, tap: Tap, name: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        raise ValueError(
            f"An adapter {does} the {tap} in {name}, which must be one tensor but is {type(value).__name__}."
        )


class _TakeRows(torch.autograd.Function):
    """Views of spans of rows of a tensor (B, ...).

    A split into all shares would do the same, but makes a view of every share, and zeros for each that nobody reads.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, spans: list[tuple[int, int]]) -> tuple[Tensor, ...]:  # type: ignore[override]
        ctx.set_materialize_grads(False)
        ctx.spans, ctx.shape = spans, value.shape
        return tuple(value[start:stop] for start, stop in spans)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:  # type: ignore[override]
        total = None
        for (start, stop), grad in zip(ctx.spans, grads, strict=True):
            if grad is not None:
                total = grad.new_zeros(ctx.shape) if total is None else total
                total[start:stop] = grad
        return total, None


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
