"""CLIP's tokenizer without a download: open_clip contains the vocabulary."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

LENGTH = 77  # tokens of a text in Stable Diffusion, with begin and end
_MERGES = 49152 - 256 - 2  # CLIP's vocabulary: 2 x 256 bytes (inside and at the end of a word), merges, begin, end


def clip_tokenizer(pad: str | None = None) -> CLIPTokenizer:
    """The tokenizer of CLIP ViT-L/14 (`openai/clip-vit-large-patch14`).

    Parameters
    ----------
    pad : str, optional
        The token that fills up texts: "!" (number 0) for open_clip's text encoders. None for the end token.

    Returns
    -------
    CLIPTokenizer
    """
    from transformers import CLIPTokenizer

    with gzip.open(vocabulary_file(), "rt", encoding="utf-8") as lines:
        next(lines)  # a comment
        merges = [tuple(next(lines).split()) for _ in range(_MERGES)]
    letters = list(_letters())
    tokens = [*letters, *(letter + "</w>" for letter in letters), *map("".join, merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: index for index, token in enumerate(tokens)}
    more = {} if pad is None else {"pad_token": pad}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH, **more)  # type: ignore[arg-type]


def vocabulary_file() -> Path:
    """The file of open_clip with the merges, in the order in which they were learned."""
    spec = find_spec("open_clip")
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        if (file := Path(folder) / "bpe_simple_vocab_16e6.txt.gz").is_file():
            return file
    raise ValueError("CLIP's vocabulary comes with the package open_clip_torch, which is not installed: make setup.")


def _letters() -> list[str]:
    """A printable character for each byte, in CLIP's order: printable bytes represent themselves and come first."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return [chr(byte) for byte in visible] + [chr(256 + place) for place in range(len(hidden))]
