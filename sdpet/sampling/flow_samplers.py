"""Samplers of models trained by flow matching: Euler's method and DPM-Solver++ (2M), both of diffusers.

Noise levels s run from 1 (noise) to 0 (image); the model is called at the timestep s times the training steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from sdpet.models.noising import dynamic_shift
from sdpet.sampling.samplers import Sampler


class FlowEuler:
    """Euler's method along the velocity, with the noise levels of diffusers' pipelines.

    Parameters
    ----------
    scheduler : FlowMatchEulerDiscreteScheduler
        The model's own.
    steps : int
        Number of denoising steps.
    skip : int
        Number of steps left out at the beginning.
    tokens : int
        Number of image tokens (2 x 2 latents each), on which the shift of some models depends.
    """

    def __init__(self, scheduler: Any, steps: int, skip: int, tokens: int) -> None:
        self._solver = type(scheduler).from_config(scheduler.config)
        dynamic = dynamic_shift(scheduler.config, tokens)
        if dynamic is None:
            self._solver.set_timesteps(steps)
        else:
            self._solver.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=dynamic)
        self._solver.set_begin_index(skip)
        self.timesteps: list[float] = self._solver.timesteps[skip:].tolist()

    def step(self, out: Tensor, i: int, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """See `Sampler.step`; `out` is the velocity."""
        return self._solver.step(out, self.timesteps[i], x, return_dict=False)[0]


class FlowDPM:
    """DPM-Solver++ (2M) on the noise levels of a flow.

    Parameters
    ----------
    scheduler, steps, skip, tokens
        As for `FlowEuler`.

    References
    ----------
    Lu et al. 2022, arXiv 2211.01095.
    """

    def __init__(self, scheduler: Any, steps: int, skip: int, tokens: int) -> None:
        from diffusers import DPMSolverMultistepScheduler

        dynamic = dynamic_shift(scheduler.config, tokens)
        self._solver = DPMSolverMultistepScheduler(
            num_train_timesteps=scheduler.config.num_train_timesteps,
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            flow_shift=scheduler.config.shift if dynamic is None else math.exp(dynamic),
        )
        self._solver.set_timesteps(steps)
        self._solver.set_begin_index(skip)
        # The solver rounds its timesteps to whole numbers; the model is called at the level itself.
        levels = self._solver.sigmas[skip:-1].double()
        self.timesteps: list[float] = (levels * scheduler.config.num_train_timesteps).tolist()

    def step(self, out: Tensor, i: int, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """See `Sampler.step`; `out` is the velocity."""
        return self._solver.step(out, self.timesteps[i], x, return_dict=False)[0]


FLOW_SAMPLER_CLASSES: dict[str, Callable[..., Sampler]] = {"dpm": FlowDPM, "euler": FlowEuler}  # choices.FLOW_SAMPLERS
