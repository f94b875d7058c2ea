"""Methods of tuning under one interface, so that they can be levels of a factor.

A handle has parameters(), num_parameters(), len(), disable(), enable(), detach() and save(folder); the adapters'
handle comes from sdpet.adapters, the one of full fine-tuning is here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from sdpet.adapters.spec import AdapterSpec
from sdpet.base import BaseModel
from sdpet.files import atomically
from sdpet.seeds import isolated

if TYPE_CHECKING:
    from sdpet.adapters.fleet import Fleet


@dataclass(frozen=True)
class Design:
    """What is tuned: a method and, for adapters, where and in which form (None otherwise)."""

    method: str = "adapter"
    spec: AdapterSpec | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method {self.method!r} is unknown; choose one of {', '.join(METHODS)}.")
        if (self.spec is not None) != (self.method == "adapter"):
            raise ValueError(
                f"method {self.method!r} {'needs an' if self.method == 'adapter' else 'takes no'} adapter spec."
            )


class Handle(Protocol):
    """What every method gives back; while it lives, `base.unet` computes the tuned model."""

    def parameters(self) -> Any: ...
    def num_parameters(self) -> int: ...
    def __len__(self) -> int: ...
    def disable(self) -> None: ...
    def enable(self) -> None: ...
    def detach(self) -> None: ...
    def save(self, folder: str | Path) -> None: ...


def build(base: BaseModel, design: Design, seed: int = 0) -> Handle:
    """Make `base.unet` tunable by the design; initial values come from `seed` alone, global randomness is untouched.

    detach() of the result leaves the UNet as it was, bit for bit.
    """
    with isolated(seed, "init"):
        return METHODS[design.method](base, design)


def build_fleet(base: BaseModel, designs: Sequence[Design], seeds: Sequence[int]) -> Fleet:
    """Adapters of several designs on one UNet; each member's initial values are those that `build` gives it alone.

    ValueError for full fine-tuning: it changes the UNet itself, which the members share.
    """
    from sdpet.adapters.fleet import Fleet
    from sdpet.adapters.handle import unattached

    members = []
    for design, seed in zip(designs, seeds, strict=True):
        if design.spec is None:
            raise ValueError(f"method {design.method!r} changes the UNet and cannot share it; train it alone.")
        with isolated(seed, "init"):
            members.append(unattached(base.unet, design.spec))
    return Fleet(base.unet, members)


def load(base: BaseModel, folder: str | Path) -> Handle:
    """Put what `save` wrote into `folder` back on `base.unet`, whatever its method."""
    folder = Path(folder)
    if (folder / "adapters.json").exists():
        from sdpet import load_adapters

        return load_adapters(base.unet, folder)
    if (folder / FullTuning.FILE).exists():
        return FullTuning.load(base, folder)
    raise ValueError(f"{folder} holds neither adapters.json nor {FullTuning.FILE}; give the folder of a finished run.")


class FullTuning:
    """Full fine-tuning: every weight of the UNet is trained; the original is kept aside for detach()."""

    FILE = "unet.safetensors"

    def __init__(self, base: BaseModel):
        self._unet = base.unet
        self._originals = {name: p.detach().clone() for name, p in base.unet.named_parameters()}
        self._tuned: dict[str, torch.Tensor] | None = None  # the trained weights while disabled
        base.unet.requires_grad_(True)

    def parameters(self) -> list[torch.nn.Parameter]:
        return list(self._unet.parameters())

    def num_parameters(self) -> int:
        return sum(p.numel() for p in self._originals.values())

    def __len__(self) -> int:
        """Number of adapters: none."""
        return 0

    def disable(self) -> None:
        """Compute with the original weights until enable()."""
        if self._tuned is None:
            self._tuned = {name: p.detach().clone() for name, p in self._unet.named_parameters()}
            self._write(self._originals)

    def enable(self) -> None:
        if self._tuned is not None:
            self._write(self._tuned)
            self._tuned = None

    def detach(self) -> None:
        """Give the UNet its original weights back, frozen."""
        self._write(self._originals)
        self._unet.requires_grad_(False)
        for parameter in self._unet.parameters():
            parameter.grad = None
        self._tuned = None

    def save(self, folder: str | Path) -> None:
        """Write unet.safetensors and, last, unet.json; both atomically."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = self._tuned or dict(self._unet.named_parameters())
        tensors = {name: p.detach().cpu().contiguous() for name, p in weights.items()}
        atomically(folder / self.FILE, lambda file: save_file(tensors, file))
        meta = {"format": 1, "method": "full", "parameters": self.num_parameters()}
        atomically(folder / "unet.json", lambda file: file.write_text(json.dumps(meta, indent=1) + "\n"))

    @classmethod
    def load(cls, base: BaseModel, folder: str | Path) -> FullTuning:
        """Raises ValueError if the saved weights are not those of this UNet's architecture."""
        from safetensors.torch import load_file

        tensors = load_file(Path(folder) / cls.FILE)
        expected = {name: p.shape for name, p in base.unet.named_parameters()}
        wrong = sorted(
            {n for n in expected if n not in tensors or tensors[n].shape != expected[n]} | set(tensors) - set(expected)
        )
        if wrong:
            raise ValueError(
                f"{folder} does not fit this UNet: {len(wrong)} weights differ in name or shape, first {wrong[0]}."
            )
        handle = cls(base)
        handle._write(tensors)
        return handle

    @torch.no_grad()
    def _write(self, weights: dict[str, torch.Tensor]) -> None:
        for name, parameter in self._unet.named_parameters():
            parameter.copy_(weights[name])


def _attach_adapters(base: BaseModel, design: Design) -> Handle:
    from sdpet.adapters import attach

    assert design.spec is not None
    return attach(base.unet, design.spec)


METHODS: dict[str, Callable[[BaseModel, Design], Handle]] = {
    "adapter": _attach_adapters,
    "full": lambda base, design: FullTuning(base),
}
