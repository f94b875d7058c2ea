"""The scorers of an evaluation: loaded as far as they are available, and asked for each result only once."""

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

CLIP = "clip"  # the scorer of images and texts; the others score images only
CHUNK = 128  # images that go through a network at once


class Scorer(Protocol):
    """An image-text model that gives vectors of unit length.

    Attributes
    ----------
    name, weight_hash : str
        Identify the model and its weights in the protocol.
    """

    name: str
    weight_hash: str

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """Unit vectors float32 (N, D) of images uint8 (N, 3, H, W)."""
        ...

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        """Unit vectors float32 (N, D) of N texts."""
        ...


class Scorers:
    """Scorers by name: "clip", and networks of images alone such as "dino", "inception" and "lpips".

    Parameters
    ----------
    by_name : dict of str to scorer
        Each has name and weight_hash. Those with features have encode_image (unit vectors) and may have encode_raw
        (features at their own length); LPIPS has distances.
    missing : dict of str to str, optional
        For each scorer that was asked for and is not available, the reason.
    cache : Path, optional
        Folder in which features of references are stored; None keeps them in memory only.
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
        """Wrap a single scorer.

        Parameters
        ----------
        scorer : Scorer or Scorers
            An image-text model becomes the scorer "clip"; Scorers are returned unchanged.

        Returns
        -------
        Scorers
        """
        return scorer if isinstance(scorer, Scorers) else cls({CLIP: scorer})

    def __getitem__(self, name: str) -> Any:
        return self._by_name[name]

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def features(self, name: str, images: np.ndarray, raw: bool = False) -> torch.Tensor:
        """Features of images. They are computed once for images of equal content.

        Parameters
        ----------
        name : str
            Name of the scorer.
        images : ndarray of uint8, (N, H, W, 3)
            At least one image.
        raw : bool
            Features at their own length, instead of unit length.

        Returns
        -------
        Tensor of float64, (N, D)

        Raises
        ------
        ValueError
            There are no images.
        """
        if not len(images):
            raise ValueError("there are no images to score.")
        keys = [(name, _key(image)) for image in images]
        new = [i for i, key in enumerate(keys) if key not in self._images]
        if new:
            found = encode(self._by_name[name], images[new])
            self._images.update(zip([keys[i] for i in new], found, strict=True))
        features = torch.stack([self._images[key] for key in keys])
        return self._scaled(name, features, raw)

    def reference_features(self, name: str, images: np.ndarray, raw: bool = False) -> torch.Tensor:
        """`features` of a reference set. They are computed once, and shared between processes through the cache folder.

        Parameters
        ----------
        name, images, raw
            As for `features`.

        Returns
        -------
        Tensor of float64, (N, D)
        """
        identity = (name, raw, hash_images(images))
        if identity not in self._references:
            scorer = self._by_name[name]
            made_by = {"scorer": scorer.name, "weights": scorer.weight_hash, **preparation(scorer)}
            found = cached_features(self._cache, identity[2], made_by, lambda: encode(scorer, images))
            self._references[identity] = self._scaled(name, found, raw)
        return self._references[identity]

    def texts(self, texts: list[str]) -> torch.Tensor:
        """Features of texts by the scorer "clip". They are computed once for equal texts.

        Parameters
        ----------
        texts : list of str, N
            At least one text.

        Returns
        -------
        Tensor of float64, (N, D)
            Rows of unit length.
        """
        new = [text for text in dict.fromkeys(texts) if text not in self._texts]
        if new:
            self._texts.update(zip(new, self._by_name[CLIP].encode_text(new).cpu(), strict=True))
        return torch.stack([self._texts[text] for text in texts]).double()

    def forget(self) -> None:
        """Drop the features of images, which other evaluations do not use; those of references and texts are kept."""
        self._images.clear()

    def has_raw(self, name: str) -> bool:
        """Say whether a scorer has features of other lengths than one.

        Parameters
        ----------
        name : str
            Name of the scorer.

        Returns
        -------
        bool
        """
        return hasattr(self._by_name[name], "encode_raw")

    def _scaled(self, name: str, features: torch.Tensor, raw: bool) -> torch.Tensor:
        return (features if raw or not self.has_raw(name) else normalize(features, dim=1)).double()


def load_scorers(wanted: Mapping[str, Callable[[], Any]], strict: bool, cache: Path | None = None) -> Scorers:
    """Make scorers.

    Parameters
    ----------
    wanted : dict of str to callable
        For each name a function that makes the scorer.
    strict : bool
        Whether a scorer that is not available is an error; otherwise it is noted in `missing`.
    cache : Path, optional
        See `Scorers`.

    Returns
    -------
    Scorers

    Raises
    ------
    ValueError
        One sentence with the reason: a scorer is not available (if `strict`), or none is.
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
                raise ValueError(f"the scorer {name} is not available: {missing[name]}") from error
    if not found:
        raise ValueError(f"none of the scorers {', '.join(missing)} is available: {next(iter(missing.values()), '')}")
    return Scorers(found, missing, cache)


@torch.no_grad()
def encode(scorer: Any, images: np.ndarray) -> torch.Tensor:
    """Compute a scorer's features of images, in batches.

    Parameters
    ----------
    scorer : scorer
        Has encode_raw or encode_image.
    images : ndarray of uint8, (N, H, W, 3)
        The images.

    Returns
    -------
    Tensor of float32, (N, D)
        On the CPU; raw where the scorer has raw features.
    """
    make = getattr(scorer, "encode_raw", None) or scorer.encode_image
    parts = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).split(CHUNK)
    return torch.cat([make(part).cpu() for part in parts])


def preparation(scorer: Any) -> dict[str, Any]:
    """How a scorer makes its input from an 8-bit image, for the protocol.

    Parameters
    ----------
    scorer : scorer
        May have a dict `preparation`.

    Returns
    -------
    dict
        Keys resize, crop, value_range and dtype; empty where the scorer does not say.
    """
    return dict(getattr(scorer, "preparation", {}))


def _cause(error: BaseException) -> BaseException:
    """The error below Hydra's InstantiationException."""
    while type(error).__name__ == "InstantiationException" and error.__cause__ is not None:
        error = error.__cause__
    return error


def _key(image: np.ndarray) -> bytes:
    content = f"{image.shape}".encode() + np.ascontiguousarray(image).tobytes()
    return hashlib.blake2b(content, digest_size=16).digest()
