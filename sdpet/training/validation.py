"""Draw a few sample images during training."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from sdpet.files.atomic import write_atomic
from sdpet.models.base import BaseModel
from sdpet.sampling import SamplerConfig, sample_together
from sdpet.scoring import EvalPlan, image_seeds
from sdpet.tasks import Task

FOLDER = "validation"
IMAGES = 4


class Validation:
    """Draws validation images into validation/<step>/ of each run's folder; `fit_together` calls it as `validate`.

    It draws one image for each of the first prompts of the evaluation, with the noise of the evaluation. The noise
    comes from the seeds of the images, so training is not affected. Samples that are not finite are not written.

    Parameters
    ----------
    base : BaseModel
        The model that the designs are attached to.
    task : Task
        Lists the images of the evaluation.
    sampler : SamplerConfig
        How images are sampled.
    plan : EvalPlan
        The evaluation of the finished runs.
    seeds : sequence of int
        Seed of each member.
    folders : sequence of Path
        Run folder of each member.

    Attributes
    ----------
    tell : sequence of callable
        For each member, called as ``tell[i](step, images)`` with images uint8 (H, W, 3); empty by default.
    """

    def __init__(
        self,
        base: BaseModel,
        task: Task,
        sampler: SamplerConfig,
        plan: EvalPlan,
        seeds: Sequence[int],
        folders: Sequence[Path],
    ):
        self._base, self._chunk, self._folders = base, plan.chunk, folders
        self._sampler = replace(sampler, compile=False)  # it would take longer than these few images
        eval_images = task.eval_images(plan)
        first = [i for i, item in enumerate(eval_images) if item.prompt not in [s.prompt for s in eval_images[:i]]][
            :IMAGES
        ]
        self._eval_images = [eval_images[i] for i in first]
        noise = [image_seeds(eval_images, seed if plan.eval_seed is None else plan.eval_seed) for seed in seeds]
        self._noise = [[own[i] for i in first] for own in noise]
        self.tell: Sequence[Callable[[int, list[np.ndarray]], None]] = ()

    def __call__(self, step: int, active: list[int]) -> None:
        prompts = [item.prompt for item in self._eval_images]
        noise = [self._noise[i] for i in active]
        drawn = sample_together(self._base, prompts, noise, self._sampler, chunk=self._chunk)
        for i, images in zip(active, drawn, strict=True):
            if images is not None:
                self._write(self._folders[i] / FOLDER / f"{step:06d}", images, self._noise[i])
                if self.tell:
                    self.tell[i](step, list(images))

    def _write(self, folder: Path, images: np.ndarray, noise: Sequence[int]) -> None:
        """Write PNG files and then index.jsonl, as in the run's samples/."""
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for number, (item, seed, image) in enumerate(zip(self._eval_images, noise, images, strict=True)):
            name = f"{number:05d}.png"
            Image.fromarray(image).save(folder / name)
            rows.append({"file": name, "prompt": item.prompt, "seed": seed, "role": item.role})
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        write_atomic(folder / "index.jsonl", lambda file: file.write_text(lines, encoding="utf-8"))
