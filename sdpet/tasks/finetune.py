"""Fine-tuning on a set of captioned images, scored by the distance of distributions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdpet.files.hashing import hash_images
from sdpet.models.base import BaseModel
from sdpet.scoring.measures import Measure, of_set, score
from sdpet.scoring.plan import EvalPlan, Shot
from sdpet.scoring.scorers import Scorer, Scorers
from sdpet.seeds import generator
from sdpet.tasks.batch import Batch, draw, noised, weighted_mse
from sdpet.tasks.captioned import read_captioned
from sdpet.tasks.latent_cache import Cache


class FinetuneTask:
    """Captioned images with caption dropout, so that guidance keeps working; FID against a held-out split.

    data: "digits" (scikit-learn's handwritten digits, shipped with that package) or a folder of images with captions
        in metadata.jsonl or .txt files; or None, with images uint8 (N, H, W, 3), captions and heldout given as arrays.
    batch_size: images a step; dropout: probability of training an image with the empty caption.
    heldout_share: share of a folder's images kept for scoring (the same for every seed).
    source, image_column, caption_column: what the folder is, see `read_captioned`.
    cache: folder in which latents and text states are kept for other runs, or None.
    """

    name = "finetune"

    def __init__(
        self,
        base: BaseModel,
        data: str | Path | None = "digits",
        batch_size: int = 8,
        dropout: float = 0.1,
        flip: float = 0.0,
        min_snr: float | None = None,
        noise_offset: float = 0.0,
        heldout_share: float = 0.1,
        images: np.ndarray | None = None,
        captions: Sequence[str] | None = None,
        heldout_images: np.ndarray | None = None,
        heldout_captions: Sequence[str] | None = None,
        source: str = "folder",
        image_column: str = "image",
        caption_column: str = "text",
        cache: str | Path | None = None,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}.")
        for key, value in {"dropout": dropout, "flip": flip}.items():
            if not 0 <= value <= 1:
                raise ValueError(f"{key} is a probability between 0 and 1, not {value}.")
        if data is not None:
            columns = image_column, caption_column
            trained, heldout = read_captioned(data, base.image_size, heldout_share, source, *columns)
            (images, captions), (heldout_images, heldout_captions) = trained, heldout
        if images is None or captions is None or heldout_images is None or heldout_captions is None:
            raise ValueError("give data a name or folder, or images, captions, heldout_images and heldout_captions.")
        if len(images) != len(captions) or len(heldout_images) != len(heldout_captions):
            raise ValueError("every image needs one caption, in training and in the held-out split.")
        self.base, self.data = base, "arrays" if data is None else str(data)
        self.batch_size, self.dropout, self.flip = batch_size, dropout, flip
        self.min_snr, self.noise_offset = min_snr, noise_offset
        self.images, self.captions = images, list(captions)
        self.references, self.heldout_captions = heldout_images, list(heldout_captions)
        # Latents (2, N, C, h, w), the second half mirrored as pixels, which is exact where mirroring latents is not.
        kept = Cache(base, cache)
        views = [images, images[:, :, ::-1].copy()] if flip > 0 else [images]
        self._latents = torch.stack([kept.latents(view) for view in views])
        self._unique = ["", *dict.fromkeys(self.captions)]
        place = {caption: row for row, caption in enumerate(self._unique)}
        self._text = kept.text(self._unique)  # (1 + U, L, D), the empty caption first
        self._caption_row = torch.tensor([place[caption] for caption in self.captions])
        self._weight = torch.full((batch_size,), 1 / batch_size, device=base.device)

    def batch(self, seed: int, step: int) -> Batch:
        """batch_size images, some without caption; a function of (seed, step) alone."""
        rows = draw(len(self.captions), self.batch_size, seed, step, "images")
        source = generator(seed, step, "captions and flips")
        dropped = torch.rand(self.batch_size, generator=source) < self.dropout
        mirrored = torch.rand(self.batch_size, generator=source) < self.flip
        captions = self._caption_row[rows].masked_fill(dropped, 0)
        text, prompts = self._text[captions.to(self._text.device)], [self._unique[row] for row in captions.tolist()]
        latents = self._latents[mirrored.long().to(self._latents.device), rows.to(self._latents.device)]
        more = self._weight, seed, step, self.min_snr, self.noise_offset
        return noised(self.base, latents, text, prompts, *more)

    def loss(self, prediction: torch.Tensor, batch: Batch) -> torch.Tensor:
        return weighted_mse(prediction, batch)

    def shots(self, plan: EvalPlan) -> list[Shot]:
        """plan.images prompts: the held-out captions in turn."""
        captions = itertools.islice(itertools.cycle(self.heldout_captions), plan.images)
        return [Shot(caption, "prompt", caption) for caption in captions]

    def measures(self, scorers: Scorers, plan: EvalPlan) -> list[Measure]:
        return of_set(scorers, plan)

    def scores(
        self, images: np.ndarray, shots: Sequence[Shot], scorer: Scorer | Scorers, plan: EvalPlan | None = None
    ) -> dict[str, float]:
        """fid and the plan's other distances from the held-out images, clip_t against the captions."""
        scorers = Scorers.of(scorer)
        return score(self.measures(scorers, plan or EvalPlan()), images, shots, self.references, scorers)

    def ceiling(self, scorer: Scorer | Scorers, plan: EvalPlan) -> dict[str, float]:
        """Scores of as many real training images through the VAE: what learning the training set perfectly gives."""
        real = self.base.through_vae(self.images[: plan.images])
        shots = [Shot(caption, "prompt", caption) for caption in self.captions[: plan.images]]
        return self.scores(real, shots, scorer, plan)

    def ceiling_hash(self, plan: EvalPlan) -> str | None:
        """Identifies the real images behind the ceiling."""
        return hash_images(self.images[: plan.images])

    def reference_protocol(self) -> dict[str, Any]:
        """What identifies the references."""
        return {
            "references": "held-out images",
            "reference_count": len(self.references),
            "reference_hash": hash_images(self.references),
            "reference_vae": None,
        }

    def describe(self) -> dict[str, Any]:
        """The record's "task"."""
        return {
            "name": self.name,
            "data": self.data,
            "training_images": len(self.images),
            "heldout_images": len(self.references),
            "batch_size": self.batch_size,
            "dropout": self.dropout,
            "flip": self.flip,
            "min_snr": self.min_snr,
            "noise_offset": self.noise_offset,
        }
