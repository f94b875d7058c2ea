"""Full fine-tuning, as DreamBooth does it: every weight of the UNet is trained."""

from __future__ import annotations

from pathlib import Path

import torch

from sdpet.methods.saved import check_fit, read_weights, write_design, write_weights
from sdpet.models.base import BaseModel


class FullTuning:
    """Full fine-tuning: every weight of the UNet is trained. A copy of the original weights is kept for `detach`.

    Parameters
    ----------
    base : BaseModel
    """

    FILE = "unet.safetensors"

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
        """Write unet.safetensors and, last, unet.json; both atomically.

        Parameters
        ----------
        folder : str or Path
            Created if it does not exist.
        """
        folder = Path(folder)
        write_weights(folder / self.FILE, self._tuned or dict(self._unet.named_parameters()))
        write_design(folder / "unet.json", {"format": 1, "method": "full", "parameters": self.num_parameters()})

    @classmethod
    def load(cls, base: BaseModel, folder: str | Path) -> FullTuning:
        """Put saved weights back on a base model.

        Parameters
        ----------
        base : BaseModel
        folder : str or Path
            What `save` wrote.

        Returns
        -------
        FullTuning

        Raises
        ------
        ValueError
            If the saved weights do not fit this UNet.
        """
        tensors = read_weights(Path(folder) / cls.FILE)
        check_fit(folder, tensors, dict(base.unet.named_parameters()))
        handle = cls(base)
        handle._write(tensors)
        return handle

    @torch.no_grad()
    def _write(self, weights: dict[str, torch.Tensor]) -> None:
        for name, parameter in self._unet.named_parameters():
            parameter.copy_(weights[name])
