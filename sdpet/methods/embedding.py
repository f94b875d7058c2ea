"""Token embedding: only what the subject's word means to the text encoder is learned (the reference's "embeder").

The idea of textual inversion (Gal et al. 2022, arXiv 2208.01618), on a word that the vocabulary has.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sdpet.files.atomic import atomically
from sdpet.models.base import BaseModel

_KEYS = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}  # diffusers' names where there are two


class EmbeddingTuning:
    """Trains the rows of the token embedding that spell one word; everything else is frozen.

    While the handle lives, text encoders look those tokens up here, through a hook on the embedding: text states that
    are computed meanwhile hold the learned rows, and gradients reach them through the frozen encoder. A word of several
    tokens has as many rows. ValueError when the tokenizer cannot spell the word.
    """

    FILE = "learned_embeds.safetensors"

    def __init__(self, base: BaseModel, token: str):
        self.token = token
        self._encoders = {name: getattr(base, name) for name in _KEYS if getattr(base, name, None) is not None}
        tokenizers = {name: getattr(base, name.replace("text_encoder", "tokenizer")) for name in self._encoders}
        self._ids = {name: _spell(tokenizer, token) for name, tokenizer in tokenizers.items()}
        self._rows: dict[str, nn.Parameter] = {}
        self._hooks: list[Any] = []
        self._active = True
        for name, encoder in self._encoders.items():
            table = encoder.get_input_embeddings()
            rows = nn.Parameter(table.weight.detach()[self._ids[name]].float().clone())  # (T, D)
            self._rows[name] = rows
            self._hooks.append(table.register_forward_hook(self._look_up(self._ids[name], rows)))

    def parameters(self) -> list[nn.Parameter]:
        return list(self._rows.values())

    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters())

    def __len__(self) -> int:
        """Number of tokens whose embedding is learned."""
        return sum(len(rows) for rows in self._rows.values())

    def disable(self) -> None:
        """Let the text encoder look up its own rows until enable()."""
        self._active = False

    def enable(self) -> None:
        self._active = True

    def detach(self) -> None:
        """Take the hooks off the text encoder; the learned rows stay here and can be saved."""
        while self._hooks:
            self._hooks.pop().remove()

    def save(self, folder: str | Path) -> None:
        """Write embedding.json and, last, the rows, in the form that diffusers' load_textual_inversion reads."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {key: rows.detach().cpu().contiguous() for key, rows in self._named().items()}
        meta = {"format": 1, "method": "embedding", "token": self.token, "parameters": self.num_parameters()}
        atomically(folder / "embedding.json", lambda file: file.write_text(json.dumps(meta, indent=1) + "\n"))
        atomically(folder / self.FILE, lambda file: save_file(tensors, file))

    @classmethod
    def load(cls, base: BaseModel, folder: str | Path) -> EmbeddingTuning:
        """Raises ValueError if the saved rows are not of this text encoder's width."""
        from safetensors.torch import load_file

        meta = json.loads((Path(folder) / "embedding.json").read_text(encoding="utf-8"))
        tensors = load_file(Path(folder) / cls.FILE)
        handle = cls(base, meta["token"])
        named = handle._named()
        if {k: t.shape for k, t in tensors.items()} != {k: p.shape for k, p in named.items()}:
            handle.detach()
            raise ValueError(
                f"{folder} does not fit this text encoder: it holds "
                f"{', '.join(f'{k} {tuple(t.shape)}' for k, t in tensors.items())}, and "
                f"{', '.join(f'{k} {tuple(p.shape)}' for k, p in named.items())} is needed."
            )
        with torch.no_grad():
            for key, rows in named.items():
                rows.copy_(tensors[key])
        return handle

    def _named(self) -> dict[str, nn.Parameter]:
        if len(self._rows) == 1:
            return {self.token: next(iter(self._rows.values()))}
        return {_KEYS[name]: rows for name, rows in self._rows.items()}

    def _look_up(self, ids: list[int], rows: nn.Parameter) -> Any:
        def hook(table: nn.Module, given: tuple[Tensor, ...], found: Tensor) -> Tensor:
            if not self._active:
                return found
            if rows.device != found.device:
                rows.data = rows.data.to(found.device)
            for token_id, row in zip(ids, rows, strict=True):
                found = torch.where((given[0] == token_id).unsqueeze(-1), row.to(found.dtype), found)  # (N, L, D)
            return found

        return hook


def _spell(tokenizer: Any, word: str) -> list[int]:
    """The ids of the tokens that spell a word, each once."""
    ids = list(dict.fromkeys(tokenizer(word, add_special_tokens=False).input_ids))
    if not ids or set(ids) & set(tokenizer.all_special_ids):
        raise ValueError(f"the tokenizer cannot spell the word {word!r}; choose another data.token.")
    return ids
