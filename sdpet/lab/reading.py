"""Classifiers that read a word in an image, and so judge samples of captions that hold that word."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

SIZE = 32  # pixels


class ReadingNet(nn.Module):
    """A convolutional classifier with 32 features, 51,000 parameters.

    Parameters
    ----------
    words : int
        Number of words it tells apart.
    """

    def __init__(self, words: int) -> None:
        super().__init__()
        layers = [(3, 12, 1), (12, 24, 2), (24, 24, 1), (24, 32, 2), (32, 32, 1), (32, 32, 2)]
        blocks: list[nn.Module] = []
        for i, o, stride in layers:
            blocks += [nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]
        self.body = nn.Sequential(*blocks, nn.Flatten(), nn.Dropout(0.2), nn.Linear(512, 32))
        self.head = nn.Linear(32, words)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (N, words) of images (N, 3, 32, 32) with values in [-1, 1]."""
        return self.head(F.relu(self.body(images)))


class ReadingJudge:
    """Reads a word in an image. As a scorer it adds the share that is right, and FID in its features.

    Subclasses say which words it tells apart, and where its weights are.

    Parameters
    ----------
    folder : path, optional
        Folder with model.safetensors; None is the one that comes with the package.

    Raises
    ------
    ValueError
        The folder has no such file.
    """

    name: ClassVar[str]
    words: ClassVar[tuple[str, ...]]
    weights: ClassVar[Path]
    preparation: ClassVar[dict[str, str]] = {
        "resize": f"bilinear with antialiasing to {SIZE} x {SIZE}, where the size differs",
        "crop": "none",
        "value_range": "-1 to 1",
        "dtype": "float32",
    }

    def __init__(self, folder: str | Path | None = None) -> None:
        from safetensors.torch import load_file

        file = Path(folder or self.weights) / "model.safetensors"
        if not file.is_file():
            raise ValueError(f"No {self.name.replace('-', ' ')} in {file.parent}: expected model.safetensors.")
        self._net = ReadingNet(len(self.words))
        self._net.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(file).items()})
        self._net.eval().requires_grad_(False)
        self.weight_hash = hashlib.sha256(file.read_bytes()).hexdigest()[:16]

    @torch.no_grad()
    def encode_raw(self, images: torch.Tensor) -> torch.Tensor:
        """Features (N, 32) of images uint8 (N, 3, H, W): the layer before the answer."""
        x = images.float() / 127.5 - 1
        if x.shape[2:] != (SIZE, SIZE):
            x = F.interpolate(x, (SIZE, SIZE), mode="bilinear", antialias=True)
        return self._net.body(x)

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """Unit vectors (N, 32) of images uint8 (N, 3, H, W)."""
        return F.normalize(self.encode_raw(images), dim=1)

    @torch.no_grad()
    def read(self, images: np.ndarray) -> list[str]:
        """Say which word each image shows.

        Parameters
        ----------
        images : ndarray of uint8, (N, H, W, 3)
            The images; there may be none.

        Returns
        -------
        list of N str
            Of `words`. The judge always answers with one, whatever the image shows.
        """
        found: list[str] = []
        for part in torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).split(128):
            answers = self._net.head(F.relu(self.encode_raw(part))).argmax(1)
            found += [self.words[i] for i in answers.tolist()]
        return found
