"""Adapters of many designs on one UNet, each for its own rows of the batch."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from sdpet.adapters.attached import Adapters
from sdpet.adapters.attachment import refuse_second
from sdpet.adapters.compiled import forget_compiled
from sdpet.adapters.edges import Attachment, Edge, RowShares
from sdpet.adapters.hooks import connect
from sdpet.adapters.routes import Route, find_routes
from sdpet.adapters.spec import AdapterSpec
from sdpet.adapters.stacked import Stack


class Fleet:
    """K members on one UNet, which then computes K models at once.

    A batch holds the rows of all active members, equally many each, in the order of `active`. Members that write at
    the same position with adapters of equal shapes are neighbours, because they are computed together. Every member's
    adapter reads and writes its own rows only, and no operation of the UNet mixes rows.

    `copy.deepcopy` and `pickle` of a fleet give its members without a UNet: the copy is detached. A copy of the *UNet*
    carries copies of the members; `detach_all` removes them.

    Parameters
    ----------
    unet : nn.Module
    members : sequence of Adapters
        Detached, and on the UNet's device. They are trained and saved like those of a single design.

    Raises
    ------
    ValueError
        If `attach` would raise it for a member, or the UNet carries adapters.
    """

    def __init__(self, unet: nn.Module, members: Sequence[Adapters]) -> None:
        self.members = list(members)
        self._routes: list[Mapping[str, Route]] = [
            find_routes(unet, member.spec.din, member.spec.dout) for member in members
        ]
        refuse_second(unet)
        groups: dict[tuple, list[int]] = {}
        for index, member in enumerate(members):
            groups.setdefault(_shape(member.spec, self._routes[index]), []).append(index)
        self._groups = [sorted(group, key=lambda i: self.members[i].spec.din) for group in groups.values()]
        self._vectors: dict[int, Tensor] = {}
        self._attachment = Attachment()
        self._connect()

    def __getstate__(self) -> dict[str, Any]:
        # Parameters of members are views of one buffer; copies own their memory, which pickle then writes once.
        return {"members": copy.deepcopy(self.members), "_groups": self._groups}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._routes = [{} for _ in self.members]
        self._vectors, self._attachment = {}, Attachment()
        self._connect()

    def __len__(self) -> int:
        """Number of active members."""
        return sum(len(group) for group in self._groups)

    @property
    def active(self) -> list[int]:
        """Indices of the active members, in the order of their rows in the batch."""
        return [index for group in self._groups for index in group]

    def remove(self, index: int) -> None:
        """Remove a member: the next batches have no rows for it. Its adapters keep their weights.

        Parameters
        ----------
        index : int
            In `members`.
        """
        attached = self._attachment.attached
        self._groups = [rest for group in self._groups if (rest := [i for i in group if i != index])]
        if attached:
            self._connect()
        for weight in (self._vectors[index], *self.members[index].parameters()):
            weight.grad = None

    def vector(self, index: int) -> Tensor:
        """All weights of a member as one vector, which shares memory with its parameters.

        Parameters
        ----------
        index : int
            In `members`.

        Returns
        -------
        Tensor, shape (P,)
            In the order of the member's parameters. Its `grad` shares memory with theirs: it must be modified in
            place, never replaced, so empty it by ``zero_grad(set_to_none=False)``.
        """
        return self._vectors[index]

    def detach(self) -> None:
        """Remove all members from the UNet, which is then as it was."""
        self._attachment.remove()

    def _connect(self) -> None:
        self.detach()
        dins = [_runs([self.members[i].spec.din for i in group]) for group in self._groups]
        shares = RowShares([count for runs in dins for _, count in runs])
        first = 0
        for group, runs in zip(self._groups, dins, strict=True):
            stack = self._stack(group)
            for path, route in self._routes[group[0]].items():
                sources, members = [], iter(group)
                for _, count in runs:  # members that read at one position are neighbours
                    sources.append(self._routes[next(members)][path].source)
                    for _ in range(count - 1):
                        next(members)
                delta = partial(stack.delta, path)
                connect(route.block, path, Edge(tuple(sources), route.target, delta, self._attachment, shares, first))
            first += len(runs)
        forget_compiled()

    def _stack(self, group: Sequence[int]) -> Stack:
        members = [self.members[index] for index in group]
        stack = Stack([member.by_block for member in members], [m.spec.scale * m.strength for m in members])
        for index, weights, gradients in zip(group, stack.weights, stack.gradients, strict=True):
            vector = self._vectors.setdefault(index, nn.Parameter(weights))
            vector.data, vector.grad = weights, gradients  # the same object, because optimisers hold it
        return stack


def _shape(spec: AdapterSpec, routes: Mapping[str, Route]) -> tuple:
    """Members with equal results are computed together."""
    shapes = tuple((path, route.shape) for path, route in routes.items())
    return (spec.dout, shapes, spec.mid_dim, spec.activation)


def _runs(names: Sequence[str]) -> list[tuple[str, int]]:
    """("a", "a", "b") -> [("a", 2), ("b", 1)]"""
    runs: list[tuple[str, int]] = []
    for name in names:
        if runs and runs[-1][0] == name:
            runs[-1] = (name, runs[-1][1] + 1)
        else:
            runs.append((name, 1))
    return runs
