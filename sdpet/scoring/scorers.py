"""The scorers of an evaluation: loaded as far as they can be had, and asked nothing twice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn.functional import normalize

from sdpet.files.hashing import hash_images
from sdpet.scoring.feature_cache import cached_features

CLIP = "clip"  # the scorer of images and texts; the others know images only
CHUNK = 128


class Scorer(Protocol):
    """An image-text model: unit vectors of images uint8 (N, 3, H, W) and of texts."""

    name: str
    weight_hash: str

    def encode_image(self, images: torch.Tensor) -> torch.Tensor: ...
    def encode_text(self, texts: list[str]) -> torch.Tensor: ...


class Scorers:
    """Scorers by name: "clip", and networks of images alone such as "dino", "inception" and "lpips".

    by_name: each gives encode_image (N, D), where it has features, and may give encode_raw, features before they are
        scaled to unit length; missing: why a scorer that was asked for is not there.
    cache: a folder in which features of references are kept; None keeps them in memory only.
    """

    def __init__(
        self, by_name: Mapping[str, Any], missing: Mapping[str, str] | None = None, cache: Path | None = None
    ) -> None:
        self._by_name, self.missing, self._cache = dict(by_name), dict(missing or {}), cache
        self._references: dict[tuple[str, bool, str], torch.Tensor] = {}
        self._images: dict[tuple[str, bytes], torch.Tensor] = {}
        self._texts: dict[str, torch.Tensor] = {}

    @classmethod
    def of(cls, scorer: Any) -> Scorers:
        """Scorers as they are; a single image-text model as "clip"."""
        return scorer if isinstance(scorer, Scorers) else cls({CLIP: scorer})

    def __getitem__(self, name: str) -> Any:
        return self._by_name[name]

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def features(self, name: str, images: np.ndarray, raw: bool = False) -> torch.Tensor:
        """Features float64 (N, D) of images uint8 (N, H, W, 3), of unit length unless `raw`; remembered by content."""
        if not len(images):
            raise ValueError("there are no images to score.")
        keys = [(name, _key(image)) for image in images]
        new = [i for i, key in enumerate(keys) if key not in self._images]
        if new:
            found = encode(self._by_name[name], images[new])
            self._images.update(zip([keys[i] for i in new], found, strict=True))
        kept = torch.stack([self._images[key] for key in keys])
        return self._scaled(name, kept, raw)

    def reference_features(self, name: str, images: np.ndarray, raw: bool = False) -> torch.Tensor:
        """`features` of a reference set: computed once a set and scorer, in whichever process."""
        identity = (name, raw, hash_images(images))
        if identity not in self._references:
            scorer = self._by_name[name]
            made_by = {"scorer": scorer.name, "weights": scorer.weight_hash, **preparation(scorer)}
            found = cached_features(self._cache, identity[2], made_by, lambda: encode(scorer, images))
            self._references[identity] = self._scaled(name, found, raw)
        return self._references[identity]

    def texts(self, texts: list[str]) -> torch.Tensor:
        """Unit vectors float64 (N, D) of texts, by the scorer "clip"; equal texts are computed once."""
        new = [text for text in dict.fromkeys(texts) if text not in self._texts]
        if new:
            self._texts.update(zip(new, self._by_name[CLIP].encode_text(new).cpu(), strict=True))
        return torch.stack([self._texts[text] for text in texts]).double()

    def forget(self) -> None:
        """Drop the features of images, which another evaluation will not see again; references and texts stay."""
        self._images.clear()

    def has_raw(self, name: str) -> bool:
        """Whether the scorer's features come in other lengths than one."""
        return hasattr(self._by_name[name], "encode_raw")

    def _scaled(self, name: str, features: torch.Tensor, raw: bool) -> torch.Tensor:
        return (features if raw or not self.has_raw(name) else normalize(features, dim=1)).double()


def load(wanted: Mapping[str, Callable[[], Any]], strict: bool, cache: Path | None = None) -> Scorers:
    """Make the scorers; what cannot be had is an error if `strict`, else noted as missing, with the reason.

    Raises ValueError (one sentence) also when none can be had.
    """
    found, missing = {}, {}
    for name, make in wanted.items():
        try:
            found[name] = make()
        except Exception as error:
            cause = _cause(error)
            reason = str(cause) if isinstance(cause, ValueError) else f"{type(cause).__name__}: {cause}"
            missing[name] = " ".join(reason.split())
            if strict:
                raise ValueError(f"the scorer {name} cannot be had: {missing[name]}") from error
    if not found:
        raise ValueError(f"none of the scorers {', '.join(missing)} can be had: {next(iter(missing.values()), '')}")
    return Scorers(found, missing, cache)


@torch.no_grad()
def encode(scorer: Any, images: np.ndarray) -> torch.Tensor:
    """A scorer's features (N, D) as they come, float32 on the CPU, of images uint8 (N, H, W, 3)."""
    make = getattr(scorer, "encode_raw", None) or scorer.encode_image
    parts = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).split(CHUNK)
    return torch.cat([make(part).cpu() for part in parts])


def preparation(scorer: Any) -> dict[str, Any]:
    """How the scorer makes its input of an 8-bit image: resize, crop, value_range, dtype."""
    return dict(getattr(scorer, "preparation", {}))


def _cause(error: BaseException) -> BaseException:
    """What went wrong below Hydra's account of it."""
    while type(error).__name__ == "InstantiationException" and error.__cause__ is not None:
        error = error.__cause__
    return error


def _key(image: np.ndarray) -> bytes:
    content = f"{image.shape}".encode() + np.ascontiguousarray(image).tobytes()
    return hashlib.blake2b(content, digest_size=16).digest()
