"""DreamBooth: learn a subject from a few photos, with images of its class to preserve the prior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdpet.files.hashing import hash_images
from sdpet.files.images import load_folder, read
from sdpet.models.base import BaseModel
from sdpet.models.sending import sent
from sdpet.scoring.measures import Measure, personalisation_measures, score
from sdpet.scoring.plan import EvalImage, EvalPlan, fill
from sdpet.scoring.scorers import Scorer, Scorers
from sdpet.seeds import generator
from sdpet.tasks.batch import Batch, MaskedBatch, epoch_indices, make_noisy_batch, weighted_mse
from sdpet.tasks.class_images import class_files
from sdpet.tasks.latent_cache import LatentCache
from sdpet.tasks.masks import loss_weights, read_masks


class DreamBoothTask:
    """Learn a subject: loss = mse(subject images) + reg_weight * mse(class images).

    Parameters
    ----------
    base : BaseModel
        The untuned base model.
    subject_dir : path, or ndarray of uint8 (N, H, W, 3)
        Folder of the subject's photos, of any size; or the photos at the model's size.
    class_dir : path, ndarray or None
        Folder of class images, or the images; None is allowed if reg_weight is 0.
    prompt, class_prompt : str
        Prompts of the subject's photos and of the class images.
    reg_weight : float
        Weight of the class images' loss, at least 0; 0 leaves them out.
    batch_size : int
        Number of subject images a step; as many class images are added.
    flip : float
        Probability of mirroring an image, 0 to 1 (0.5 in the paper; 0 where left and right matter).
    heldout_dir : path or ndarray, optional
        Folder of further photos of the subject, from which the ceiling is measured; or the photos.
    min_snr : float, optional
        Gamma of min-SNR weighting, see `sdpet.tasks.batch.make_noisy_batch`.
    noise_offset : float
        Strength of offset noise (0.1 is common).
    background : float
        Weight of the loss where a photo does not show the subject, 0 to 1. Below 1 every photo needs a mask.
    mask_dir : path, optional
        Folder of masks, see `sdpet.tasks.masks.read_masks`; None takes the photos' alpha channels.
    token : str
        The word of `prompt` that names the subject; it is left out of the text that images are scored against.
    data : str
        Name of the data in the record.
    cache : path, optional
        Folder in which latents and text states are stored for other runs.

    Raises
    ------
    ValueError
        One sentence: a folder is missing or empty, or a value is impossible.

    References
    ----------
    Ruiz et al. 2022, arXiv 2208.12242.
    """

    name = "dreambooth"

    def __init__(
        self,
        base: BaseModel,
        subject_dir: str | Path | np.ndarray,
        class_dir: str | Path | np.ndarray | None,
        prompt: str,
        class_prompt: str,
        reg_weight: float = 1.0,
        batch_size: int = 2,
        flip: float = 0.0,
        heldout_dir: str | Path | np.ndarray | None = None,
        min_snr: float | None = None,
        noise_offset: float = 0.0,
        background: float = 1.0,
        mask_dir: str | Path | None = None,
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
        if not 0 <= background <= 1:
            raise ValueError(f"background is a weight between 0 and 1, not {background}.")
        if token not in prompt.split():
            raise ValueError(f"the prompt {prompt!r} does not contain the subject's token {token!r}.")
        if class_dir is None and reg_weight > 0:
            raise ValueError("class_dir is missing; give a folder of class images, or reg_weight=0 to train without.")
        self.base, self.data, self.token = base, data, token
        self.prompt, self.class_prompt = prompt, class_prompt
        self.reg_weight, self.batch_size, self.flip = float(reg_weight), batch_size, flip
        self.min_snr, self.noise_offset, self.background = min_snr, noise_offset, float(background)
        size = base.image_size
        self.subject_images = _images(subject_dir, size, "subject")  # (N, H, W, 3)
        self.heldout_images = None if heldout_dir is None else _images(heldout_dir, size, "held-out")
        masks = None if background == 1 else read_masks(subject_dir, mask_dir, size)  # before the VAE works
        latent_cache = LatentCache(base, cache)
        # Latents (2, N, C, h, w) of the images and of their mirror images; mirroring latents would not be exact.
        self._subject = _latents_and_mirrored(latent_cache, self.subject_images)
        self._masks = None if masks is None else self._mask_of_latents(masks)  # (2, N, 1, h, w)
        self._class: torch.Tensor | None = None
        self.class_hash: str | None = None  # of the class images' pixels
        if reg_weight > 0:
            assert class_dir is not None
            class_images = _images(class_dir, size, "class")
            self.class_hash = hash_images(class_images)
            self._class = _latents_and_mirrored(latent_cache, class_images)
        states = latent_cache.text([prompt, class_prompt])
        counts = [batch_size] if self._class is None else [batch_size, batch_size]
        self._text = states[: len(counts)].repeat_interleave(batch_size, dim=0)  # (B, L, D)
        self._prompts = [p for p in (prompt, class_prompt)[: len(counts)] for _ in range(batch_size)]
        weights = torch.tensor([1.0, self.reg_weight][: len(counts)]) / batch_size
        self._weight = weights.repeat_interleave(batch_size).to(base.device)  # (B,)

    def batch(self, seed: int, step: int) -> Batch:
        """Draw the batch of one training step: batch_size subject images, then as many class images.

        Parameters
        ----------
        seed, step : int
            The run's seed and the training step; the batch depends on them alone.

        Returns
        -------
        Batch
        """
        subject = self._drawn(self._subject, seed, step, "subject")
        latents = [self._subject[subject]]
        if self._class is not None:
            latents.append(self._class[self._drawn(self._class, seed, step, "class")])
        given = torch.cat(latents), self._text, self._prompts, self._weight
        batch = make_noisy_batch(self.base, *given, seed, step, self.min_snr, self.noise_offset)
        if self._masks is None:
            return batch
        own = self._masks[subject]
        mask = torch.cat([own, own.new_ones(len(batch.noisy) - len(own), *own.shape[1:])])  # of class images: 1
        return MaskedBatch(**{field.name: getattr(batch, field.name) for field in fields(batch)}, mask=mask)

    def loss(self, prediction: torch.Tensor, batch: Batch) -> torch.Tensor:
        """See `sdpet.tasks.batch.weighted_mse`."""
        return weighted_mse(prediction, batch)

    @property
    def class_latents(self) -> torch.Tensor | None:
        """Latents (N, C, h, w) of the class images; None where there are none."""
        return None if self._class is None else self._class[0]

    def eval_images(self, plan: EvalPlan) -> list[EvalImage]:
        """The subject's prompt, the plan's prompts about it, and the class's prompt; see `EvalTask.eval_images`."""
        prompts = [fill(template, self.prompt, self.token) for template in plan.prompts]
        return [
            *[EvalImage(self.prompt, "subject", self._without_token(self.prompt))] * plan.subject_images,
            *[EvalImage(p, "prompt", self._without_token(p)) for p in prompts for _ in range(plan.prompt_images)],
            *[EvalImage(self.class_prompt, "class", self.class_prompt)] * plan.class_images,
        ]

    def measures(self, scorers: Scorers, plan: EvalPlan) -> list[Measure]:
        """See `sdpet.scoring.measures.personalisation_measures`."""
        return personalisation_measures(scorers)

    def scores(
        self,
        images: np.ndarray,
        eval_images: Sequence[EvalImage],
        scorer: Scorer | Scorers,
        plan: EvalPlan | None = None,
    ) -> dict[str, float]:
        """Score drawn images; see `EvalTask.scores`.

        clip_i is measured on subject images, clip_t on subject and prompt images, prior_drift (clip_i) on class images.
        For the others see `sdpet.scoring.measures.personalisation_measures`.
        """
        scorers = Scorers.of(scorer)
        return score(self.measures(scorers, plan or EvalPlan()), images, eval_images, self.references, scorers)

    def ceiling(self, scorer: Scorer | Scorers, plan: EvalPlan) -> dict[str, float]:
        """Scores of further photos of the subject, as far as they need no text; see `EvalTask.ceiling`.

        The photos pass through the VAE, as every drawn image does.
        """
        if self.heldout_images is None:
            return {}
        scorers = Scorers.of(scorer)
        images = self.base.through_vae(self.heldout_images)
        measures = [m for m in self.measures(scorers, plan) if m.roles == ("subject",)]
        eval_images = [EvalImage(self.prompt, "subject", "")] * len(images)
        return score(measures, images, eval_images, self.references, scorers)

    def ceiling_hash(self, plan: EvalPlan) -> str | None:
        """Hash of the held-out photos; None where there are none."""
        return None if self.heldout_images is None else hash_images(self.heldout_images)

    @cached_property
    def references(self) -> np.ndarray:
        """Subject images passed through the VAE, uint8 (N, H, W, 3).

        No design could draw sharper ones, since every drawn image passes through the VAE.
        """
        return self.base.through_vae(self.subject_images)

    def reference_protocol(self) -> dict[str, Any]:
        """Identify the references; see `EvalTask.reference_protocol`.

        They are hashed before the VAE, since decoding may round differently on another machine.
        """
        return {
            "references": "subject images through the VAE",
            "reference_count": len(self.subject_images),
            "reference_hash": hash_images(self.subject_images),
            "reference_vae": self.base.weight_hash,
        }

    def describe(self) -> dict[str, Any]:
        """The entry "task" of a record.

        Returns
        -------
        dict
            Values that JSON can hold.
        """
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
            **({} if self.background == 1 else {"background": self.background}),
        }

    def _mask_of_latents(self, masks: np.ndarray) -> torch.Tensor:
        """Weights (2, N, 1, h, w) of the latents of photos with these masks, and of their mirror images."""
        views = [loss_weights(view, self.background, *self._subject.shape[-2:]) for view in (masks, masks[:, :, ::-1])]
        return torch.stack(views).to(self._subject.device)

    def _drawn(self, latents: torch.Tensor, seed: int, step: int, stream: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Indices of the views (mirrored or not) and of the images of a step."""
        rows = epoch_indices(latents.shape[1], self.batch_size, seed, step, stream)
        mirrored = torch.rand(self.batch_size, generator=generator(seed, step, stream, "flip")) < self.flip
        return sent(mirrored.long(), latents.device), sent(rows, latents.device)

    def _without_token(self, prompt: str) -> str:
        return " ".join(word for word in prompt.split() if word != self.token)


def _images(given: str | Path | np.ndarray, size: int, what: str) -> np.ndarray:
    """Images uint8 (N, size, size, 3) of a folder, or as they were given."""
    if isinstance(given, np.ndarray):
        return given
    return read(class_files(given), size, what)[0] if what == "class" else load_folder(given, size, what)


def _latents_and_mirrored(latent_cache: LatentCache, images: np.ndarray) -> torch.Tensor:
    """Latents (2, N, C, h, w) of images uint8 (N, H, W, 3) and of their mirror images."""
    return torch.stack([latent_cache.latents(images), latent_cache.latents(images[:, :, ::-1].copy())])
