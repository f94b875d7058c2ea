"""Training: Lightning's Trainer around a loop that is a function of (seed, step)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from sdpet.base import BaseModel
from sdpet.methods import Handle
from sdpet.tasks import Task


@dataclass(frozen=True)
class TrainConfig:
    """Training options; fit() takes the same as keyword arguments. Make one early to have them checked.

    steps: optimiser steps; lr, weight_decay: AdamW's; warmup: steps of linear growth of lr, then constant;
    clip: largest gradient norm, or None; precision: Lightning's name, such as "32-true" or "bf16-mixed".
    """

    steps: int
    lr: float
    weight_decay: float = 0.01
    warmup: int = 0
    clip: float | None = None
    precision: str = "32-true"


@dataclass(frozen=True)
class FitResult:
    """loss: one value a step; seconds: of all training; seconds_per_step: median; diverged: a loss was not finite."""

    loss: list[float] = field(repr=False)
    seconds: float
    seconds_per_step: float
    peak_memory_bytes: int
    diverged: bool


def fit(
    base: BaseModel,
    handle: Handle,
    task: Task,
    *,
    steps: int,
    lr: float,
    seed: int,
    weight_decay: float = 0.01,
    warmup: int = 0,
    clip: float | None = None,
    precision: str = "32-true",
    on_step: Callable[[int, float], None] | None = None,
) -> FitResult:
    """Train handle.parameters() on the task; on_step(step, loss) is called after each step, counted from 1.

    A loss that is not finite ends training with diverged=True, before it can reach the weights.
    """
    ...
