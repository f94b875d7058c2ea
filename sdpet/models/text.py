"""Texts as token ids."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch

LOG = logging.getLogger("sdpet")
_NOTED: set[tuple[str, str]] = set()  # texts of which it is said that they are cut


def tokenize(tokenizer: Any, texts: Sequence[str], length: int | None = None) -> torch.Tensor:
    """Tokenize texts.

    Parameters
    ----------
    tokenizer : CLIPTokenizer or T5Tokenizer
    texts : sequence of str
        N of them.
    length : int, optional
        L; None for the tokenizer's own length.

    Returns
    -------
    Tensor of int64, shape (N, L)
        Token ids, truncated and padded to the length.
    """
    tokens = _tokens(tokenizer, texts, length)
    for text, mask in zip(texts, tokens.attention_mask, strict=True):
        if bool(mask.all()):  # as long as it may be, or longer
            note_cut(text, left_out(tokenizer, text, length), "The text encoder")
    return tokens.input_ids


def token_mask(tokenizer: Any, texts: Sequence[str], length: int | None = None) -> torch.Tensor:
    """Which tokens of `tokenize` are text and not padding: Tensor of int64, shape (N, L), 1 for text."""
    return _tokens(tokenizer, texts, length).attention_mask


def _tokens(tokenizer: Any, texts: Sequence[str], length: int | None) -> Any:
    length = length or tokenizer.model_max_length
    return tokenizer(list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")


def left_out(tokenizer: Any, text: str, length: int | None = None) -> str:
    """The end of a text that does not fit into a text encoder.

    Parameters
    ----------
    tokenizer : CLIPTokenizer or T5Tokenizer
    text : str
    length : int, optional
        Number of tokens that the encoder reads; None for the tokenizer's own length.

    Returns
    -------
    str
        As the tokenizer spells it; empty where the whole text is read.
    """
    around = tokenizer.num_special_tokens_to_add()  # tokens that begin and end a text
    room = (length or tokenizer.model_max_length) - around
    ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    return str(tokenizer.decode(ids[room:])).strip() if len(ids) > room else ""


def refuse_equal_prompts(tokenizer: Any, texts: Sequence[str]) -> None:
    """Refuse prompts of an evaluation that differ only in what the text encoder does not read.

    Parameters
    ----------
    tokenizer : CLIPTokenizer
    texts : sequence of str
        They may repeat.

    Raises
    ------
    ValueError
        Two of them are read alike; the sentence names both.
    """
    read: dict[tuple[int, ...], str] = {}
    room = tokenizer.model_max_length - 2
    for text in dict.fromkeys(texts):
        ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        other = read.setdefault(tuple(ids[:room]), text)
        if other is not text and len(ids) > room:
            raise ValueError(
                f"the prompts {other!r} and {text!r} differ only behind the {room} tokens that the text encoder reads; "
                "shorten them, or leave one out."
            )


def note_cut(text: str, end: str, who: str, say: Callable[[str], Any] = LOG.info) -> None:
    """Say once for each text and reader what of it is not read.

    Parameters
    ----------
    text : str
    end : str
        What is left out; nothing is said where it is empty.
    who : str
        What reads the text.
    say : callable
        Takes the sentence; by default it is logged.
    """
    if end and (who, text) not in _NOTED:
        _NOTED.add((who, text))
        shown = text if len(text) <= 40 else f"{text[:40]}..."
        say(f"{who} reads the beginning of {shown!r} only; it leaves out {end!r}.")
