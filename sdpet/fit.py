"""Training: Lightning's Trainer around a loop that is a function of (seed, step)."""

from __future__ import annotations

import contextlib
import logging
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer

from sdpet.base import BaseModel
from sdpet.memory import PeakMemory
from sdpet.methods import Handle
from sdpet.tasks import Task

PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")
SCHEDULES = ("constant", "cosine")


@dataclass(frozen=True)
class TrainConfig:
    """Training options; fit() takes the same as keyword arguments. Make one early to have them checked.

    steps: optimiser steps; lr, weight_decay: AdamW's; warmup: steps of linear growth of lr; schedule: what follows,
    "constant" or "cosine" (half a cosine down to zero at the last step);
    clip: largest gradient norm, or None; precision: Lightning's name, such as "32-true" or "bf16-mixed".
    """

    steps: int
    lr: float
    weight_decay: float = 0.01
    warmup: int = 0
    clip: float | None = None
    precision: str = "32-true"
    schedule: str = "constant"

    def __post_init__(self) -> None:
        for name, value, least in (("steps", self.steps, 1), ("warmup", self.warmup, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"trainer.{name} must be a whole number of at least {least}, not {value!r}.")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"trainer.lr must be a positive number, not {self.lr!r}.")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"trainer.weight_decay must be at least 0, not {self.weight_decay!r}.")
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise ValueError(f"trainer.clip must be a positive number or null, not {self.clip!r}.")
        if self.precision not in PRECISIONS:
            raise ValueError(f"trainer.precision {self.precision!r} is unknown; choose one of {', '.join(PRECISIONS)}.")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"trainer.schedule {self.schedule!r} is unknown; choose one of {', '.join(SCHEDULES)}.")

    def lr_at(self, step: int) -> float:
        """Learning rate of a step counted from 0: linear growth over `warmup` steps, then what `schedule` says."""
        if step < self.warmup or self.schedule == "constant":
            return self.lr * min(1.0, (step + 1) / (self.warmup + 1))
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / max(1, self.steps - self.warmup)))


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
    schedule: str = "constant",
    on_step: Callable[[int, float], None] | None = None,
) -> FitResult:
    """Train handle.parameters() on the task; on_step(step, loss) is called after each step, counted from 1.

    A loss that is not finite ends training with diverged=True, before it can reach the weights.
    """
    config = TrainConfig(steps, lr, weight_decay, warmup, clip, precision, schedule)
    run = _Run(base, handle, task, config, seed, on_step)
    memory = PeakMemory(base.device)
    start = time.perf_counter()
    with _quiet(), _ctrl_c_passes():
        trainer = Trainer(
            accelerator="cpu" if base.device.type == "cpu" else "gpu",
            devices=1 if base.device.index is None else [base.device.index],
            precision=config.precision,  # type: ignore[arg-type]
            max_steps=steps,
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        trainer.fit(run, range(steps))
    seconds = time.perf_counter() - start
    return FitResult(run.losses, seconds, statistics.median(run.times), memory.peak(), run.diverged)


class _Run(LightningModule):
    """One run as Lightning sees it: a step is a function of its number.

    The optimisation is manual, so that a step that is not finite can be refused. UNet, parameters and task are kept
    from Lightning's sight (in a tuple), as it would walk, move and switch modes of the whole frozen model.
    """

    def __init__(
        self,
        base: BaseModel,
        handle: Handle,
        task: Task,
        config: TrainConfig,
        seed: int,
        on_step: Callable[[int, float], None] | None,
    ):
        super().__init__()
        self.automatic_optimization = False
        self._held = (base.unet, list(handle.parameters()), task)
        self._config, self._seed, self._on_step = config, seed, on_step
        self.losses: list[float] = []
        self.times: list[float] = []
        self.diverged = False

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW on the trained parameters alone; every frozen weight has requires_grad False and no gradient."""
        return torch.optim.AdamW(
            self._held[1],
            lr=self._config.lr,
            weight_decay=self._config.weight_decay,
            fused=self._config.precision != "16-mixed",
        )

    def training_step(self, step: int) -> None:
        start = time.perf_counter()
        unet, _, task = self._held
        batch = task.batch(self._seed, step)
        prediction = unet(batch.noisy, batch.timesteps, encoder_hidden_states=batch.text, return_dict=False)[0]
        loss = task.loss(prediction, batch)
        value = loss.item()
        self.losses.append(value)
        if math.isfinite(value):
            self._descend(loss, step)
        else:
            self.diverged = True
            self.trainer.should_stop = True
        self.times.append(time.perf_counter() - start)
        if self._on_step is not None:
            self._on_step(step + 1, value)

    def _descend(self, loss: torch.Tensor, step: int) -> None:
        optimizer = cast(LightningOptimizer, self.optimizers())
        for group in optimizer.param_groups:
            group["lr"] = self._config.lr_at(step)
        self.manual_backward(loss)
        if self._config.clip is not None:
            self.clip_gradients(optimizer.optimizer, self._config.clip, "norm")
        optimizer.step()
        optimizer.zero_grad()


@contextlib.contextmanager
def _ctrl_c_passes() -> Iterator[None]:
    """Ctrl-C stays a KeyboardInterrupt; Lightning makes it an exit."""
    try:
        yield
    except SystemExit as stop:
        if not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        raise KeyboardInterrupt from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's notes about hardware it found and files it does not write."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
