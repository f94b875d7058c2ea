"""The update rules of sampling: DDIM, PLMS and DPM-Solver++(2M), each from the levels of noise it is told to pass.

DDIM and PLMS are written out here because the timesteps are spread over all of the training schedule, whatever their
number. diffusers' DDIMScheduler and PNDMScheduler agree where the number of steps divides that of the training steps;
elsewhere they leave the noisiest timesteps out (600 steps would begin at timestep 600) or run past the last one.

Notation: x = sqrt(a) x0 + sqrt(1 - a) eps, where a is the cumulative product of alphas at a timestep.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor


def spread(steps: int, train_steps: int = 1000) -> list[int]:
    """Timesteps from noisy to clean: 1 + floor(i train_steps / steps) for i = steps - 1 .. 0.

    Where `steps` divides `train_steps` these are the published 1 + every (train_steps // steps)-th. All of them are
    distinct and below train_steps: only with a step for every timestep the offset 1 has to go.
    """
    offset = 1 if steps < train_steps else 0
    return [offset + i * train_steps // steps for i in reversed(range(steps))]


class Sampler(Protocol):
    """One pass from noise to image. `timesteps` are those of the model's calls, in order.

    step(out, i, x, noise): x after call i, whose guided output is `out`, all (N, C, h, w); `noise` is standard normal
    and only used by samplers that add some.
    """

    timesteps: list[int]

    def step(self, out: Tensor, i: int, x: Tensor, noise: Tensor | None = None) -> Tensor: ...


class DDIM:
    """Denoising diffusion implicit models (arXiv 2010.02502), equations 12 and 16.

    The last step leads to the level of timestep 0, as in Stable Diffusion's own sampler.
    """

    def __init__(self, scheduler: Any, steps: int, skip: int = 0, eta: float = 0.0) -> None:
        self.timesteps = spread(steps, scheduler.config.num_train_timesteps)[skip:]
        self._levels = _levels(scheduler, self.timesteps)
        self._v, self._eta = _predicts_v(scheduler), eta

    def step(self, out: Tensor, i: int, x: Tensor, noise: Tensor | None = None) -> Tensor:
        a, to = self._levels[i], self._levels[i + 1]
        x0, eps = split(out, x, a, self._v)
        sigma = self._eta * ((1 - to) / (1 - a) * (1 - a / to)) ** 0.5
        x = to**0.5 * x0 + max(1 - to - sigma**2, 0.0) ** 0.5 * eps
        return x if noise is None or sigma == 0 else x + sigma * noise


class PLMS:
    """Pseudo linear multi-step (arXiv 2202.09778): DDIM's transfer with Adams-Bashforth's mixture of noise predictions.

    The first step is taken twice, the second time with the mean of the predictions at both of its ends, so that there
    is one call of the model more than steps.
    """

    def __init__(self, scheduler: Any, steps: int, skip: int = 0, eta: float = 0.0) -> None:
        passed = spread(steps, scheduler.config.num_train_timesteps)[skip:]
        self._levels = _levels(scheduler, passed)
        again = passed[1:2] or passed  # a lone step is repeated in place
        self.timesteps = passed[:1] + again + passed[1:] if passed else []
        self._at = _levels(scheduler, self.timesteps)
        self._v = _predicts_v(scheduler)
        self._past: list[Tensor] = []  # noise predicted by earlier steps, the latest last
        self._begin: Tensor | None = None

    def step(self, out: Tensor, i: int, x: Tensor, noise: Tensor | None = None) -> Tensor:
        eps = split(out, x, self._at[i], self._v)[1]
        number = max(0, i - 1)  # of the step: calls 0 and 1 make the first one
        if i == 0:
            self._begin, mixed = x, eps
        elif i == 1:
            assert self._begin is not None
            x, mixed = self._begin, (self._past[0] + eps) / 2
        else:
            last = [eps, *reversed(self._past[-3:])]
            weights = ADAMS_BASHFORTH[len(last) - 1]
            mixed = sum(weight * value for weight, value in zip(weights, last, strict=True))  # type: ignore[assignment]
        if i != 1:
            self._past = [*self._past[-2:], eps]
        a, to = self._levels[number], self._levels[number + 1]
        return to**0.5 * (x - (1 - a) ** 0.5 * mixed) / a**0.5 + (1 - to) ** 0.5 * mixed


ADAMS_BASHFORTH = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


class DPM:
    """DPM-Solver++(2M) (arXiv 2211.01095), diffusers' own; timesteps evenly from the last, the end free of noise."""

    def __init__(self, scheduler: Any, steps: int, skip: int = 0, eta: float = 0.0) -> None:
        from diffusers import DPMSolverMultistepScheduler

        self._solver = DPMSolverMultistepScheduler.from_config(
            dict(scheduler.config), algorithm_type="dpmsolver++", solver_order=2, timestep_spacing="linspace"
        )
        self._solver.set_timesteps(steps)
        self._solver.set_begin_index(skip)
        self.timesteps = self._solver.timesteps[skip:].tolist()

    def step(self, out: Tensor, i: int, x: Tensor, noise: Tensor | None = None) -> Tensor:
        return self._solver.step(out, self.timesteps[i], x, return_dict=False)[0]


SAMPLERS: dict[str, Callable[..., Sampler]] = {"dpm": DPM, "ddim": DDIM, "plms": PLMS}


def split(out: Tensor, x: Tensor, a: float, predicts_v: bool) -> tuple[Tensor, Tensor]:
    """(x0, eps) of latents x at level a, from a model that predicts eps or v = sqrt(a) eps - sqrt(1 - a) x0."""
    if predicts_v:
        return a**0.5 * x - (1 - a) ** 0.5 * out, a**0.5 * out + (1 - a) ** 0.5 * x
    return (x - (1 - a) ** 0.5 * out) / a**0.5, out


def add_noise(scheduler: Any, latents: Tensor, noise: Tensor, timestep: int) -> Tensor:
    """Latents at the level of noise that belongs to a timestep."""
    a = float(scheduler.alphas_cumprod[timestep])
    return a**0.5 * latents + (1 - a) ** 0.5 * noise


def _levels(scheduler: Any, timesteps: list[int]) -> list[float]:
    """a at each timestep, and then at timestep 0, where the last step ends."""
    return torch.as_tensor(scheduler.alphas_cumprod)[[*timesteps, 0]].double().tolist()


def _predicts_v(scheduler: Any) -> bool:
    return scheduler.config.prediction_type == "v_prediction"
