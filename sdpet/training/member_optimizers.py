"""Optimisers and weight averages (EMA) of the members of a fleet, and their state for checkpoints."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

from sdpet.training.members import FleetMembers, Member
from sdpet.training.optim import EMA, make_optimizer


class MemberOptimizers:
    """Optimisers that update each member as if it were trained alone.

    AdamW works elementwise. So members with equal options share one optimiser if the weights of each are one vector. An
    optimiser of the user's own may look at shapes or at all weights of a run, so each member has one of its own.

    Attributes
    ----------
    groups : list of (Optimizer, list of int)
        Each optimiser, and the indices of the members whose weights it updates.
    ema : list of EMA or None
        The weight average of each member; None for members without one.
    """

    @torch.no_grad()
    def __init__(self, members: Sequence[Member], fleet: FleetMembers) -> None:
        self._members, self._fleet = members, fleet
        together: dict[Any, list[int]] = {}
        for i, member in enumerate(members):
            together.setdefault(i if self._vector(i) is None else member.config, []).append(i)
        self.groups: list[tuple[torch.optim.Optimizer, list[int]]] = []
        self.ema: list[EMA | None] = [None] * len(members)
        for owners in together.values():
            vectors = [vector for i in owners if (vector := self._vector(i)) is not None]
            weights = vectors or list(members[owners[0]].handle.parameters())
            optimizer = make_optimizer(members[owners[0]].config, weights)
            self.groups.append((optimizer, owners))
            for i in owners:
                self._restore(optimizer, i)

    def _vector(self, i: int) -> torch.Tensor | None:
        """The member's weights as the one vector that its optimiser updates; None if it updates each tensor."""
        return self._fleet.vector(i) if isinstance(self._members[i].config.optimizer, str) else None

    def _restore(self, optimizer: torch.optim.Optimizer, i: int) -> None:
        """Restore weights, optimiser state and EMA of a member that was interrupted."""
        member, vector = self._members[i], self._vector(i)
        parameters = list(member.handle.parameters())
        if member.config.ema is not None:
            self.ema[i] = EMA(parameters, member.config.ema, (member.state or {}).get("average"))
        if member.state is None:
            return
        for parameter, value in zip(parameters, member.state["parameters"], strict=True):
            parameter.copy_(value)
        state = copy.deepcopy(member.state["optimizer"])  # the caller may still use it
        if vector is None:
            optimizer.load_state_dict(state)
        else:
            optimizer.state[vector] = {key: value.to(vector.device) for key, value in _joined(state["state"]).items()}

    def state(self, i: int) -> dict[str, Any]:
        """Copy a member's optimiser state.

        Parameters
        ----------
        i : int
            Index of the member.

        Returns
        -------
        dict
            As of `Optimizer.state_dict`, with one entry for each parameter of the member's handle, even if the
            optimiser holds them as one vector.
        """
        optimizer = next(optimizer for optimizer, owners in self.groups if i in owners)
        vector = self._vector(i)
        if vector is None:
            return copy.deepcopy(optimizer.state_dict())
        shapes = [parameter.shape for parameter in self._members[i].handle.parameters()]
        group = {**optimizer.state_dict()["param_groups"][0], "params": list(range(len(shapes)))}
        return {"state": _split(optimizer.state[vector], shapes), "param_groups": [group]}


def _split(state: dict[str, torch.Tensor], shapes: Sequence[torch.Size]) -> dict[int, dict[str, torch.Tensor]]:
    """Split an optimiser's state of one vector into states of the tensors that make up the vector."""
    parts = {}
    split = {key: value.split([shape.numel() for shape in shapes]) for key, value in state.items() if value.dim()}
    for j, shape in enumerate(shapes):
        counts = {key: value.clone() for key, value in state.items() if not value.dim()}
        parts[j] = counts | {key: values[j].reshape(shape).clone() for key, values in split.items()}
    return parts


def _joined(parts: dict[int, dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The inverse of `_split`."""
    return {
        key: torch.cat([part[key].flatten() for part in parts.values()]) if value.dim() else value
        for key, value in parts[0].items()
    }
