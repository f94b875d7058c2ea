"""Learning rate schedules by the names that diffusers gives them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch

OWN_SCHEDULES = ("constant", "cosine")  # of choices.SCHEDULES; they begin at lr / (warmup + 1) instead of 0


@cache
def diffusers_schedule(name: str, lr: float, warmup: int, steps: int) -> Callable[[int], float]:
    """Factor of lr at a step counted from 0, as diffusers.optimization.get_scheduler gives it."""
    from diffusers.optimization import get_scheduler

    idle = torch.optim.SGD([torch.zeros(1)], lr=lr)
    return get_scheduler(name, idle, num_warmup_steps=warmup, num_training_steps=steps).lr_lambdas[0]
