"""Full fine-tuning, as DreamBooth does it: every weight of the UNet is trained."""

from __future__ import annotations

from pathlib import Path

import torch

from sdpet.adapters.identity import sample_weights
from sdpet.methods.saved import check_base, check_fit, read_method, save_method
from sdpet.models.base import BaseModel


class FullTuning:
    """Full fine-tuning: every weight of the UNet is trained. A copy of the original weights is kept for `detach`.

    Parameters
    ----------
    base : BaseModel
    """

    FILE, DESIGN = "unet.safetensors", "unet.json"
    learns_text = False

    def __init__(self, base: BaseModel):
        self._unet = base.unet
        self._originals = {name: p.detach().clone() for name, p in base.unet.named_parameters()}
        self._tuned: dict[str, torch.Tensor] | None = None  # the trained weights while disabled
        base.unet.requires_grad_(True)

    def parameters(self) -> list[torch.nn.Parameter]:
        """All weights of the UNet."""
        return list(self._unet.parameters())

    def num_parameters(self) -> int:
        """Number of weights of the UNet."""
        return sum(p.numel() for p in self._originals.values())

    def __len__(self) -> int:
        """Number of adapters: none."""
        return 0

    def disable(self) -> None:
        """Compute with the original weights, until `enable`."""
        if self._tuned is None:
            self._tuned = {name: p.detach().clone() for name, p in self._unet.named_parameters()}
            self._write(self._originals)

    def enable(self) -> None:
        """Undo `disable`."""
        if self._tuned is not None:
            self._write(self._tuned)
            self._tuned = None

    def detach(self) -> None:
        """Restore the UNet's original weights and freeze them."""
        self._write(self._originals)
        self._unet.requires_grad_(False)
        for parameter in self._unet.parameters():
            parameter.grad = None
        self._tuned = None

    def save(self, folder: str | Path) -> None:
        """Write unet.json and, last, unet.safetensors; both atomically.

        Parameters
        ----------
        folder : str or Path
            Created if it does not exist.
        """
        design = {"format": 1, "method": "full", "parameters": self.num_parameters()}
        weights = self._tuned or dict(self._unet.named_parameters())
        save_method(Path(folder), self.DESIGN, design, self.FILE, weights, sample_weights(self._originals))

    @classmethod
    def load(cls, base: BaseModel, folder: str | Path, strict: bool = False) -> FullTuning:
        """Put saved weights back on a base model.

        Parameters
        ----------
        base : BaseModel
        folder : str or Path
            What `save` wrote.
        strict : bool
            Whether weights that were made from another base model are an error; by default a warning says so.

        Returns
        -------
        FullTuning

        Raises
        ------
        ValueError
            If the saved weights do not fit this UNet.
        """
        meta, tensors = read_method(Path(folder), cls.DESIGN, cls.FILE)
        check_fit(folder, tensors, dict(base.unet.named_parameters()))
        check_base(Path(folder), meta, base.unet, strict)
        handle = cls(base)
        handle._write(tensors)
        return handle

    @torch.no_grad()
    def _write(self, weights: dict[str, torch.Tensor]) -> None:
        for name, parameter in self._unet.named_parameters():
            parameter.copy_(weights[name])
