"""Stage 5: weights in float16, and the images of the DreamBooth task (references, held-out views, class images)."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from sdpet.lab.drawing import render
from sdpet.lab.world import CLASS_PROMPT, subject_scenes

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


def write_images(folder: Path, images: np.ndarray) -> None:
    """Write images as 00000.png and so on.

    Parameters
    ----------
    folder : Path
        Its earlier content is deleted.
    images : ndarray of uint8, (N, H, W, 3)
        The images.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:05d}.png", optimize=True)


def write_data(out: Path) -> None:
    """Write the subject's photos, other views of it for the ceiling, and class images drawn by the base model.

    Parameters
    ----------
    out : Path
        Folder of the lab; it has the trained pipeline.
    """
    from sdpet.models.load import load_base
    from sdpet.sampling import SamplerConfig, sample

    write_images(out / "data" / "subject", render(subject_scenes(REFERENCES, seed=51)))
    write_images(out / "data" / "subject_heldout", render(subject_scenes(HELD_OUT, seed=52)))
    base = load_base("lab", path=out / "pipeline")
    drawn = sample(
        base,
        [CLASS_PROMPT] * CLASS_IMAGES,
        list(range(7000, 7000 + CLASS_IMAGES)),
        SamplerConfig(steps=25, guidance=2.5),
    )
    write_images(out / "data" / "class", drawn)
