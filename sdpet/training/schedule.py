"""Learning rate schedules of diffusers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch

OWN_SCHEDULES = ("constant", "cosine")  # implemented here; they begin at lr / (warmup + 1) instead of 0


@cache
def diffusers_schedule(name: str, lr: float, warmup: int, steps: int) -> Callable[[int], float]:
    """A schedule of diffusers.optimization.get_scheduler, as a function from the step (from 0) to the factor of lr."""
    from diffusers.optimization import get_scheduler

    idle = torch.optim.SGD([torch.zeros(1)], lr=lr)
    return get_scheduler(name, idle, num_warmup_steps=warmup, num_training_steps=steps).lr_lambdas[0]
