"""Fine-tuning on a captioned image set, scored by distances between sets of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdpet.files.hashing import hash_images
from sdpet.models.base import BaseModel
from sdpet.models.sending import sent
from sdpet.scoring.measures import Measure, score, set_measures
from sdpet.scoring.plan import EvalImage, EvalPlan
from sdpet.scoring.scorers import Scorer, Scorers
from sdpet.scoring.spread import part
from sdpet.seeds import generator
from sdpet.tasks.batch import Batch, epoch_indices, make_noisy_batch, weighted_mse
from sdpet.tasks.captioned import read_captioned
from sdpet.tasks.latent_cache import LatentCache

ON_DEVICE = 2**30  # bytes of text states above which they stay on the host, and each batch is copied


class FinetuneTask:
    """Learn a captioned image set, with caption dropout so that guidance keeps working; FID to a held-out set.

    Parameters
    ----------
    base : BaseModel
        The untuned base model.
    data : path, "digits" or None
        Scikit-learn's handwritten digits, or a folder of images with captions in metadata.jsonl or .txt files, see
        `read_captioned`. If images and captions are given as arrays, this is their name in the record.
    batch_size : int
        Number of images a step.
    dropout : float
        Probability of training an image with the empty caption, 0 to 1.
    flip : float
        Probability of mirroring an image, 0 to 1.
    min_snr : float, optional
        Gamma of min-SNR weighting, see `sdpet.tasks.batch.make_noisy_batch`.
    noise_offset : float
        Strength of offset noise (0.1 is common).
    heldout_share : float
        Share of a folder's images that is held out for scoring, the same one for every seed.
    images, heldout_images : ndarray of uint8, (N, H, W, 3) and (M, H, W, 3), optional
        Training images and held-out images, in place of those of `data`.
    captions, heldout_captions : sequence of str, N and M, optional
        Their captions.
    source, image_column, caption_column : str
        What the folder is, see `read_captioned`.
    cache : path, optional
        Folder in which latents and text states are stored for other runs.

    Raises
    ------
    ValueError
        One sentence: the data cannot be read, or a value is impossible.
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
        if data is not None and images is None:
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
        # Latents (2, N, C, h, w) of the images and of their mirror images; mirroring latents would not be exact.
        latent_cache = LatentCache(base, cache)
        views = [images, images[:, :, ::-1].copy()] if flip > 0 else [images]
        self._latents = torch.stack([latent_cache.latents(view) for view in views])
        self._unique = ["", *dict.fromkeys(self.captions)]
        place = {caption: row for row, caption in enumerate(self._unique)}
        self._text = latent_cache.text(self._unique)  # (1 + U, L, D), the empty caption first
        if self._text.is_cuda and self._text.nbytes > ON_DEVICE:
            self._text = self._text.cpu()
        self._caption_row = torch.tensor([place[caption] for caption in self.captions])
        self._weight = torch.full((batch_size,), 1 / batch_size, device=base.device)

    def batch(self, seed: int, step: int) -> Batch:
        """Draw the batch of one training step: batch_size images, some with the empty caption.

        Parameters
        ----------
        seed, step : int
            The run's seed and the training step; the batch depends on them alone.

        Returns
        -------
        Batch
        """
        rows = epoch_indices(len(self.captions), self.batch_size, seed, step, "images")
        source = generator(seed, step, "captions and flips")
        dropped = torch.rand(self.batch_size, generator=source) < self.dropout
        mirrored = torch.rand(self.batch_size, generator=source) < self.flip
        captions = self._caption_row[rows].masked_fill(dropped, 0)
        device = self._latents.device
        text = (
            sent(self._text[captions], device)
            if self._text.device.type == "cpu"
            else self._text[sent(captions, device)]
        )
        prompts = [self._unique[row] for row in captions.tolist()]
        latents = self._latents[sent(mirrored.long(), device), sent(rows, device)]
        more = self._weight, seed, step, self.min_snr, self.noise_offset
        return make_noisy_batch(self.base, latents, text, prompts, *more)

    def loss(self, prediction: torch.Tensor, batch: Batch) -> torch.Tensor:
        """See `sdpet.tasks.batch.weighted_mse`."""
        return weighted_mse(prediction, batch)

    def eval_images(self, plan: EvalPlan) -> list[EvalImage]:
        """plan.images of the held-out captions, a random part of the whole set; see `EvalTask.eval_images`."""
        captions = [self.heldout_captions[i] for i in part(self.heldout_captions, plan.images)]
        return [EvalImage(caption, "prompt", caption) for caption in captions]

    def measures(self, scorers: Scorers, plan: EvalPlan) -> list[Measure]:
        """See `sdpet.scoring.measures.set_measures`."""
        return set_measures(scorers, plan)

    def scores(
        self,
        images: np.ndarray,
        eval_images: Sequence[EvalImage],
        scorer: Scorer | Scorers,
        plan: EvalPlan | None = None,
    ) -> dict[str, float]:
        """The plan's distances from the held-out images, and clip_t to the captions; see `EvalTask.scores`."""
        scorers = Scorers.of(scorer)
        return score(self.measures(scorers, plan or EvalPlan()), images, eval_images, self.references, scorers)

    def ceiling(self, scorer: Scorer | Scorers, plan: EvalPlan) -> dict[str, float]:
        """Scores of as many real training images, passed through the VAE; see `EvalTask.ceiling`.

        A model that has learned the training set perfectly would reach them. What a classifier reads is measured on the
        held-out images instead, because it may have been trained on the training images.
        """
        scorers = Scorers.of(scorer)
        rows = self._ceiling_rows(plan)
        real = self.base.through_vae(self.images[rows])
        eval_images = [EvalImage(self.captions[i], "prompt", self.captions[i]) for i in rows]
        reading = [measure for measure in self.measures(scorers, plan) if hasattr(scorers[measure.scorer], "read")]
        found = self.scores(real, eval_images, scorers, plan)
        return found | self._held_out_scores([m for m in reading if m.against == "texts"], scorers, plan)

    def _held_out_scores(self, measures: list[Measure], scorers: Scorers, plan: EvalPlan) -> dict[str, float]:
        if not measures:
            return {}
        rows = part(self.heldout_captions, min(plan.images, len(self.heldout_captions)))
        images = self.base.through_vae(self.references[rows])
        eval_images = [EvalImage(self.heldout_captions[i], "prompt", self.heldout_captions[i]) for i in rows]
        return score(measures, images, eval_images, self.references, scorers)

    def ceiling_hash(self, plan: EvalPlan) -> str | None:
        """Hash of the training images behind the ceiling."""
        return hash_images(self.images[self._ceiling_rows(plan)])

    def _ceiling_rows(self, plan: EvalPlan) -> list[int]:
        """As many training images as are drawn, or all of them: a random part of the whole set."""
        return part(self.captions, min(plan.images, len(self.captions)))

    def reference_protocol(self) -> dict[str, Any]:
        """Identify the references; see `EvalTask.reference_protocol`."""
        return {
            "references": "held-out images",
            "reference_count": len(self.references),
            "reference_hash": hash_images(self.references),
            "reference_vae": None,
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
            "training_images": len(self.images),
            "heldout_images": len(self.references),
            "batch_size": self.batch_size,
            "dropout": self.dropout,
            "flip": self.flip,
            "min_snr": self.min_snr,
            "noise_offset": self.noise_offset,
        }
