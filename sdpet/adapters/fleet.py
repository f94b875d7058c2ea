"""Adapters of many designs on one UNet, each for its own rows of the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn

from sdpet.adapters.attachment import Adapters, matching_blocks, refuse_second
from sdpet.adapters.hooks import Edge, Shares, connect
from sdpet.adapters.positions import position
from sdpet.adapters.spec import AdapterSpec
from sdpet.adapters.stacked import Stack


class Fleet:
    """K members on one UNet, which then computes K models at once.

    A batch holds the rows of all members that are aboard, equally many each, in the order of `aboard`: members that
    write at the same place with adapters of equal shapes stand together, as they are computed together. Every member's
    adapter reads and writes its own rows alone; no operation of the UNet mixes rows.

    members: detached `Adapters` on the UNet's device, which are trained and saved like those of a single design.
    ValueError as of `attach`.
    """

    def __init__(self, unet: nn.Module, members: Sequence[Adapters]) -> None:
        self.members = list(members)
        self._blocks = [matching_blocks(unet, member.spec) for member in members]
        refuse_second(unet)
        groups: dict[tuple, list[int]] = {}
        for index, member in enumerate(members):
            groups.setdefault(_shape(member.spec), []).append(index)
        self._groups = [sorted(group, key=lambda i: self.members[i].spec.din) for group in groups.values()]
        self._vectors: dict[int, Tensor] = {}
        self._undo: list[Callable[[], None]] = []
        self._connect()

    def __len__(self) -> int:
        """Number of members aboard."""
        return sum(len(group) for group in self._groups)

    @property
    def aboard(self) -> list[int]:
        """Numbers of the members, in the order of their rows in a batch."""
        return [index for group in self._groups for index in group]

    def leave(self, index: int) -> None:
        """Take a member out: it has no rows in the batches to come. Its adapters stay as they are."""
        self._groups = [kept for group in self._groups if (kept := [i for i in group if i != index])]
        self._connect()
        for weight in (self._vectors[index], *self.members[index].parameters()):
            weight.grad = None

    def vector(self, index: int) -> Tensor:
        """All weights of a member (P,), in the order of its parameters, with the same storage as they have; `grad` is
        theirs, is added to in place, and must not be replaced: empty it by `zero_grad(set_to_none=False)`."""
        return self._vectors[index]

    def detach(self) -> None:
        """Take all members out of the UNet, which is then as it was."""
        while self._undo:
            self._undo.pop()()

    def _connect(self) -> None:
        self.detach()
        dins = [_runs([self.members[i].spec.din for i in group]) for group in self._groups]
        shares = Shares([count for runs in dins for _, count in runs])
        first = 0
        for group, runs in zip(self._groups, dins, strict=True):
            stack = self._stack(group)
            reads = tuple(position(din).reads for din, _ in runs)
            writes = position(self.members[group[0]].spec.dout).writes
            for path, block in self._blocks[group[0]].items():
                edge = Edge(reads, writes, partial(stack.change, path), shares=shares, first=first)
                self._undo.append(connect(block, path, edge))
            first += len(runs)

    def _stack(self, group: Sequence[int]) -> Stack:
        members = [self.members[index] for index in group]
        stack = Stack([member.by_block for member in members], [m.spec.scale * m.strength for m in members])
        for index, weights, gradients in zip(group, stack.weights, stack.gradients, strict=True):
            vector = self._vectors.setdefault(index, nn.Parameter(weights))
            vector.data, vector.grad = weights, gradients  # the same object in a new place, for optimisers know it
        return stack


def _shape(spec: AdapterSpec) -> tuple:
    """Members with equal ones are computed together. Widths are attributes of the block: equal names, equal widths."""
    source = position(spec.din)
    return (spec.dout, source.width, source.groups, spec.mid_dim, spec.activation)


def _runs(names: Sequence[str]) -> list[tuple[str, int]]:
    """("a", "a", "b") -> [("a", 2), ("b", 1)]"""
    runs: list[tuple[str, int]] = []
    for name in names:
        if runs and runs[-1][0] == name:
            runs[-1] = (name, runs[-1][1] + 1)
        else:
            runs.append((name, 1))
    return runs
