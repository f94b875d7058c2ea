"""The place of one process among those that train a run together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rank:
    """One of the processes that train a run together; they meet at address:port of rank 0's machine.

    rank: number among all; local: number on this machine, and that of its GPU; per_node, nodes: how many there are.
    """

    rank: int
    local: int
    per_node: int
    nodes: int
    address: str
    port: int

    @property
    def world(self) -> int:
        return self.per_node * self.nodes
