"""Adapters of many designs on one UNet, each for its own rows of the batch."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sdpet.adapters.attached import Adapters, grid_of, only, watched
from sdpet.adapters.attachment import refuse_second, sites_of
from sdpet.adapters.compiled import forget_compiled
from sdpet.adapters.edges import Attachment, Edge, RowShares
from sdpet.adapters.forms import Site
from sdpet.adapters.hooks import connect
from sdpet.adapters.inputs import ModelInputs
from sdpet.adapters.spec import ALWAYS, AdapterSpec
from sdpet.adapters.stacked import Stack
from sdpet.adapters.tables import Place


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
        self._model: nn.Module | None = unet
        self._sites: list[Mapping[str, Site]] = [sites_of(unet, member.spec) for member in members]
        refuse_second(unet)
        groups: dict[tuple, list[int]] = {}
        for index, member in enumerate(members):
            groups.setdefault(_shape(member.spec, self._sites[index]), []).append(index)
        self._groups = [sorted(group, key=lambda i: _dins(self.members[i].spec)) for group in groups.values()]
        self._vectors: dict[int, Tensor] = {}
        self._attachment = Attachment()
        self._connect()

    def __getstate__(self) -> dict[str, Any]:
        # Parameters of members are views of one buffer; copies own their memory, which pickle then writes once.
        return {"members": copy.deepcopy(self.members), "_groups": self._groups}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._model, self._sites = None, [{} for _ in self.members]
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
        dins = [_runs([_dins(self.members[i].spec) for i in group]) for group in self._groups]
        shares = RowShares([count for runs in dins for _, count in runs])
        inputs = None
        if self._model is not None and self._groups:
            inputs = watched(self._model, self._attachment, [self.members[i] for i in self.active])
        first = members = 0
        for group, runs in zip(self._groups, dins, strict=True):
            stack, sources = self._stack(group), self._sources(group, runs)
            whens = [self.members[i].spec.when for i in group]
            for number, (key, site) in enumerate(self._sites[group[0]].items()):
                delta = GroupDelta(stack, key, whens, members, inputs)
                edge = Edge(sources[number], site.route.target, delta, self._attachment, shares, first)
                connect(site.route.block, site.path, edge)
            first, members = first + len(runs), members + len(group)
        forget_compiled()

    def _sources(self, group: Sequence[int], runs: Sequence[tuple[Any, int]]) -> list[tuple[Place, ...]]:
        """For each site, where each run of neighbouring members that read alike reads."""
        firsts = [group[sum(count for _, count in runs[:run])] for run in range(len(runs))]
        sites = [list(self._sites[index].values()) for index in firsts]
        return [tuple(site.route.source for site in alike) for alike in zip(*sites, strict=True)]

    def _stack(self, group: Sequence[int]) -> Stack:
        members = [self.members[index] for index in group]
        stack = Stack([member.by_block for member in members], [m.spec.scale * m.strength for m in members])
        for index, weights, gradients in zip(group, stack.weights, stack.gradients, strict=True):
            vector = self._vectors.setdefault(index, nn.Parameter(weights))
            vector.data, vector.grad = weights, gradients  # the same object, because optimisers hold it
        return stack


class GroupDelta:
    """What the adapters of some neighbouring members add at one place of the model; copied with the model.

    Parameters
    ----------
    stack : Stack
        Their adapters.
    key : str
        Of `Adapters.by_block`, of the first of them.
    whens : sequence of pairs of float
        `AdapterSpec.when` of each.
    first : int
        How many members have rows before them.
    inputs : ModelInputs, optional
        For forms that need the tokens' grid, and members that act at some noise only.
    """

    def __init__(
        self, stack: Stack, key: str, whens: Sequence[tuple[float, float]], first: int, inputs: ModelInputs | None
    ) -> None:
        self.stack, self.key, self.first, self.inputs = stack, key, first, inputs
        self.whens = None if all(when == ALWAYS for when in whens) else tuple(whens)

    def __call__(self, read: Tensor, dtype: torch.dtype) -> Tensor:
        """(M * R, N, c_in) -> (M * R, N, c_out), or the same with maps, from which its R rows each member has."""
        inside = None
        if self.whens is not None:
            assert self.inputs is not None
            first = self.first * (len(read) // len(self.whens))
            inside = self.inputs.inside(self.whens, slice(first, first + len(read)), len(read), read.device)
            if inside is None:
                return read.new_zeros((), dtype=dtype)
        grid = grid_of(self.inputs, self.stack.form(self.key), read)
        added = self.stack.delta(self.key, read, dtype, grid)
        return added if inside is None else only(inside, added)


def _shape(spec: AdapterSpec, sites: Mapping[str, Site]) -> tuple:
    """Members with equal forms at equal places are computed together, wherever in the block they read."""
    places = tuple((site.path, site.spec.dout, site.shape) for site in sites.values())
    return (places, spec.form, repr(sorted(spec.options.items())), spec.mid_dim, spec.activation)


def _dins(spec: AdapterSpec) -> tuple[str, ...]:
    return tuple(str(part.din) for part in spec.parts)


def _runs(names: Sequence[tuple[str, ...]]) -> list[tuple[tuple[str, ...], int]]:
    """("a",), ("a",), ("b",) -> [(("a",), 2), (("b",), 1)]"""
    runs: list[tuple[tuple[str, ...], int]] = []
    for name in names:
        if runs and runs[-1][0] == name:
            runs[-1] = (name, runs[-1][1] + 1)
        else:
            runs.append((name, 1))
    return runs
