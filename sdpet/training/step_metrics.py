"""What a training step tells: losses, learning rates and norms of gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from sdpet.training.config import TrainConfig
from sdpet.training.readback import Reading


class StepMetrics:
    """What a step gave, by member.

    Parameters
    ----------
    number : int
        Of the step, counted from 1.
    losses, rates : dict of int to float
        Losses and learning rates.
    norms : dict of int to Tensor
        Norms of the gradients, which are still on the device; empty if nobody asked.
    """

    def __init__(
        self, number: int, losses: dict[int, float], rates: dict[int, float], norms: dict[int, torch.Tensor]
    ) -> None:
        self.number, self.losses, self.rates, self.norms = number, losses, rates, norms
        self._reading = Reading(torch.stack(list(norms.values()))) if norms else None

    @property
    def is_ready(self) -> bool:
        """Whether the norms can be read without waiting."""
        return self._reading is None or self._reading.is_ready

    def read_norms(self) -> dict[int, float]:
        """The norms by member."""
        return {} if self._reading is None else dict(zip(self.norms, self._reading.values(), strict=True))


def named_metrics(loss: float, lr: float, norm: float) -> dict[str, float]:
    """The metrics of a step by the names under which logs have them; a norm that is nan is left out."""
    return {"loss": loss, "lr": lr} | ({} if math.isnan(norm) else {"grad_norm": norm})


def told_again(config: TrainConfig, state: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, float]]]:
    """The metrics of the steps that an interrupted run has done, for logs that begin anew.

    Parameters
    ----------
    config : TrainConfig
    state : mapping
        As `TrainingModule.state` returned it.

    Returns
    -------
    iterator of (int, dict)
        Steps, which count from 1, and their metrics.
    """
    for step, (loss, norm) in enumerate(zip(state["loss"], stored_norms(state), strict=True)):
        yield step + 1, named_metrics(loss, config.lr_at(step), norm)


def stored_norms(state: Mapping[str, Any]) -> list[float]:
    """The gradient norms in a checkpoint, one for each step.

    Parameters
    ----------
    state : mapping
        As `TrainingModule.state` returned it; nan stands for the steps before the version that kept norms.

    Returns
    -------
    list of float
    """
    known = list(state.get("norms") or ())
    return [math.nan] * (len(state.get("loss") or ()) - len(known)) + known


def total_norm(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """The norm of all these gradients together: a Tensor (), float32, on their device."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(gradients))).float())
