"""DreamBooth: a subject from a few photos, with images of its class to preserve the prior (arXiv 2208.12242)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdpet.files.hashing import hash_images
from sdpet.files.images import load_folder
from sdpet.models.base import BaseModel
from sdpet.scoring.measures import Measure, of_subject, score
from sdpet.scoring.plan import EvalPlan, Shot, fill
from sdpet.scoring.scorers import Scorer, Scorers
from sdpet.seeds import generator
from sdpet.tasks.batch import Batch, draw, noised, weighted_mse
from sdpet.tasks.latent_cache import Cache


class DreamBoothTask:
    """Subject images with `prompt` and class images with `class_prompt`; loss = mse(subject) + reg_weight mse(class).

    subject_dir, class_dir, heldout_dir: folders of images of any size; class_dir may be None if reg_weight is 0;
        heldout_dir holds further images of the subject, from which the ceiling is measured.
    token: the word of `prompt` that names the subject; it is dropped from the text that images are scored against.
    batch_size: subject images a step; as many class images come on top.
    flip: probability of mirroring an image (0.5 in the paper; 0 where left and right matter).
    cache: folder in which latents and text states are kept for other runs, or None.
    min_snr: gamma of min-SNR weighting, or None; noise_offset: strength of offset noise (0.1 is common).
    Raises ValueError for missing or empty folders and impossible numbers.
    """

    name = "dreambooth"

    def __init__(
        self,
        base: BaseModel,
        subject_dir: str | Path,
        class_dir: str | Path | None,
        prompt: str,
        class_prompt: str,
        reg_weight: float = 1.0,
        batch_size: int = 2,
        flip: float = 0.0,
        heldout_dir: str | Path | None = None,
        min_snr: float | None = None,
        noise_offset: float = 0.0,
        token: str = "sks",
        data: str = "folder",
        cache: str | Path | None = None,
    ):
        if reg_weight < 0:
            raise ValueError(f"reg_weight must be at least 0, not {reg_weight}.")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}.")
        if not 0 <= flip <= 1:
            raise ValueError(f"flip is a probability between 0 and 1, not {flip}.")
        if token not in prompt.split():
            raise ValueError(f"the prompt {prompt!r} does not hold the subject's token {token!r}.")
        if class_dir is None and reg_weight > 0:
            raise ValueError("class_dir is missing; give a folder of class images, or reg_weight=0 to train without.")
        self.base, self.data, self.token = base, data, token
        self.prompt, self.class_prompt = prompt, class_prompt
        self.reg_weight, self.batch_size, self.flip = float(reg_weight), batch_size, flip
        self.min_snr, self.noise_offset = min_snr, noise_offset
        size = base.image_size
        self.subject_images = load_folder(subject_dir, size, "subject")  # (N, H, W, 3)
        self.heldout_images = None if heldout_dir is None else load_folder(heldout_dir, size, "held-out")
        kept = Cache(base, cache)
        # Latents (2, N, C, h, w): as they are, and mirrored as pixels, since mirroring latents is not exact.
        self._subject = _latents_and_mirrored(kept, self.subject_images)
        self._class = None
        if reg_weight > 0:
            assert class_dir is not None
            class_images = load_folder(class_dir, size, "class")
            self.class_hash = hash_images(class_images)
            self._class = _latents_and_mirrored(kept, class_images)
        states = kept.text([prompt, class_prompt])
        counts = [batch_size] if self._class is None else [batch_size, batch_size]
        self._text = states[: len(counts)].repeat_interleave(batch_size, dim=0)  # (B, L, D)
        self._prompts = [p for p in (prompt, class_prompt)[: len(counts)] for _ in range(batch_size)]
        weights = torch.tensor([1.0, self.reg_weight][: len(counts)]) / batch_size
        self._weight = weights.repeat_interleave(batch_size).to(base.device)  # (B,)

    def batch(self, seed: int, step: int) -> Batch:
        """batch_size subject images, then as many class images; a function of (seed, step) alone."""
        latents = [self._draw(self._subject, seed, step, "subject")]
        if self._class is not None:
            latents.append(self._draw(self._class, seed, step, "class"))
        given = torch.cat(latents), self._text, self._prompts, self._weight
        return noised(self.base, *given, seed, step, self.min_snr, self.noise_offset)

    def loss(self, prediction: torch.Tensor, batch: Batch) -> torch.Tensor:
        return weighted_mse(prediction, batch)

    @property
    def class_latents(self) -> torch.Tensor | None:
        """Latents (N, C, h, w) of the class images; None where there are none."""
        return None if self._class is None else self._class[0]

    def shots(self, plan: EvalPlan) -> list[Shot]:
        """The subject's prompt, the plan's prompts about the subject, and the class's prompt."""
        prompts = [fill(template, self.prompt, self.token) for template in plan.prompts]
        return [
            *[Shot(self.prompt, "subject", self._without_token(self.prompt))] * plan.subject_images,
            *[Shot(p, "prompt", self._without_token(p)) for p in prompts for _ in range(plan.prompt_images)],
            *[Shot(self.class_prompt, "class", self.class_prompt)] * plan.class_images,
        ]

    def measures(self, scorers: Scorers, plan: EvalPlan) -> list[Measure]:
        return of_subject(scorers)

    def scores(
        self, images: np.ndarray, shots: Sequence[Shot], scorer: Scorer | Scorers, plan: EvalPlan | None = None
    ) -> dict[str, float]:
        """clip_i of subject samples; clip_t of subject and prompt samples; prior_drift, clip_i of class samples; ...

        See `sdpet.scoring.measures.of_subject`.
        """
        scorers = Scorers.of(scorer)
        return score(self.measures(scorers, plan or EvalPlan()), images, shots, self.references, scorers)

    def ceiling(self, scorer: Scorer | Scorers, plan: EvalPlan) -> dict[str, float]:
        """What of the subject's samples is scored without text, of further images of the subject.

        Through the VAE as every generated image is.
        """
        if self.heldout_images is None:
            return {}
        scorers = Scorers.of(scorer)
        images = self.base.through_vae(self.heldout_images)
        measures = [m for m in self.measures(scorers, plan) if m.roles == ("subject",)]
        shots = [Shot(self.prompt, "subject", "")] * len(images)
        return score(measures, images, shots, self.references, scorers)

    def ceiling_hash(self, plan: EvalPlan) -> str | None:
        """Identifies the real images behind the ceiling."""
        return None if self.heldout_images is None else hash_images(self.heldout_images)

    @cached_property
    def references(self) -> np.ndarray:
        """Subject images through the VAE, uint8 (N, H, W, 3): sharper ones, no design could ever draw."""
        return self.base.through_vae(self.subject_images)

    def reference_protocol(self) -> dict[str, Any]:
        """What identifies the references; hashed as read, since decoding may round differently on another machine."""
        return {
            "references": "subject images through the VAE",
            "reference_count": len(self.subject_images),
            "reference_hash": hash_images(self.subject_images),
            "reference_vae": self.base.weight_hash,
        }

    def describe(self) -> dict[str, Any]:
        """The record's "task"."""
        return {
            "name": self.name,
            "data": self.data,
            "prompt": self.prompt,
            "class_prompt": self.class_prompt,
            "subject_images": len(self.subject_images),
            "class_images": 0 if self._class is None else self._class.shape[1],
            "reg_weight": self.reg_weight,
            "batch_size": self.batch_size,
            "flip": self.flip,
            "min_snr": self.min_snr,
            "noise_offset": self.noise_offset,
        }

    def _draw(self, latents: torch.Tensor, seed: int, step: int, stream: str) -> torch.Tensor:
        rows = draw(latents.shape[1], self.batch_size, seed, step, stream)
        mirrored = torch.rand(self.batch_size, generator=generator(seed, step, stream, "flip")) < self.flip
        return latents[mirrored.long().to(latents.device), rows.to(latents.device)]

    def _without_token(self, prompt: str) -> str:
        return " ".join(word for word in prompt.split() if word != self.token)


def _latents_and_mirrored(kept: Cache, images: np.ndarray) -> torch.Tensor:
    """Latents (2, N, C, h, w) of images uint8 (N, H, W, 3) and of their mirror images."""
    return torch.stack([kept.latents(images), kept.latents(images[:, :, ::-1].copy())])
