"""A scorer that computes nothing twice: references that runs share, and images of many runs in one pass."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from sdpet.scoring.metrics import Scorer, features


class Remembering:
    """The scorer's interface; features are kept by the content of the image or text."""

    def __init__(self, scorer: Scorer):
        self._scorer = scorer
        self.name, self.weight_hash = scorer.name, scorer.weight_hash
        self._images: dict[bytes, torch.Tensor] = {}
        self._texts: dict[str, torch.Tensor] = {}

    def look_at(self, images: np.ndarray) -> None:
        """Compute the features of images uint8 (N, H, W, 3) in one pass, to have them when they are asked for."""
        self._images.update(zip(map(_key, images), features(images, self._scorer), strict=True))

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """Unit vectors (N, D) of images uint8 (N, 3, H, W)."""
        keys = [_key(image) for image in images.permute(0, 2, 3, 1).cpu().numpy()]
        new = [i for i, key in enumerate(keys) if key not in self._images]
        if new:
            self._images.update(zip([keys[i] for i in new], self._scorer.encode_image(images[new]).cpu(), strict=True))
        return torch.stack([self._images[key] for key in keys])

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        """Unit vectors (N, D)."""
        new = [text for text in dict.fromkeys(texts) if text not in self._texts]
        if new:
            self._texts.update(zip(new, self._scorer.encode_text(new).cpu(), strict=True))
        return torch.stack([self._texts[text] for text in texts])


def _key(image: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16).digest()
