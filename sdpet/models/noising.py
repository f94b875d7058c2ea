"""How a model's training adds noise, and what the model predicts of it: diffusion, or flow matching.

Diffusion: x_t = sqrt(a) x0 + sqrt(1 - a) noise; the model predicts the noise, or v = sqrt(a) noise - sqrt(1 - a) x0.
Flow matching: x_s = (1 - s) x0 + s noise for a noise level s in [0, 1]; the model predicts the velocity noise - x0, and
its timestep is s times the number of training steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


class NoiseProcess(Protocol):
    """Adds noise to latents at a timestep, and knows what the model predicts there.

    Attributes
    ----------
    predicts : {"epsilon", "v_prediction", "flow"}
        What the model predicts.
    """

    @property
    def predicts(self) -> str: ...

    def draw(self, count: int, source: torch.Generator) -> Tensor:
        """Timesteps (count,) for training, drawn on the CPU."""
        ...

    def at(self, level: float, count: int) -> Tensor:
        """The timestep (count,) at a share of the noise schedule, from 0 (clean) to 1 (noise)."""
        ...

    def level(self, timesteps: Tensor) -> Tensor:
        """The share of the noise schedule, in [0, 1], of timesteps (B,)."""
        ...

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Noisy latents (B, C, h, w) at timesteps (B,)."""
        ...

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the model should predict, (B, C, h, w)."""
        ...

    def min_snr_weight(self, timesteps: Tensor, gamma: float) -> Tensor:
        """The factor (B,) of min-SNR weighting (Hang et al. 2023, arXiv 2303.09556, section 3.4)."""
        ...


@dataclass(frozen=True)
class Diffusion:
    """The variance-preserving process of Stable Diffusion v1, v2, XL and PixArt.

    Parameters
    ----------
    scheduler : DDPMScheduler
        Its noise schedule.
    """

    scheduler: Any

    @property
    def predicts(self) -> str:
        """ "epsilon" or "v_prediction"."""
        return str(self.scheduler.config.prediction_type)

    @property
    def _steps(self) -> int:
        return int(self.scheduler.config.num_train_timesteps)

    def draw(self, count: int, source: torch.Generator) -> Tensor:
        """Timesteps (count,), uniform over the schedule."""
        return torch.randint(self._steps, (count,), generator=source)

    def at(self, level: float, count: int) -> Tensor:
        """The timestep (count,) at a share of the schedule; see `NoiseProcess`."""
        return torch.full((count,), min(int(level * self._steps), self._steps - 1))

    def level(self, timesteps: Tensor) -> Tensor:
        """The share of the schedule of timesteps (B,)."""
        return timesteps / (self._steps - 1)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Noisy latents (B, C, h, w)."""
        return self.scheduler.add_noise(latents, noise, timesteps)

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The noise or the velocity, (B, C, h, w)."""
        velocity = self.predicts == "v_prediction"
        return self.scheduler.get_velocity(latents, noise, timesteps) if velocity else noise

    def min_snr_weight(self, timesteps: Tensor, gamma: float) -> Tensor:
        """min(SNR, gamma) / SNR for noise, min(SNR, gamma) / (SNR + 1) for velocity prediction, (B,).

        Where a schedule ends at SNR 0, the first is 1, its limit.
        """
        alphas_cumprod = self.scheduler.alphas_cumprod.to(timesteps.device)[timesteps]
        snr = alphas_cumprod / (1 - alphas_cumprod)
        return snr.clamp(max=gamma) / (snr + 1) if self.predicts == "v_prediction" else (gamma / snr).clamp(max=1)


@dataclass(frozen=True)
class FlowMatching:
    """The straight path of flow matching, as in Stable Diffusion 3 and Flux.

    Parameters
    ----------
    scheduler : FlowMatchEulerDiscreteScheduler
        Gives the number of training steps.
    shift : float
        Noise levels s become shift s / (1 + (shift - 1) s): above 1, more of them are near noise.
    levels : {"logit_normal", "uniform"}
        How noise levels are drawn in training, before the shift. Logit-normal levels are the logistic function of a
        standard normal number.

    References
    ----------
    Esser et al. 2024, arXiv 2403.03206, sections 3.1 and 5.3.2.
    """

    scheduler: Any
    shift: float = 1.0
    levels: str = "logit_normal"

    @property
    def predicts(self) -> str:
        """ "flow": the velocity noise - x0."""
        return "flow"

    @property
    def _steps(self) -> int:
        return int(self.scheduler.config.num_train_timesteps)

    def draw(self, count: int, source: torch.Generator) -> Tensor:
        """Timesteps (count,), floats in (0, steps)."""
        if self.levels == "uniform":
            s = torch.rand(count, generator=source)
        else:
            s = torch.randn(count, generator=source).sigmoid()
        return self._steps * self.shift * s / (1 + (self.shift - 1) * s)

    def at(self, level: float, count: int) -> Tensor:
        """The timestep (count,) at a noise level; see `NoiseProcess`."""
        return torch.full((count,), level * self._steps)

    def level(self, timesteps: Tensor) -> Tensor:
        """The noise level s of timesteps (B,)."""
        return timesteps / self._steps

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Noisy latents (B, C, h, w)."""
        s = self.level(timesteps).to(latents).view(-1, 1, 1, 1)
        return (1 - s) * latents + s * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The velocity (B, C, h, w)."""
        return noise - latents

    def min_snr_weight(self, timesteps: Tensor, gamma: float) -> Tensor:
        """Raises ValueError: the weighting is for diffusion models."""
        raise ValueError("task.min_snr weights the loss of diffusion models; this model is trained by flow matching.")


def dynamic_shift(config: Any, tokens: int) -> float | None:
    """The logarithm of the shift that depends on the number of tokens, as in Flux; None where the shift is fixed.

    Parameters
    ----------
    config : mapping
        Of a FlowMatchEulerDiscreteScheduler.
    tokens : int
        Number of image tokens.

    Returns
    -------
    float or None
        Linear in the number of tokens, through the two points that the config names.
    """
    if not config.get("use_dynamic_shifting"):
        return None
    low, high = config["base_image_seq_len"], config["max_image_seq_len"]
    slope = (config["max_shift"] - config["base_shift"]) / (high - low)
    return float(config["base_shift"] + slope * (tokens - low))
