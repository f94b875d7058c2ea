"""Token embedding: only the embedding of the subject's word is learned (the reference code's "embeder").

The idea is that of textual inversion (Gal et al. 2022, arXiv 2208.01618), on a word that is in the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sdpet.adapters.identity import sample_weights
from sdpet.methods.saved import check_base, read_method, save_method
from sdpet.models.base import BaseModel

_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")


class EmbeddingTuning:
    """Trains the rows of the token embedding that spell one word; everything else is frozen.

    A hook on the embedding makes text encoders look those tokens up here: text states that they compute contain the
    learned rows, and gradients reach the rows through the frozen encoder. Models with several text encoders (Stable
    Diffusion XL and 3, Flux) learn rows of each, T5's as well. A copied or pickled text encoder has learned
    rows of its own; a copied or pickled handle has rows, and is detached.

    Parameters
    ----------
    base : BaseModel
    token : str
        The word. It may consist of several tokens, and then has one row for each.

    Raises
    ------
    ValueError
        If the tokenizer cannot spell the word.

    References
    ----------
    Gal et al. 2022, arXiv 2208.01618.
    """

    FILE, DESIGN = "learned_embeds.safetensors", "embedding.json"
    learns_text = True

    def __init__(self, base: BaseModel, token: str):
        if base.offload:
            raise ValueError("method embedding needs the text encoder in each step; set unet.offload=false.")
        self.token, self._sample = token, sample_weights(base.text_encoder)
        encoders = {name: getattr(base, name) for name in _ENCODERS if getattr(base, name, None) is not None}
        tokenizers = {name: getattr(base, name.replace("text_encoder", "tokenizer")) for name in encoders}
        word = token.lower() if base.family.lower_case else token
        ids = {name: _spell(tokenizer, word) for name, tokenizer in tokenizers.items()}
        self._look_ups: dict[str, _LookUp] = {}
        self._hooks: list[Any] = []
        for name, encoder in encoders.items():
            table = encoder.get_input_embeddings()
            rows = nn.Parameter(table.weight.detach()[ids[name]].float().clone())  # (T, D)
            self._look_ups[name] = _LookUp(ids[name], rows)
            # T5 has a second module for the same table, and calls that one.
            for module in encoder.modules():
                if isinstance(module, nn.Embedding) and module.weight is table.weight:
                    self._hooks.append(module.register_forward_hook(self._look_ups[name]))
        self._keys = _file_keys(encoders)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_hooks": []}  # the hooks are the text encoder's, and go with that

    def parameters(self) -> list[nn.Parameter]:
        """The learned rows (T, D) of each text encoder."""
        return [look_up.rows for look_up in self._look_ups.values()]

    def num_parameters(self) -> int:
        """Number of values in all learned rows."""
        return sum(p.numel() for p in self.parameters())

    def __len__(self) -> int:
        """Number of tokens whose embedding is learned."""
        return sum(len(rows) for rows in self.parameters())

    def disable(self) -> None:
        """Let the text encoder look up its own rows, until `enable`."""
        for look_up in self._look_ups.values():
            look_up.active = False

    def enable(self) -> None:
        """Undo `disable`."""
        for look_up in self._look_ups.values():
            look_up.active = True

    def detach(self) -> None:
        """Remove the hooks from the text encoders. The learned rows stay here and can be saved."""
        while self._hooks:
            self._hooks.pop().remove()

    def save(self, folder: str | Path) -> None:
        """Write embedding.json and, last, the rows, in the format that diffusers' load_textual_inversion reads.

        Parameters
        ----------
        folder : str or Path
            Created if it does not exist.
        """
        meta = {"format": 1, "method": "embedding", "token": self.token, "parameters": self.num_parameters()}
        save_method(Path(folder), self.DESIGN, meta, self.FILE, self._named(), self._sample)

    @classmethod
    def load(cls, base: BaseModel, folder: str | Path, strict: bool = False) -> EmbeddingTuning:
        """Put saved rows back on a base model.

        Parameters
        ----------
        base : BaseModel
        folder : str or Path
            What `save` wrote.
        strict : bool
            Whether weights that were made for another base model are an error; by default a warning says so.

        Returns
        -------
        EmbeddingTuning

        Raises
        ------
        ValueError
            If the rows do not have the width of this model's text encoders.
        """
        meta, tensors = read_method(Path(folder), cls.DESIGN, cls.FILE)
        check_base(Path(folder), meta, base.text_encoder, strict)
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
        if len(self._look_ups) == 1:
            return {self.token: self.parameters()[0]}
        return {self._keys[name]: look_up.rows for name, look_up in self._look_ups.items()}


class _LookUp:
    """Forward hook on a token embedding: rows (T, D) take the place of those of the T token ids."""

    def __init__(self, ids: list[int], rows: nn.Parameter) -> None:
        self.ids, self.rows, self.active = ids, rows, True

    def __call__(self, table: nn.Module, given: tuple[Tensor, ...], found: Tensor) -> Tensor:
        if not self.active:
            return found
        if self.rows.device != found.device:
            self.rows.data = self.rows.data.to(found.device)
        for token_id, row in zip(self.ids, self.rows, strict=True):
            found = torch.where((given[0] == token_id).unsqueeze(-1), row.to(found.dtype), found)  # (N, L, D)
        return found


def _file_keys(encoders: Mapping[str, Any]) -> dict[str, str]:
    """Names of the encoders' rows in a file, where there are several: clip_l, clip_g and t5, as tools of today do."""
    clip = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
    return {name: "t5" if e.config.model_type == "t5" else clip[name] for name, e in encoders.items()}


def _spell(tokenizer: Any, word: str) -> list[int]:
    """Ids of the tokens that spell a word, each once."""
    ids = list(dict.fromkeys(tokenizer(word, add_special_tokens=False).input_ids))
    if not ids or set(ids) & set(tokenizer.all_special_ids):
        raise ValueError(f"the tokenizer cannot spell the word {word!r}; choose another data.token.")
    return ids
