"""Texts as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def tokenize(tokenizer: Any, texts: Sequence[str]) -> torch.Tensor:
    """Tokenize texts.

    Parameters
    ----------
    tokenizer : CLIPTokenizer
    texts : sequence of str
        N of them.

    Returns
    -------
    Tensor of int64, shape (N, L)
        Token ids, truncated and padded to the tokenizer's length.
    """
    length = tokenizer.model_max_length
    tokens = tokenizer(list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return tokens.input_ids
