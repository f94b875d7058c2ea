"""Adapters of many designs on one UNet, each for its own rows of the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from sdpet.adapters.handle import Adapters, matching_blocks, refuse_second
from sdpet.adapters.spec import AdapterSpec
from sdpet.adapters.stacked import stacked_addition
from sdpet.adapters.taps import Edge, Shares, connect
from sdpet.positions import position


class Fleet:
    """K members on one UNet, which then computes K models at once.

    A batch holds the rows of all members that are aboard, equally many each, in the order of `aboard`: members of
    equal shapes stand together, as they are computed together. Every member's adapter reads and writes its own rows
    alone; no operation of the UNet mixes rows.

    members: detached `Adapters`, which are trained and saved like those of a single design. ValueError as of `attach`.
    """

    def __init__(self, unet: nn.Module, members: Sequence[Adapters]) -> None:
        self.members = list(members)
        self._blocks = [matching_blocks(unet, member.spec) for member in members]
        refuse_second(unet)
        groups: dict[tuple, list[int]] = {}
        for index, member in enumerate(members):
            groups.setdefault(_shape(member.spec), []).append(index)
        self._groups = list(groups.values())
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

    def detach(self) -> None:
        """Take all members out of the UNet, which is then as it was."""
        while self._undo:
            self._undo.pop()()

    def _connect(self) -> None:
        self.detach()
        shares = Shares([len(group) for group in self._groups])
        for number, group in enumerate(self._groups):
            spec = self.members[group[0]].spec
            reads, writes = position(spec.din).reads, position(spec.dout).writes
            for path, block in self._blocks[group[0]].items():
                edge = Edge(reads, writes, self._addition(group, path), share=(shares, number))
                self._undo.append(connect(block, path, edge))

    def _addition(self, group: Sequence[int], path: str) -> Callable[[Tensor, Tensor], Tensor]:
        members = [self.members[index] for index in group]
        if len(members) == 1:
            return members[0].addition(path)
        scales = [member.spec.scale * member.strength for member in members]
        return stacked_addition([member.by_block[path] for member in members], scales)


def _shape(spec: AdapterSpec) -> tuple:
    """Members with equal ones are computed together."""
    return (spec.din, spec.dout, spec.mid_dim, spec.activation)
