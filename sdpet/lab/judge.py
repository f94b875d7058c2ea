"""A classifier of attributes that judges samples. It shares nothing with the scorer: other network, other loss."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from sdpet.lab.world import BACKGROUNDS, COLORS, SHAPES

FOLDER = Path(__file__).parent / "judge"
ANSWERS = {
    "shape": len(SHAPES),
    "color": len(COLORS),
    "color2": len(COLORS),
    "background": len(BACKGROUNDS),
    "outlined": 2,
}


class Judge(nn.Module):
    """A convolutional classifier of five attributes."""

    def __init__(self) -> None:
        super().__init__()

        def block(i: int, o: int, stride: int) -> list[nn.Module]:
            return [nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]

        layers = [(3, 16, 1), (16, 32, 2), (32, 32, 1), (32, 48, 2), (48, 48, 1), (48, 64, 2)]
        blocks = [module for layer in layers for module in block(*layer)]
        self.body = nn.Sequential(*blocks, nn.Flatten(), nn.Dropout(0.1))  # (N, 1024)
        self.heads = nn.ModuleDict({name: nn.Linear(64 * 16, count) for name, count in ANSWERS.items()})

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Classify images.

        Parameters
        ----------
        images : Tensor (N, 3, 32, 32)
            Values in [-1, 1].

        Returns
        -------
        dict of str to Tensor (N, classes)
            Logits of each attribute.
        """
        features = self.body(images)
        return {name: head(features) for name, head in self.heads.items()}

    @torch.no_grad()
    def judge(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Give the most likely code of every attribute.

        Parameters
        ----------
        images : ndarray of uint8, (N, 32, 32, 3)
            The images.

        Returns
        -------
        dict of str to ndarray of int, (N,)
            Codes as in `sdpet.lab.world.Scenes`.
        """
        x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
        return {name: logits.argmax(1).numpy() for name, logits in self(x).items()}


def load_judge(folder: str | Path = FOLDER) -> Judge:
    """Load the judge that ships with the package, or one of the same format.

    Parameters
    ----------
    folder : path
        Folder with model.safetensors.

    Returns
    -------
    Judge
        In evaluation mode, without gradients, in float32.
    """
    from safetensors.torch import load_file

    judge = Judge()
    weights = load_file(Path(folder) / "model.safetensors")
    judge.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
    return judge.eval().requires_grad_(False)


class JudgeScorer:
    """The judge's image features as a scorer of similarity: a second opinion beside the lab's CLIP.

    Parameters
    ----------
    folder : path
        Folder with model.safetensors.

    Raises
    ------
    ValueError
        The folder has no such file.
    """

    name = "lab-judge"
    preparation: ClassVar[dict[str, str]] = {
        "resize": "none",
        "crop": "none",
        "value_range": "-1 to 1",
        "dtype": "float32",
    }

    def __init__(self, folder: str | Path = FOLDER) -> None:
        if not (Path(folder) / "model.safetensors").is_file():
            raise ValueError(f"No judge in {folder}: expected model.safetensors.")
        self._judge = load_judge(folder)
        self.weight_hash = hashlib.sha256((Path(folder) / "model.safetensors").read_bytes()).hexdigest()[:16]

    @torch.no_grad()
    def encode_raw(self, images: torch.Tensor) -> torch.Tensor:
        """Features (N, 64) of images uint8 (N, 3, 32, 32): the last layer, averaged over positions."""
        layers = [layer for layer in self._judge.body if not isinstance(layer, nn.Flatten | nn.Dropout)]
        maps = nn.Sequential(*layers)(images.float() / 127.5 - 1)  # (N, 64, 4, 4)
        return maps.mean(dim=(2, 3))

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """Unit vectors (N, 64) of images uint8 (N, 3, 32, 32)."""
        return nn.functional.normalize(self.encode_raw(images), dim=1)
