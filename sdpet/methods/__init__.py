"""Methods of tuning under one interface, so that they can be levels of a factor.

A handle has parameters(), num_parameters(), len(), disable(), enable(), detach() and save(folder). One file a method:
sdpet.adapters (adapter), full (every weight of the UNet), lora (low-rank updates of attention, through peft) and
embedding (the row of the subject's token).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sdpet.adapters.spec import AdapterSpec
from sdpet.methods.embedding import EmbeddingTuning
from sdpet.methods.full import FullTuning
from sdpet.methods.lora import LoraTuning, carries_lora
from sdpet.models.base import BaseModel
from sdpet.seeds import isolated

if TYPE_CHECKING:
    from sdpet.adapters.fleet import Fleet

__all__ = ["METHODS", "Design", "EmbeddingTuning", "FullTuning", "Handle", "LoraTuning", "build", "build_fleet", "load"]


@dataclass(frozen=True)
class Design:
    """What is tuned: a method and what that method takes (None otherwise).

    spec: where adapters stand and their form (method adapter); rank, scale: of LoRA's updates, which are multiplied
    by scale (its alpha / rank); token: the word whose embedding is learned (method embedding).
    """

    method: str = "adapter"
    spec: AdapterSpec | None = None
    rank: int | None = None
    scale: float | None = None
    token: str | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method {self.method!r} is unknown; choose one of {', '.join(METHODS)}.")
        takes = _TAKES[self.method]
        for key in ("spec", "rank", "scale", "token"):
            if (getattr(self, key) is not None) != (key in takes):
                what = "adapter spec" if key == "spec" else key
                article = "an" if what[0] == "a" else "a"
                raise ValueError(f"method {self.method!r} {f'needs {article}' if key in takes else 'takes no'} {what}.")

    @property
    def mid_dim(self) -> int | None:
        """The width in use: an adapter's, or LoRA's rank."""
        return self.spec.mid_dim if self.spec is not None else self.rank


class Handle(Protocol):
    """What every method gives back; while it lives, the base computes the tuned model."""

    def parameters(self) -> Any: ...
    def num_parameters(self) -> int: ...
    def __len__(self) -> int: ...
    def disable(self) -> None: ...
    def enable(self) -> None: ...
    def detach(self) -> None: ...
    def save(self, folder: str | Path) -> None: ...


def build(base: BaseModel, design: Design, seed: int = 0) -> Handle:
    """Make `base` tunable by the design; initial values come from `seed` alone, global randomness is untouched.

    detach() of the result leaves the base as it was, bit for bit. ValueError when the UNet carries another design:
    what would be trained is then not what the record says.
    """
    _refuse_second(base)
    with isolated(seed, "init"):
        return METHODS[design.method](base, design)


def build_fleet(base: BaseModel, designs: Sequence[Design], seeds: Sequence[int]) -> Fleet:
    """Adapters of several designs on one UNet; each member's initial values are those that `build` gives it alone.

    ValueError for the other methods: they change the model itself, which the members share.
    """
    from sdpet.adapters.attachment import unattached
    from sdpet.adapters.fleet import Fleet

    _refuse_second(base)
    members = []
    for design, seed in zip(designs, seeds, strict=True):
        if design.spec is None:
            raise ValueError(f"method {design.method!r} changes the model and cannot share it; train it alone.")
        with isolated(seed, "init"):
            members.append(unattached(base.unet, design.spec))
    return Fleet(base.unet, members)


def load(base: BaseModel, folder: str | Path) -> Handle:
    """Put what `save` wrote into `folder` back on `base`, whatever its method."""
    folder = Path(folder)
    _refuse_second(base)
    if (folder / "adapters.json").exists():
        from sdpet import load_adapters

        return load_adapters(base.unet, folder)
    for method in (FullTuning, LoraTuning, EmbeddingTuning):
        if (folder / method.FILE).exists():
            return method.load(base, folder)
    raise ValueError(
        f"{folder} holds neither adapters.json nor {FullTuning.FILE}, {LoraTuning.FILE} or {EmbeddingTuning.FILE}; "
        "give the folder of a finished run."
    )


def _refuse_second(base: BaseModel) -> None:
    from sdpet.adapters.attachment import refuse_second

    if carries_lora(base.unet):
        raise ValueError("This UNet carries LoRA layers already; detach() them first.")
    refuse_second(base.unet)


def _attach_adapters(base: BaseModel, design: Design) -> Handle:
    from sdpet.adapters import attach

    assert design.spec is not None
    return attach(base.unet, design.spec)


def _inject_lora(base: BaseModel, design: Design) -> Handle:
    assert design.rank is not None and design.scale is not None
    return LoraTuning(base, design.rank, design.scale)


def _learn_token(base: BaseModel, design: Design) -> Handle:
    assert design.token is not None
    return EmbeddingTuning(base, design.token)


METHODS: dict[str, Callable[[BaseModel, Design], Handle]] = {
    "adapter": _attach_adapters,
    "full": lambda base, design: FullTuning(base),
    "lora": _inject_lora,
    "embedding": _learn_token,
}
_TAKES: dict[str, tuple[str, ...]] = {
    "adapter": ("spec",),
    "full": (),
    "lora": ("rank", "scale"),
    "embedding": ("token",),
}
