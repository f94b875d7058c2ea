"""DreamBooth: a subject from a few photos, with images of its class to preserve the prior (arXiv 2208.12242)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sdpet.base import BaseModel
from sdpet.scoring.metrics import Scorer, clip_i, clip_t
from sdpet.scoring.plan import EvalPlan, Shot, hash_images
from sdpet.tasks.batch import Batch, draw, noised, weighted_mse
from sdpet.tasks.images import load_folder


class DreamBoothTask:
    """Subject images with `prompt` and class images with `class_prompt`; loss = mse(subject) + reg_weight mse(class).

    subject_dir, class_dir, heldout_dir: folders of images of any size; class_dir may be None if reg_weight is 0;
        heldout_dir holds further images of the subject, from which the ceiling is measured.
    token: the word of `prompt` that names the subject; it is dropped from the text that images are scored against.
    batch_size: subject images a step; as many class images come on top.
    flip: probability of mirroring an image (0.5 in the paper; 0 where left and right matter).
    min_snr: gamma of min-SNR weighting, or None.
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
        token: str = "sks",
        data: str = "folder",
    ):
        ...
