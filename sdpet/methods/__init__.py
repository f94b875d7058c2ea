"""Methods of tuning with one interface (`TunedModel`), so that they can be levels of a factor.

Each method has a file: sdpet.adapters (adapter), full (every weight of the UNet), lora (low-rank updates of attention,
which are adapters, too), embedding (the embedding of the subject's token) and peft_tuning (dora, lokr, loha, oft, ia3
and vera).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sdpet.adapters.parts import UNET, clip_encoders, model_at
from sdpet.adapters.spec import AdapterSpec
from sdpet.choices import FILE_METHOD, PEFT_METHODS, TEXT_METHODS, WHERES
from sdpet.methods.embedding import EmbeddingTuning
from sdpet.methods.file_tuning import FileTuning, file_sizes, file_words, read_file
from sdpet.methods.full import FullTuning
from sdpet.methods.layer_updates import carries_updates
from sdpet.methods.lora import LoraTuning, lora_design
from sdpet.methods.lora_export import export_format
from sdpet.methods.lora_files import import_lora, read_lora
from sdpet.methods.peft_kinds import PeftSpec
from sdpet.methods.peft_sizes import nearest_spec
from sdpet.methods.peft_tuning import PeftTuning, carries_peft, layer_sizes, read_peft
from sdpet.models.base import BaseModel
from sdpet.seeds import isolated_rng

if TYPE_CHECKING:
    from sdpet.adapters.fleet import Fleet

__all__ = [
    "METHODS",
    "Design",
    "EmbeddingTuning",
    "FileTuning",
    "FullTuning",
    "LoraTuning",
    "PeftSpec",
    "PeftTuning",
    "TunedModel",
    "build",
    "build_fleet",
    "combines",
    "export_format",
    "file_sizes",
    "file_words",
    "import_lora",
    "layer_sizes",
    "load",
    "lora_design",
    "nearest_spec",
    "read_file",
    "read_lora",
    "read_peft",
]


@dataclass(frozen=True)
class Design:
    """A method of tuning and its options. Options of other methods are None.

    Parameters
    ----------
    method : str
        One of `sdpet.choices.METHODS`.
    spec : AdapterSpec, optional
        Placement and form of the adapters (method adapter).
    rank : int, optional
        Of the updates (method lora).
    scale : float, optional
        Factor on the updates, alpha / rank (method lora).
    token : str, optional
        The word whose embedding is learned (method embedding).
    peft : PeftSpec, optional
        Size and options of a method of peft (dora, lokr, loha, oft, ia3, vera).
    where : {"unet", "text_encoder", "both"}
        The parts of the model that are tuned (methods adapter and lora, and those of peft).
    file : str, optional
        A LoRA file, or the folder that `import_lora` wrote (method lora_file).

    Raises
    ------
    ValueError
        If the method is unknown, lacks an option or does not take one.
    """

    method: str = "adapter"
    spec: AdapterSpec | None = None
    rank: int | None = None
    scale: float | None = None
    token: str | None = None
    peft: PeftSpec | None = None
    where: str = UNET
    file: str | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method {self.method!r} is unknown; choose one of {', '.join(METHODS)}.")
        if self.where not in WHERES or (self.where != UNET and self.method not in TEXT_METHODS):
            choices = WHERES if self.method in TEXT_METHODS else (UNET,)
            raise ValueError(f"where must be {' or '.join(choices)} with method {self.method!r}, not {self.where!r}.")
        takes = _TAKES[self.method]
        for key in ("spec", "rank", "scale", "token", "peft", "file"):
            if (getattr(self, key) is not None) != (key in takes):
                what = {"spec": "adapter spec", "peft": "peft spec"}.get(key, key)
                article = "an" if what[0] == "a" else "a"
                raise ValueError(f"method {self.method!r} {f'needs {article}' if key in takes else 'takes no'} {what}.")

    @property
    def mid_dim(self) -> int | None:
        """The width: an adapter's mid_dim, LoRA's rank, or the size of a method of peft (rank or size of a block)."""
        if self.peft is not None:
            return self.peft.size
        return self.spec.mid_dim if self.spec is not None else self.rank


class TunedModel(Protocol):
    """What every method returns. Until `detach`, the base model computes the tuned model."""

    @property
    def learns_text(self) -> bool:
        """Whether text states change while it is trained, so that they are computed in every step."""

    def parameters(self) -> Any:
        """The weights that are trained."""

    def num_parameters(self) -> int:
        """Their number."""

    def __len__(self) -> int:
        """Number of places that are tuned: adapters, projections or tokens."""

    def disable(self) -> None:
        """Compute the base model, until `enable`."""

    def enable(self) -> None:
        """Undo `disable`."""

    def detach(self) -> None:
        """Leave the base model as it was. The learned weights can still be saved, except with full fine-tuning."""

    def save(self, folder: str | Path) -> None:
        """Write what `load` reads."""


def build(base: BaseModel, design: Design, seed: int = 0) -> TunedModel:
    """Make a base model tunable by a design.

    Parameters
    ----------
    base : BaseModel
    design : Design
    seed : int
        Initial values are derived from it; global random generators are not touched.

    Returns
    -------
    TunedModel
        Its `detach` leaves the base as it was, bit for bit.

    Raises
    ------
    ValueError
        If the model carries another design: the training would then not be what the record says. If the design is for
        a text encoder and the model has no suitable one, or keeps it off the device.
    """
    _refuse_second(base)
    if design.where != UNET and base.offload:
        raise ValueError("adapters in the text encoder need it in each step; set unet.offload=false.")
    with isolated_rng(seed, "init"):
        return METHODS[design.method](base, design)


def build_fleet(base: BaseModel, designs: Sequence[Design], seeds: Sequence[int]) -> Fleet:
    """Put adapters of several designs on one UNet, to be trained together.

    Parameters
    ----------
    base : BaseModel
    designs : sequence of Design
    seeds : sequence of int
        One a design; each member's initial values equal those of `build`.

    Returns
    -------
    Fleet

    Raises
    ------
    ValueError
        If a design is neither of the method adapter nor lora (other methods change the model, which the members
        share), or is for the text encoder, or the UNet carries another design.
    """
    from sdpet.adapters.attachment import build_unattached
    from sdpet.adapters.fleet import Fleet

    _refuse_second(base)
    members = []
    for design, seed in zip(designs, seeds, strict=True):
        if design.spec is None and design.rank is None:
            raise ValueError(f"method {design.method!r} changes the model and cannot share it; train it alone.")
        if design.where != UNET:
            raise ValueError("a fleet shares the text states, and a design in the text encoder changes them; train it "
                             "alone.")  # fmt: skip
        with isolated_rng(seed, "init"):
            members.append(
                build_unattached(base.unet, design.spec)
                if design.spec is not None
                else LoraTuning(base, design.rank or 0, design.scale or 0.0, attached=False)
            )
    return Fleet(base.unet, members)


def load(
    base: BaseModel,
    folder: str | Path,
    alongside: bool = False,
    *,
    strict: bool = False,
    trust: bool | Collection[str] = False,
) -> TunedModel:
    """Put a saved design of any method back on a base model.

    Parameters
    ----------
    base : BaseModel
    folder : str or Path
        What `TunedModel.save` wrote.
    alongside : bool
        Whether the UNet may carry adapters already. Only adapters and LoRA files go alongside others.
    strict : bool
        Whether adapters that were made for another base model are an error; by default a warning says so.
    trust : bool or collection of str
        Whether the folder may name a form that is not sdpet's own, see `sdpet.adapters.load_adapters`.

    Returns
    -------
    TunedModel

    Raises
    ------
    ValueError
        If the folder holds no design, the design does not fit the model, or the UNet carries another one.
    """
    folder = Path(folder)
    is_adapters = (folder / "adapters.json").exists()
    if not (alongside and combines(folder)):
        _refuse_second(base)
    if is_adapters:
        from sdpet import load_adapters

        return load_adapters(base, folder, alongside=alongside, strict=strict, trust=trust)
    methods = (FullTuning, LoraTuning, EmbeddingTuning, PeftTuning, FileTuning)
    for method in methods:
        if (folder / method.FILE).exists():
            return method.load(base, folder, strict)
    raise ValueError(
        f"{folder} holds neither adapters.json nor {' or '.join(method.FILE for method in methods)}; "
        "give the folder of a finished run."
    )


def combines(folder: str | Path) -> bool:
    """Whether a folder holds a design that can act beside others: adapters, or a LoRA file."""
    return any((Path(folder) / name).exists() for name in ("adapters.json", FileTuning.DESIGN))


def _refuse_second(base: BaseModel) -> None:
    from sdpet.adapters.attachment import refuse_second

    for name, model in {"UNet": base.unet, **clip_encoders(base)}.items():
        if carries_peft(model):
            raise ValueError(f"This {name} carries layers of peft (such as LoRA) already; detach() them first.")
        if carries_updates(model):
            raise ValueError(f"This {name} carries the updates of a LoRA file already; detach() them first.")
        refuse_second(model)


def _attach_adapters(base: BaseModel, design: Design) -> TunedModel:
    from sdpet.adapters import attach

    assert design.spec is not None
    return attach(model_at(base, design.where), design.spec)


def _inject_lora(base: BaseModel, design: Design) -> TunedModel:
    assert design.rank is not None and design.scale is not None
    return LoraTuning(base, design.rank, design.scale, where=design.where)


def _learn_token(base: BaseModel, design: Design) -> TunedModel:
    assert design.token is not None
    return EmbeddingTuning(base, design.token)


def _inject_peft(base: BaseModel, design: Design) -> TunedModel:
    assert design.peft is not None
    return PeftTuning(base, design.peft, where=design.where)


def _add_file(base: BaseModel, design: Design) -> TunedModel:
    assert design.file is not None
    path = Path(design.file).expanduser()
    if path.is_dir():
        return FileTuning.load(base, path)
    return FileTuning(base, read_lora(path), path)


METHODS: dict[str, Callable[[BaseModel, Design], TunedModel]] = {
    "adapter": _attach_adapters,
    "full": lambda base, design: FullTuning(base),
    "lora": _inject_lora,
    "embedding": _learn_token,
    **dict.fromkeys(PEFT_METHODS, _inject_peft),
    FILE_METHOD: _add_file,
}
_TAKES: dict[str, tuple[str, ...]] = {
    "adapter": ("spec",),
    "full": (),
    "lora": ("rank", "scale"),
    "embedding": ("token",),
    **dict.fromkeys(PEFT_METHODS, ("peft",)),
    FILE_METHOD: ("file",),
}
