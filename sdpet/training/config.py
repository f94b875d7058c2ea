"""Training options, checked when they are created."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sdpet.choices import OPTIMIZERS, PRECISIONS, SCHEDULES
from sdpet.training.schedule import OWN_SCHEDULES, diffusers_schedule

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TrainConfig:
    """Training options; `fit` takes the same as keyword arguments. Creating the object checks them.

    Parameters
    ----------
    steps : int
        Optimiser steps.
    lr : float
        Peak learning rate of AdamW.
    weight_decay : float
        Weight decay of AdamW.
    warmup : int
        Number of steps in which the learning rate grows linearly.
    clip : float, optional
        Largest norm of the gradient; None does not clip.
    precision : str
        Lightning's name of the precision, such as "32-true" or "bf16-mixed".
    schedule : str
        Learning rate schedule after the warm-up: "constant", "cosine" (half a cosine, down to zero at the last step),
        or another schedule under the name that diffusers gives it.
    accumulate : int
        Number of batches whose gradients are averaged for one step.
    optimizer : str or callable
        "adamw", or "adamw8bit" from bitsandbytes; or a class or function of one's own (any torch.optim.Optimizer),
        called as ``optimizer(parameters, lr=lr)``. `weight_decay` is then its own affair.
    ema : float, optional
        Decay of an exponential moving average of the weights. The average replaces the weights after training.
    grad_checkpointing : bool
        Recompute activations of the UNet in the backward pass instead of storing them.
    compile : bool or "graphs"
        Compile the UNet with torch.compile; "graphs" records CUDA graphs as well and needs a GPU. A fleet is compiled
        again when a member is removed.
    validate_every : int, optional
        Number of steps between calls of `validate`, see `fit_together`.
    deterministic : bool or "warn"
        Use deterministic algorithms of torch only; "warn" warns where there is none, instead of an error.
    tf32 : bool, optional
        On a GPU, whether float32 is rounded to TF32 in matrix products and convolutions; None as torch does by default.

    Raises
    ------
    ValueError
        An option is invalid. One sentence names it and the valid choices.
    """

    steps: int
    lr: float
    weight_decay: float = 0.01
    warmup: int = 0
    clip: float | None = None
    precision: str = "32-true"
    schedule: str = "constant"
    accumulate: int = 1
    optimizer: str | Callable[..., torch.optim.Optimizer] = "adamw"
    ema: float | None = None
    grad_checkpointing: bool = False
    compile: bool | str = False
    validate_every: int | None = None
    deterministic: bool | str = False
    tf32: bool | None = None

    def __post_init__(self) -> None:
        wholes = [("steps", self.steps, 1), ("warmup", self.warmup, 0), ("accumulate", self.accumulate, 1)]
        wholes += [("validate_every", self.validate_every, 1)] if self.validate_every is not None else []
        for name, value, least in wholes:
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"trainer.{name} must be a whole number of at least {least}, not {value!r}.")
        if self.deterministic not in (True, False, "warn"):
            raise ValueError(f'trainer.deterministic must be true, false or "warn", not {self.deterministic!r}.')
        if self.compile not in (True, False, "graphs"):
            raise ValueError(f'trainer.compile must be true, false or "graphs", not {self.compile!r}.')
        if not 0 < self.lr < math.inf:
            raise ValueError(f"trainer.lr must be a positive number, not {self.lr!r}.")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"trainer.weight_decay must be at least 0, not {self.weight_decay!r}.")
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise ValueError(f"trainer.clip must be a positive number or null, not {self.clip!r}.")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"trainer.ema must be a number between 0 and 1 or null, not {self.ema!r}.")
        named = (("precision", PRECISIONS), ("schedule", SCHEDULES), ("optimizer", OPTIMIZERS))
        for name, choices in named[: 2 if callable(self.optimizer) else 3]:
            if getattr(self, name) not in choices:
                what = f"trainer.{name} {getattr(self, name)!r}"
                raise ValueError(f"{what} is unknown; choose one of {', '.join(choices)}.")
        if self.optimizer == "adamw8bit" and importlib.util.find_spec("bitsandbytes") is None:
            raise ValueError("trainer.optimizer adamw8bit needs the package bitsandbytes; pip install bitsandbytes.")

    def lr_at(self, step: int) -> float:
        """The learning rate of a step.

        Parameters
        ----------
        step : int
            Counted from 0.

        Returns
        -------
        float
            The rate grows linearly over `warmup` steps and then follows `schedule`. "constant" and "cosine" begin at
            lr / (warmup + 1). The schedules of diffusers begin at 0 if there is a warm-up.
        """
        if self.schedule not in OWN_SCHEDULES:
            return self.lr * diffusers_schedule(self.schedule, self.lr, self.warmup, self.steps)(step)
        if step < self.warmup or self.schedule == "constant":
            return self.lr * min(1.0, (step + 1) / (self.warmup + 1))
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / max(1, self.steps - self.warmup)))
