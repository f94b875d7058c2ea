"""Scoring in mixed precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from sdpet.choices import AUTOCASTS

COMPUTING = ("encode_image", "encode_raw", "encode_text", "distances")  # the methods of scorers that run networks


def autocast(precision: str | None, device: str) -> AbstractContextManager[Any]:
    """Have networks compute in a precision inside the block.

    Parameters
    ----------
    precision : {"bf16-mixed", "16-mixed"}, optional
        None: in that of their weights.
    device : str
        Of the networks, such as "cuda:0".

    Returns
    -------
    context manager
    """
    if precision is None:
        return nullcontext()
    return torch.autocast(torch.device(device).type, getattr(torch, AUTOCASTS[precision]))


class MixedScorer:
    """A scorer that computes in mixed precision; its protocol says so, so that its scores are not taken for others.

    Parameters
    ----------
    scorer : scorer
        As `Scorers` takes it.
    precision : {"bf16-mixed", "16-mixed"}
    device : str
        Of its networks.
    """

    def __init__(self, scorer: Any, precision: str, device: str) -> None:
        self._scorer, self._precision, self._device = scorer, precision, device

    @property
    def preparation(self) -> Mapping[str, Any]:
        """How its input is made, and the precision of its networks."""
        return {**getattr(self._scorer, "preparation", {}), "autocast": self._precision}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = getattr(self._scorer, name)
        return self._in_precision(found) if name in COMPUTING else found

    def _in_precision(self, compute: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def computed(*given: Any, **options: Any) -> torch.Tensor:
            with autocast(self._precision, self._device):
                out = compute(*given, **options)
            return out if out.dtype == torch.float64 else out.float()

        return computed
