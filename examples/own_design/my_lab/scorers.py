"""A scorer: vectors of images, whose cosine similarity to the subject's photos becomes a score."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


class Colours:
    """The histogram of an image's colours: does a sample have the colours of the subject?

    Parameters
    ----------
    bins : int
        For each of the three channels.
    """

    weight_hash = "my-lab-colours-1"  # identifies the weights in records; a network's own is a hash of its file

    def __init__(self, bins: int = 8) -> None:
        self.bins, self.name = bins, f"colours{bins}"

    def encode_image(self, images: Tensor) -> Tensor:
        """Unit vectors float32 (N, bins ** 3) of images uint8 (N, 3, H, W)."""
        level = images.long() * self.bins // 256  # (N, 3, H, W)
        cell = (level[:, 0] * self.bins + level[:, 1]) * self.bins + level[:, 2]
        counts = torch.zeros(len(images), self.bins**3)
        counts.scatter_add_(1, cell.flatten(1).cpu(), torch.ones(cell.flatten(1).shape))
        return functional.normalize(counts, dim=1)
