"""The update rules of the samplers DDIM, PLMS and DPM-Solver++ (2M).

DDIM and PLMS are written out here because their timesteps are spread over all of the training schedule for every
number of steps. diffusers' DDIMScheduler and PNDMScheduler agree with them where the number of steps divides the number
of training steps. For other numbers they leave out the noisiest timesteps (with 600 steps they begin at timestep 600)
or run past the last one.

Notation: x = sqrt(a) x0 + sqrt(1 - a) eps, where a is the cumulative product of alphas at a timestep.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


def spread_timesteps(steps: int, train_steps: int = 1000) -> list[int]:
    """Timesteps from noisy to clean: 1 + floor(i train_steps / steps) for i = steps - 1 .. 0.

    Where `steps` divides `train_steps`, these are the published ones: 1 plus every (train_steps // steps)-th timestep.
    All of them are distinct and below `train_steps`; with a step for every timestep, the offset 1 is left out. A single
    step begins at the last timestep, as it starts from pure noise.

    Parameters
    ----------
    steps : int
        Number of denoising steps, at most `train_steps`.
    train_steps : int
        Number of timesteps of the training schedule.

    Returns
    -------
    list of int, `steps` long
    """
    if steps == 1:
        return [train_steps - 1]
    offset = 1 if steps < train_steps else 0
    return [offset + i * train_steps // steps for i in reversed(range(steps))]


class Sampler(Protocol):
    """One pass from noise to image. `timesteps` are those at which the model is called, in order.

    A sampler of one's own is a class with this interface: ``sampler=custom sampler._target_=my_lab.Heun``. It is called
    with the keywords `scheduler` (the training noise schedule, if the class names it), `steps` and `skip` (the number
    of steps to leave out at the beginning), and with the options of the group `sampler`. A class attribute
    ``needs_noise = True`` asks for fresh noise at each step; otherwise `noise` is None.
    """

    @property
    def timesteps(self) -> Sequence[float]: ...

    def step(self, out: Tensor, i: int, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """The latents after call i of the model.

        Parameters
        ----------
        out : Tensor (N, C, h, w)
            The model's output after guidance: noise or velocity.
        i : int
            Number of the call, from 0.
        x : Tensor (N, C, h, w)
            Latents that the model was called with.
        noise : Tensor (N, C, h, w), optional
            Standard normal, for samplers that add fresh noise.

        Returns
        -------
        Tensor (N, C, h, w)
        """
        ...


class DDIM:
    """Denoising diffusion implicit models; the last step ends at timestep 0, as in Stable Diffusion's own sampler.

    Parameters
    ----------
    scheduler : DDPMScheduler
        The training noise schedule.
    steps : int
        Number of denoising steps.
    skip : int
        Number of steps left out at the beginning.
    eta : float
        Share of fresh noise, 0 to 1.

    References
    ----------
    Song et al. 2020, arXiv 2010.02502, equations 12 and 16.
    """

    def __init__(self, scheduler: Any, steps: int, skip: int = 0, eta: float = 0.0) -> None:
        self.timesteps = spread_timesteps(steps, scheduler.config.num_train_timesteps)[skip:]
        self._levels = _levels(scheduler, self.timesteps)
        self._v, self._eta = _predicts_v(scheduler), eta

    def step(self, out: Tensor, i: int, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """See `Sampler.step`."""
        a, to = self._levels[i], self._levels[i + 1]
        x0, eps = split_prediction(out, x, a, self._v)
        sigma = self._eta * ((1 - to) / (1 - a) * (1 - a / to)) ** 0.5
        x = to**0.5 * x0 + max(1 - to - sigma**2, 0.0) ** 0.5 * eps
        return x if noise is None or sigma == 0 else x + sigma * noise


class PLMS:
    """Pseudo linear multi-step sampling: DDIM's update with the Adams-Bashforth combination of noise predictions.

    The first step is taken twice, the second time with the mean of the predictions at both of its ends. So the model is
    called once more than there are steps.

    Parameters
    ----------
    scheduler, steps, skip
        As for `DDIM`.
    eta : float
        Ignored; PLMS adds no fresh noise.

    References
    ----------
    Liu et al. 2022, arXiv 2202.09778.
    """

    def __init__(self, scheduler: Any, steps: int, skip: int = 0, eta: float = 0.0) -> None:
        passed = spread_timesteps(steps, scheduler.config.num_train_timesteps)[skip:]
        self._levels = _levels(scheduler, passed)
        again = passed[1:2] or [0] * len(passed)  # where the first step ends
        self.timesteps = passed[:1] + again + passed[1:] if passed else []
        self._at = _levels(scheduler, self.timesteps)
        self._v = _predicts_v(scheduler)
        self._past: list[Tensor] = []  # noise predicted in earlier steps, the latest last
        self._begin: Tensor | None = None

    def step(self, out: Tensor, i: int, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """See `Sampler.step`."""
        eps = split_prediction(out, x, self._at[i], self._v)[1]
        number = max(0, i - 1)  # number of the step: calls 0 and 1 belong to the first one
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
    """DPM-Solver++ (2M) of diffusers, with timesteps spaced evenly from the last one and an end free of noise.

    Parameters
    ----------
    scheduler, steps, skip
        As for `DDIM`.
    eta : float
        Ignored; this solver is deterministic.

    References
    ----------
    Lu et al. 2022, arXiv 2211.01095.
    """

    def __init__(self, scheduler: Any, steps: int, skip: int = 0, eta: float = 0.0) -> None:
        from diffusers import DPMSolverMultistepScheduler

        self._solver = DPMSolverMultistepScheduler.from_config(
            dict(scheduler.config), algorithm_type="dpmsolver++", solver_order=2, timestep_spacing="linspace"
        )
        self._solver.set_timesteps(steps)
        self._solver.set_begin_index(skip)
        self.timesteps = self._solver.timesteps[skip:].tolist()

    def step(self, out: Tensor, i: int, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """See `Sampler.step`."""
        return self._solver.step(out, self.timesteps[i], x, return_dict=False)[0]


SAMPLER_CLASSES: dict[str, Callable[..., Sampler]] = {"dpm": DPM, "ddim": DDIM, "plms": PLMS}  # DIFFUSION_SAMPLERS


def split_prediction(out: Tensor, x: Tensor, a: float, predicts_v: bool) -> tuple[Tensor, Tensor]:
    """Split the model's output into clean latents and noise.

    Parameters
    ----------
    out : Tensor (N, C, h, w)
        The model's output: the noise eps, or the velocity v = sqrt(a) eps - sqrt(1 - a) x0.
    x : Tensor (N, C, h, w)
        Noisy latents.
    a : float
        Cumulative product of alphas at this level of noise.
    predicts_v : bool
        Whether `out` is the velocity.

    Returns
    -------
    (Tensor, Tensor), each (N, C, h, w)
        x0 and eps.

    References
    ----------
    Salimans and Ho 2022, arXiv 2202.00512, appendix D (velocity).
    """
    if predicts_v:
        return a**0.5 * x - (1 - a) ** 0.5 * out, a**0.5 * out + (1 - a) ** 0.5 * x
    return (x - (1 - a) ** 0.5 * out) / a**0.5, out


def _levels(scheduler: Any, timesteps: list[int]) -> list[float]:
    """The values of a at these timesteps, followed by a at timestep 0, where the last step ends."""
    return torch.as_tensor(scheduler.alphas_cumprod)[[*timesteps, 0]].double().tolist()


def _predicts_v(scheduler: Any) -> bool:
    return scheduler.config.prediction_type == "v_prediction"
