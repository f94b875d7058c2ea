"""The lab's scorer: a small open_clip.CLIP that scores 32 x 32 images and captions of the lab's world."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import open_clip
    import torch
    from transformers import CLIPTokenizer

FOLDER = Path(__file__).parent / "scorer"
TOKENIZER = Path(__file__).parent / "pipeline" / "tokenizer"


def preprocess(images: torch.Tensor) -> torch.Tensor:
    """uint8 (N, 3, 32, 32) to float (N, 3, 64, 64) in [-1, 1], bilinear and antialiased."""
    from torch.nn.functional import interpolate

    return interpolate(images.float() / 127.5 - 1, size=(64, 64), mode="bilinear", antialias=True)


class LabScorer:
    """Unit-length image and text features of the lab's CLIP.

    name and weight_hash identify it in a run's protocol; `dim` is the length of a feature.
    """

    name = "lab-clip"
    preparation: ClassVar[dict[str, str]] = {
        "resize": "bilinear, antialiased, to 64 (torch)",
        "crop": "none",
        "value_range": "-1 to 1",
        "dtype": "float32",
    }

    def __init__(self, model: open_clip.CLIP, tokenizer: CLIPTokenizer, weight_hash: str) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.weight_hash = weight_hash
        self.dim = int(model.visual.output_dim)

    def encode_image(self, images: torch.Tensor, chunk: int = 256) -> torch.Tensor:
        """uint8 (N, 3, H, W) to unit features (N, D) in float32."""
        import torch

        with torch.no_grad():
            parts = [self.model.encode_image(preprocess(part), normalize=True) for part in images.split(chunk)]
        return torch.cat(parts)

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        """N texts to unit features (N, D) in float32."""
        import torch

        ids = self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        with torch.no_grad():
            return self.model.encode_text(ids, normalize=True)


def load_scorer(folder: str | Path = FOLDER) -> LabScorer:
    """Load the scorer that ships with the package (or one of the same format in `folder`)."""
    from safetensors.torch import load_file
    from transformers import CLIPTokenizer

    from .architecture import build_clip

    folder = Path(folder)
    if not (folder / "model.safetensors").is_file():
        raise ValueError(f"No scorer in {folder}: expected config.json and model.safetensors.")
    config = json.loads((folder / "config.json").read_text())
    model = build_clip(config)
    model.load_state_dict(
        {k: v.float() if v.is_floating_point() else v for k, v in load_file(folder / "model.safetensors").items()}
    )
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:16]
    return LabScorer(model, CLIPTokenizer.from_pretrained(TOKENIZER), digest)
