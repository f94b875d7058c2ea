"""Stable Diffusion's safety checker, which replaces images that it flags by black ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

HUB_ID = "CompVis/stable-diffusion-safety-checker"
ABSENT = f"no safety checker is used; give one by --safety-checker, as a folder or a hub id such as {HUB_ID}."


def checker_of(given: str | None, model: str | Path | None) -> str | Path | None:
    """The place of the checker's weights: the given one, else the model's folder if it has a checker, else None."""
    if given is not None:
        return given
    beside = Path(model).expanduser() / "safety_checker" if model is not None else None
    return beside if beside is not None and (beside / "config.json").is_file() else None


class SafetyChecker:
    """diffusers' StableDiffusionSafetyChecker with its image processor.

    Parameters
    ----------
    folder : str or Path
        A hub id, or a folder with config.json and weights. The image processor is preprocessor_config.json in it or in
        ../feature_extractor, or else that of CLIP.
    device : str
        Where the checker runs.

    Raises
    ------
    ValueError
        The checker cannot be loaded; the message is one sentence.
    """

    def __init__(self, folder: str | Path, device: str = "cpu") -> None:
        from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
        from transformers import CLIPImageProcessor

        from sdpet.models.load import no_progress_bars

        place = _fetched(str(folder))
        try:
            with no_progress_bars():
                self._model = StableDiffusionSafetyChecker.from_pretrained(place, local_files_only=True)
        except Exception as error:  # transformers raises many kinds
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
            raise ValueError(
                f"--safety-checker {folder} cannot be loaded ({reason}); give a folder with config.json "
                f"and weights, such as that of {HUB_ID}."
            ) from error
        self._model.eval().requires_grad_(False).to(device)
        self._device = device
        side = self._model.config.vision_config.image_size
        folders = (f for f in (place, place.parent / "feature_extractor") if (f / "preprocessor_config.json").is_file())
        found = next(folders, None)
        self._processor: Any = (
            CLIPImageProcessor.from_pretrained(found, local_files_only=True)
            if found
            else CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
        )

    def replace(self, images: np.ndarray) -> tuple[np.ndarray, list[bool]]:
        """Replace flagged images by black ones.

        Parameters
        ----------
        images : ndarray
            uint8 (N, H, W, 3).

        Returns
        -------
        images : ndarray
            uint8 (N, H, W, 3), with flagged images black.
        flagged : list of bool
            One for each image.
        """
        from diffusers.utils import logging
        from PIL import Image

        pixels = self._processor([Image.fromarray(image) for image in images], return_tensors="pt").pixel_values
        before = logging.get_verbosity()
        logging.set_verbosity_error()  # `Output` prints the names of flagged files; the library would warn as well
        try:
            return self._model(clip_input=pixels.to(self._device), images=images.copy())
        finally:
            logging.set_verbosity(before)


def _fetched(folder: str) -> Path:
    place = Path(folder).expanduser()
    if place.is_dir():
        return place
    if folder.count("/") != 1 or folder.startswith((".", "~", "/")):
        raise ValueError(f"--safety-checker {folder} does not exist; give a folder or a hub id such as {HUB_ID}.")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(folder, allow_patterns=["*.json", "*.safetensors", "pytorch_model.bin"]))
    except Exception as error:
        raise ValueError(
            f"--safety-checker {folder} is not a folder and is not available from the hub ({type(error).__name__})."
        ) from error
