"""The options of a training run, checked when they are made."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass

from sdpet.choices import OPTIMIZERS, PRECISIONS, SCHEDULES
from sdpet.training.schedule import OWN_SCHEDULES, diffusers_schedule


@dataclass(frozen=True)
class TrainConfig:
    """Training options; `fit` takes the same as keyword arguments. Make one early to have them checked.

    Parameters
    ----------
    steps : int
        Optimiser steps.
    lr, weight_decay : float
        AdamW's.
    warmup : int
        Steps of linear growth of lr.
    clip : float, optional
        Largest gradient norm.
    precision : str
        Lightning's name, such as "32-true" or "bf16-mixed".
    schedule : str
        What follows the warm-up: "constant", "cosine" (half a cosine down to zero at the last step), or another
        schedule by diffusers' name and definition.
    accumulate : int
        Batches whose gradients are averaged for one step.
    optimizer : str
        "adamw", or "adamw8bit" from bitsandbytes.
    ema : float, optional
        Decay of an exponential moving average of the weights, which then is the result.
    grad_checkpointing : bool
        Recompute activations of the UNet instead of keeping them.
    compile : bool
        Compile the UNet by torch.compile.
    validate_every : int, optional
        Steps from one call of `validate` to the next, see `fit_together`.

    Raises
    ------
    ValueError
        One sentence that names the option and the valid choices.
    """

    steps: int
    lr: float
    weight_decay: float = 0.01
    warmup: int = 0
    clip: float | None = None
    precision: str = "32-true"
    schedule: str = "constant"
    accumulate: int = 1
    optimizer: str = "adamw"
    ema: float | None = None
    grad_checkpointing: bool = False
    compile: bool = False
    validate_every: int | None = None

    def __post_init__(self) -> None:
        wholes = [("steps", self.steps, 1), ("warmup", self.warmup, 0), ("accumulate", self.accumulate, 1)]
        wholes += [("validate_every", self.validate_every, 1)] if self.validate_every is not None else []
        for name, value, least in wholes:
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"trainer.{name} must be a whole number of at least {least}, not {value!r}.")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"trainer.lr must be a positive number, not {self.lr!r}.")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"trainer.weight_decay must be at least 0, not {self.weight_decay!r}.")
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise ValueError(f"trainer.clip must be a positive number or null, not {self.clip!r}.")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"trainer.ema must be a number between 0 and 1 or null, not {self.ema!r}.")
        named = (("precision", PRECISIONS), ("schedule", SCHEDULES), ("optimizer", OPTIMIZERS))
        for name, choices in named:
            if getattr(self, name) not in choices:
                what = f"trainer.{name} {getattr(self, name)!r}"
                raise ValueError(f"{what} is unknown; choose one of {', '.join(choices)}.")
        if self.optimizer == "adamw8bit" and importlib.util.find_spec("bitsandbytes") is None:
            raise ValueError("trainer.optimizer adamw8bit needs the package bitsandbytes; pip install bitsandbytes.")

    def lr_at(self, step: int) -> float:
        """Learning rate of a step counted from 0: linear growth over `warmup` steps, then what `schedule` says.

        constant and cosine begin at lr / (warmup + 1); the others are diffusers' own, which begin at 0 with a warmup.
        """
        if self.schedule not in OWN_SCHEDULES:
            return self.lr * diffusers_schedule(self.schedule, self.lr, self.warmup, self.steps)(step)
        if step < self.warmup or self.schedule == "constant":
            return self.lr * min(1.0, (step + 1) / (self.warmup + 1))
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / max(1, self.steps - self.warmup)))
