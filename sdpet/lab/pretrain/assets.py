"""Stage 5: weights in float16, and the images of the DreamBooth task (references, held-out views, class images)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from sdpet.lab.drawing import render, write_images
from sdpet.lab.world import CLASS_PROMPT, subject_scenes

if TYPE_CHECKING:
    from sdpet.models import BaseModel

REFERENCES, HELD_OUT, CLASS_IMAGES = 5, 32, 64


def write_weights(folder: Path, state: dict[str, torch.Tensor]) -> None:
    """Write model.safetensors, floating-point tensors in float16.

    Parameters
    ----------
    folder : Path
        Created where missing.
    state : dict of str to Tensor
        The weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    half = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in state.items()}
    save_file(half, folder / "model.safetensors")


def write_data(out: Path) -> None:
    """Write the subject's photos, other views of it for the ceiling, and class images drawn by the base model.

    Parameters
    ----------
    out : Path
        Folder of the lab; it has the trained pipeline.
    """
    from sdpet.models.load import load_base

    write_images(out / "data" / "subject", render(subject_scenes(REFERENCES, seed=51)))
    write_images(out / "data" / "subject_heldout", render(subject_scenes(HELD_OUT, seed=52)))
    write_class_images(out / "data" / "class", load_base("lab", path=out / "pipeline"), guidance=2.5)


def write_class_images(folder: Path, base: BaseModel, guidance: float) -> None:
    """Draw the images of the class by a base model, and write them.

    Parameters
    ----------
    folder : Path
        Its earlier content is deleted.
    base : BaseModel
        The model that will be tuned.
    guidance : float
        Strength of guidance.
    """
    from sdpet.sampling import SamplerConfig, sample

    seeds = list(range(7000, 7000 + CLASS_IMAGES))
    write_images(folder, sample(base, [CLASS_PROMPT] * CLASS_IMAGES, seeds, SamplerConfig(steps=25, guidance=guidance)))
