"""The members of a fleet: the runs that are trained together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from sdpet.methods import TunedModel
from sdpet.training.config import TrainConfig


@dataclass
class Member:
    """One run of a fleet.

    Parameters
    ----------
    handle : TunedModel
        The design on the model; its parameters are trained.
    seed : int
        Seed of data order, noise and timesteps.
    config : TrainConfig
        Training options.
    on_step : callable, optional
        Called as ``on_step(step, loss)`` after each step; steps count from 1.
    state : dict, optional
        The value of `TrainingModule.state` from which an interrupted run resumes; None begins at step 0.
    on_metrics : callable, optional
        Called as ``on_metrics(step, metrics)`` for each step, with ``loss``, ``lr`` and ``grad_norm`` (the norm of the
        run's gradient before clipping). On a GPU it is called one step later, so that nothing waits for the norm.
    """

    handle: TunedModel
    seed: int
    config: TrainConfig
    on_step: Callable[[int, float], None] | None = None
    state: dict[str, Any] | None = None
    on_metrics: Callable[[int, dict[str, float]], None] | None = None


class FleetMembers(Protocol):
    """The runs that share a batch, such as `sdpet.adapters.Fleet`."""

    @property
    def active(self) -> list[int]:
        """Indices of the active members, in the order of their rows in the batch."""
        ...

    def remove(self, index: int) -> None:
        """Remove a member; later batches have no rows for it."""
        ...

    def vector(self, index: int) -> torch.Tensor | None:
        """All weights of a member as one vector, whose .grad must be modified in place, never replaced.

        None if there is no such vector; then the weights are the parameters of the handle.
        """
        ...


class SingleRun:
    """The `FleetMembers` of a run that is trained alone."""

    def __init__(self) -> None:
        self.active = [0]

    def remove(self, index: int) -> None:
        """See `FleetMembers.remove`."""
        self.active.remove(index)

    def vector(self, index: int) -> None:
        """None: the weights are the parameters of the handle."""
        return None
