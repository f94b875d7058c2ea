"""Fine-tuning on a set of captioned images, scored by the distance of distributions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdpet.base import BaseModel
from sdpet.scoring.metrics import Scorer
from sdpet.scoring.plan import EvalPlan, Shot
from sdpet.tasks.batch import Batch


class FinetuneTask:
    """Captioned images with caption dropout, so that guidance keeps working; FID against a held-out split.

    data: "digits" (scikit-learn's handwritten digits, shipped with that package) or a folder of images with captions
        in metadata.jsonl or .txt files; or None, with images uint8 (N, H, W, 3), captions and heldout given as arrays.
    batch_size: images a step; dropout: probability of training an image with the empty caption.
    heldout_share: share of a folder's images kept for scoring (chosen by hash of the position, not of the seed).
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
        heldout_share: float = 0.1,
        images: np.ndarray | None = None,
        captions: Sequence[str] | None = None,
        heldout_images: np.ndarray | None = None,
        heldout_captions: Sequence[str] | None = None,
    ):
        ...
