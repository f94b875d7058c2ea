"""Optimisers, and exponential moving averages of weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import Parameter

from sdpet.config.own_parts import require_plain_step

if TYPE_CHECKING:
    from sdpet.training.config import TrainConfig


def make_optimizer(config: TrainConfig, parameters: Sequence[torch.Tensor]) -> torch.optim.Optimizer:
    """AdamW of PyTorch, or of bitsandbytes (moments of tensors with 4,096 values or more in 8 bits), or one's own.

    Raises
    ------
    ValueError
        An optimiser of the user's own cannot be made, or needs a closure.
    """
    if not isinstance(config.optimizer, str):
        return _own_optimizer(config.optimizer, parameters, config.lr)
    options: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.optimizer == "adamw8bit":
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(parameters, **options)
    # Fused also because it looks at the gradients' overflow under 16-mixed on the device; others have the host wait.
    return torch.optim.AdamW(parameters, **options, fused=True)


def _own_optimizer(make: Any, parameters: Sequence[torch.Tensor], lr: float) -> torch.optim.Optimizer:
    made = make(parameters, lr=lr)
    if not isinstance(made, torch.optim.Optimizer):
        raise ValueError(f"trainer.optimizer must make a torch.optim.Optimizer, not {type(made).__name__}.")
    require_plain_step(type(made), type(made).__name__)
    return made


class EMA:
    """Exponential moving average of weights: average = d average + (1 - d) weights after each step.

    After n steps d is min(decay, (1 + n) / (10 + n)), and 0 at the first step, so that the initial weights do not
    dominate a short training. diffusers' EMAModel computes the same. This class adds a small state for checkpoints,
    and swaps weights in place.

    Parameters
    ----------
    parameters : sequence of Parameter
        The weights to average.
    decay : float
        Upper limit of d.
    state : dict, optional
        The value of `state` from which to resume.
    """

    def __init__(self, parameters: Sequence[Parameter], decay: float, state: dict[str, Any] | None = None):
        self._parameters, self._decay = parameters, decay
        self._steps = 0 if state is None else state["steps"]
        values = parameters if state is None else state["values"]
        self._values = [v.detach().to(p.device, copy=True) for v, p in zip(values, parameters, strict=True)]

    @torch.no_grad()
    def update(self) -> None:
        """Update the averages after a step."""
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps)) if self._steps else 0.0
        torch._foreach_lerp_(self._values, [p.detach() for p in self._parameters], 1 - decay)
        self._steps += 1

    def state(self) -> dict[str, Any]:
        """Step count and averages, as copies on the CPU."""
        return {"steps": self._steps, "values": [value.cpu().clone() for value in self._values]}

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Replace the model's weights by the averages."""
        for parameter, value in zip(self._parameters, self._values, strict=True):
            parameter.copy_(value)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Replace the model's weights by the averages inside the block, and restore them bit for bit afterwards."""
        weights = [parameter.detach().clone() for parameter in self._parameters]
        self.copy_to_model()
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, weight in zip(self._parameters, weights, strict=True):
                    parameter.copy_(weight)
