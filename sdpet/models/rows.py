"""Conditioning as one tensor with a row for each image.

All of sdpet passes conditioning as (B, L, D). What a model takes beside its text states becomes further tokens: pooled
text (P,) is padded with zeros to a multiple of D and becomes ceil(P / D) tokens at the end.
"""

from __future__ import annotations

from torch import Tensor, cat
from torch.nn import functional


def append_pooled(states: Tensor, pooled: Tensor) -> Tensor:
    """Append pooled text to text states.

    Parameters
    ----------
    states : Tensor, shape (N, L, D)
    pooled : Tensor, shape (N, P)

    Returns
    -------
    Tensor, shape (N, L + ceil(P / D), D)
    """
    width = states.shape[-1]
    tokens = functional.pad(pooled, (0, -pooled.shape[-1] % width)).unflatten(-1, (-1, width))
    return cat([states, tokens.to(states)], dim=1)


def split_pooled(rows: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Undo `append_pooled`.

    Parameters
    ----------
    rows : Tensor, shape (N, L + ceil(P / D), D)
    width : int
        P, the width of the pooled text.

    Returns
    -------
    (Tensor, Tensor)
        States (N, L, D) and pooled text (N, P).
    """
    tokens = -(-width // rows.shape[-1])
    return rows[:, :-tokens], rows[:, -tokens:].flatten(1)[:, :width]
