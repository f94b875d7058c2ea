"""How images are drawn and where denoising starts, as checked values. Free of torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpet.choices import AUTOCASTS, SAMPLERS

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class SamplerConfig:
    """How images are drawn.

    Parameters
    ----------
    name : {"dpm", "ddim", "plms", "euler"}
        The sampler; dpm is DPM-Solver++ (2M), euler is Euler's method for models trained by flow matching.
    steps : int
        Number of denoising steps, 1 to 1000 (dpm: 1 to 999).
    guidance : float
        Scale of classifier-free guidance, at least 0: eps = eps(empty) + guidance * (eps(prompt) - eps(empty)).
        With 1 the unconditional pass is left out. Models that embed the strength (Flux dev) get it as an input.
    eta : float
        Share of fresh noise in each step, for ddim only: 0 is deterministic, 1 is ancestral sampling.
    make : callable, optional
        A sampler of one's own: a class with the interface `sdpet.sampling.Sampler`, called as
        ``make(scheduler=..., steps=..., skip=..., **options)``. `name` may then be any.
    options : mapping
        Further arguments of `make`.
    autocast : {"bf16-mixed", "16-mixed"}, optional
        Precision in which the denoiser computes, by torch.autocast; None for that of its weights. Samples, noise and
        the VAE stay as they are.
    compile : bool or "auto"
        Compile the denoiser with torch.compile for the images of one call, which changes last bits. "auto" compiles
        where this saves a tenth of the time, by a measurement (`sdpet.sampling.compiling`).
    measured : Path, optional
        Folder in which "auto" keeps its measurements; None keeps nothing.

    Raises
    ------
    ValueError
        One sentence that names the wrong value and the valid ones.

    References
    ----------
    Classifier-free guidance: Ho and Salimans 2022, arXiv 2207.12598. eta: Song et al. 2020, arXiv 2010.02502, eq. 16.
    """

    name: str = "dpm"
    steps: int = 25
    guidance: float = 7.0
    eta: float = 0.0
    make: Callable[..., Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    autocast: str | None = None
    compile: bool | str = False
    measured: Path | None = None

    def __post_init__(self) -> None:
        if self.compile not in (True, False, "auto"):
            raise ValueError(f"compile must be True, False or 'auto', not {self.compile!r}.")
        if self.autocast is not None and self.autocast not in AUTOCASTS:
            raise ValueError(f"autocast {self.autocast!r} is unknown; choose {' or '.join(AUTOCASTS)}, or None.")
        if self.make is None and self.name not in SAMPLERS:
            raise ValueError(f"sampler {self.name!r} is unknown; choose one of {', '.join(SAMPLERS)}.")
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or not 1 <= self.steps <= 1000:
            raise ValueError(f"sampler steps must be a whole number from 1 to 1000, not {self.steps!r}.")
        if self.name == "dpm" and self.steps > 999:  # its timesteps run from 999 to 1: one more step would repeat one
            raise ValueError(f"the sampler dpm takes at most 999 steps, not {self.steps}.")
        if not 0 <= self.guidance < float("inf"):
            raise ValueError(f"guidance must be a number of at least 0, not {self.guidance!r}.")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie between 0 and 1, not {self.eta!r}.")
        if self.eta and self.name != "ddim":
            raise ValueError(f"eta {self.eta} needs the sampler ddim; {self.name} takes eta 0 only.")
        if self.options and self.make is None:
            raise ValueError(f"the sampler {self.name} takes no further options, not {next(iter(self.options))}.")

    def describe(self) -> dict[str, Any]:
        """The sampler's entry in a protocol: name and options, values that JSON can hold. Compiling is none of them."""
        found = {"name": self.name, "steps": self.steps, "guidance": self.guidance, "eta": self.eta}
        found |= {} if self.autocast is None else {"autocast": self.autocast}
        return found | ({"options": dict(self.options)} if self.make is not None else {})


@dataclass(frozen=True)
class Start:
    """Where denoising starts. By default each image starts from noise of the model's own size, drawn from its seed.

    Parameters
    ----------
    size : (int, int), optional
        Height and width of the latents.
    seeds : sequence of int, optional
        Seeds of the starting noise, one an image, in place of the images' own seeds.
    latents : Tensor (N or 1, C, h, w), optional
        Latents of images to start from. Noise of the level of the first step taken is added to them.
    strength : float
        Share of the sampler's steps that are taken, 0 to 1: the last int(strength * steps) of them.
    """

    size: tuple[int, int] | None = None
    seeds: Sequence[int] | None = None
    latents: torch.Tensor | None = None
    strength: float = 1.0

    def skipped(self, steps: int) -> int:
        """Number of steps that are left out at the beginning.

        Parameters
        ----------
        steps : int
            The sampler's number of steps.

        Returns
        -------
        int
        """
        return steps - int(self.strength * steps)
