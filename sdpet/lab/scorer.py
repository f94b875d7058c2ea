"""The lab's scorer: a small open_clip.CLIP that scores 32 x 32 images and captions of the lab's world."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import open_clip
    import torch
    from transformers import CLIPTokenizer

FOLDER = Path(__file__).parent / "scorer"
TOKENIZER = Path(__file__).parent / "pipeline" / "tokenizer"


def preprocess(images: torch.Tensor) -> torch.Tensor:
    """Prepare images for the lab's CLIP: bilinear, antialiased resizing.

    Parameters
    ----------
    images : Tensor of uint8, (N, 3, 32, 32)
        The images.

    Returns
    -------
    Tensor of float32, (N, 3, 64, 64)
        Values in [-1, 1].
    """
    from torch.nn.functional import interpolate

    return interpolate(images.float() / 127.5 - 1, size=(64, 64), mode="bilinear", antialias=True)


class LabScorer:
    """Image and text features of the lab's CLIP, of unit length.

    Parameters
    ----------
    folder : Path
        Folder with config.json and model.safetensors.
    tokenizer : CLIPTokenizer
        The lab's tokenizer.

    Attributes
    ----------
    weight_hash : str
        Identifies the weights in a run's protocol, together with `name`.
    dim : int
        Number of features.
    """

    name = "lab-clip"
    preparation: ClassVar[dict[str, str]] = {
        "resize": "bilinear, antialiased, to 64 (torch)",
        "crop": "none",
        "value_range": "-1 to 1",
        "dtype": "float32",
    }

    def __init__(self, folder: Path, tokenizer: CLIPTokenizer) -> None:
        self.tokenizer = tokenizer
        self._folder = folder
        self._config = json.loads((folder / "config.json").read_text())
        self.weight_hash = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:16]
        self.dim = int(self._config["embed_dim"])

    @cached_property
    def model(self) -> open_clip.CLIP:
        """The network, in evaluation mode and without gradients. It is made when it is first needed, after training."""
        from safetensors.torch import load_file

        from sdpet.lab.architecture import build_clip

        model = build_clip(self._config)
        weights = load_file(self._folder / "model.safetensors")
        model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
        return model.eval().requires_grad_(False)

    def encode_image(self, images: torch.Tensor, chunk: int = 256) -> torch.Tensor:
        """Features of images.

        Parameters
        ----------
        images : Tensor of uint8, (N, 3, H, W)
            The images.
        chunk : int
            Number of images that go through the network at once.

        Returns
        -------
        Tensor of float32, (N, D)
            Rows of unit length.
        """
        import torch

        with torch.no_grad():
            parts = [self.model.encode_image(preprocess(part), normalize=True) for part in images.split(chunk)]
        return torch.cat(parts)

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        """Features of texts.

        Parameters
        ----------
        texts : list of str, N
            The texts; those longer than the tokenizer's length are cut.

        Returns
        -------
        Tensor of float32, (N, D)
            Rows of unit length.
        """
        import torch

        from sdpet.models.text import left_out, note_cut

        for text in texts:
            note_cut(text, left_out(self.tokenizer, text), "The scorer's text encoder")
        ids = self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        with torch.no_grad():
            return self.model.encode_text(ids, normalize=True)


def load_scorer(folder: str | Path = FOLDER) -> LabScorer:
    """Load the scorer that ships with the package, or one of the same format.

    Parameters
    ----------
    folder : path
        Folder with config.json and model.safetensors.

    Returns
    -------
    LabScorer

    Raises
    ------
    ValueError
        The folder has no such files.
    """
    from transformers import CLIPTokenizer

    folder = Path(folder)
    if not (folder / "model.safetensors").is_file():
        raise ValueError(f"No scorer in {folder}: expected config.json and model.safetensors.")
    scorer = LabScorer(folder, CLIPTokenizer.from_pretrained(TOKENIZER))
    if folder != FOLDER:
        scorer.model  # noqa: B018 (so that a file of one's own that does not fit is an error before any run)
    return scorer
