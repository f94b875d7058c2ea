"""The rank of one process among those that train a run together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rank:
    """The rank of one process among those that train a run together.

    Parameters
    ----------
    rank : int
        Global rank.
    local : int
        Rank on this machine, and index of the process's GPU.
    per_node : int
        Processes on each machine.
    nodes : int
        Machines.
    address : str
        Rank 0's machine, where the processes meet.
    port : int
        Rank 0's port.
    """

    rank: int
    local: int
    per_node: int
    nodes: int
    address: str
    port: int

    @property
    def world(self) -> int:
        """The number of processes."""
        return self.per_node * self.nodes
