"""The groups of a config as dataclasses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import sdpet
from sdpet.adapters.spec import ALWAYS, JOIN
from sdpet.choices import DEFAULT_FORM, FORMS, SHARE_A_MODEL
from sdpet.models.source import LAB_TRANSFORMER

LAB = Path(sdpet.__file__).parent / "lab"
LAB_IMAGES = {"subject_dir": "subject", "class_dir": "class", "heldout_dir": "subject_heldout"}
_OF_LOADING = (
    "use_ema", "config", "image_size", "pooled", "t5", "noise_levels", "shift", "vae", "prediction", "vae_dtype",
    "vae_tiling", "vae_slicing", "offload",
)  # fmt: skip


Settings = TypeVar("Settings")


@dataclass(frozen=True)
class AdapterSettings:
    """The method and its design; keys that the method does not take are None."""

    method: str
    din: str | None
    dout: str | None
    activation: str | None
    mid_dim: int | None
    params: int | None
    scale: float | None
    init: str | None
    placements: Sequence[str] | None = None
    blocks: str = "all"
    when: Sequence[float] = ALWAYS
    targets: Sequence[str] | None = None
    options: Mapping[str, Any] | None = None
    where: str = "unet"
    file: str | None = None

    @property
    def shares_a_model(self) -> bool:
        """Whether several such designs can be on one model at once, as in a fleet.

        Other methods change the model, and designs in the text encoder change the text states that members share.
        """
        return self.method in SHARE_A_MODEL and self.where == "unet"

    @property
    def placement(self) -> str | None:
        """`din-dout`, several joined by "+", or None for methods without positions."""
        if self.placements:
            return JOIN.join(self.placements)
        return None if self.din is None else f"{self.din}-{self.dout}"


@dataclass(frozen=True)
class FormSettings:
    """The form of the adapter: a name of `sdpet.choices.FORMS` or the Python path of a class, and its options."""

    kind: str = DEFAULT_FORM
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_own(self) -> bool:
        """Whether it is a class of the user's."""
        return self.kind not in FORMS

    @property
    def is_default(self) -> bool:
        """Whether it is the paper's."""
        return self.kind == DEFAULT_FORM

    @property
    def label(self) -> str:
        """A short name."""
        return self.kind.rpartition(".")[2]


@dataclass(frozen=True)
class ModelSettings:
    """The base model; `path` is None for the lab's model."""

    name: str
    path: str | None
    dtype: str = "float32"
    guidance: float = 1.0
    use_ema: bool = False
    config: str | None = None
    image_size: int | None = None
    pooled: bool = True
    t5: bool = True
    noise_levels: str = "logit_normal"
    shift: float | None = None
    vae: str | None = None
    prediction: str | None = None
    vae_dtype: str | None = None
    vae_tiling: bool = False
    vae_slicing: bool = False
    offload: bool = False

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of `sdpet.models.load_base`, other than device and dtype; defaults are left out."""
        name = self.name if self.path is not None or self.name == LAB_TRANSFORMER else "lab"
        chosen = {field.name: getattr(self, field.name) for field in fields(self)}
        told = {key: chosen[key] for key in _OF_LOADING if chosen[key] != getattr(ModelSettings, key)}
        return {"name": name, "path": self.path, **told}


@dataclass(frozen=True)
class TaskSettings:
    """The name of a task, and the arguments of its class as `options`; `target` is the path of a user's own class."""

    name: str
    options: Mapping[str, Any]
    target: str | None = None

    @property
    def background(self) -> float:
        """Weight of the loss outside of the subject; 1 without masks."""
        return float(self.options.get("background", 1.0))

    @property
    def reg_weight(self) -> float:
        """Weight of the class images' loss; 0 for tasks without them."""
        return float(self.options.get("reg_weight", 0.0))


@dataclass(frozen=True)
class DataSettings:
    """The data of a task; keys that this kind of data does not have are None."""

    kind: str
    name: str
    noun: str | None = None
    root: str | None = None
    subject: str | None = None
    class_word: str | None = None
    class_images: int | None = None
    class_sampler: str | None = None
    class_steps: int | None = None
    class_guidance: float | None = None
    image_column: str | None = None
    caption_column: str | None = None
    subject_dir: str | None = None
    class_dir: str | None = None
    heldout_dir: str | None = None
    mask_dir: str | None = None
    prompt: str | None = None
    class_prompt: str | None = None
    token: str | None = None
    folder: str | None = None
    heldout_share: float | None = None
    target: str | None = None  # the Python path of data of the user's own, and its options
    options: Mapping[str, Any] = field(default_factory=dict)
    lab_class: str = "class"  # folder of the lab's class images, which the base model drew

    @property
    def folders(self) -> dict[str, Path]:
        """Folders of images by their key in the config; for the lab, its own folders are the default."""
        if self.kind == "captions":
            return {} if self.folder is None else {"folder": Path(self.folder).expanduser()}
        found: dict[str, Path] = {}
        for key, name in LAB_IMAGES.items():
            given = getattr(self, key)
            if given is not None:
                found[key] = Path(given).expanduser()
            elif self.name == "lab" and self.target is None:
                found[key] = LAB / "data" / (self.lab_class if key == "class_dir" else name)
        if self.mask_dir is not None:
            found["mask_dir"] = Path(self.mask_dir).expanduser()
        return found


@dataclass(frozen=True)
class TrainerSettings:
    """Device and training options. Keys with a default here are missing from configs that older versions stored."""

    device: str
    precision: str
    threads: int
    steps: int
    batch_size: int
    lr: float
    weight_decay: float
    warmup: int
    schedule: str
    clip: float | None
    devices: int = 1
    num_nodes: int = 1
    accumulate: int = 1
    optimizer: str | Mapping[str, Any] = "adamw"
    ema: float | None = None
    grad_checkpointing: bool = False
    compile: bool | str = False
    validate_every: int | None = None
    callbacks: Mapping[str, Mapping[str, Any]] | None = None
    profiler: str | Mapping[str, Any] | None = None
    strategy: str | Mapping[str, Any] = "auto"
    deterministic: bool | str = False
    tf32: bool | None = None

    @property
    def world_size(self) -> int:
        """The number of processes that train the run together."""
        return self.devices * self.num_nodes


@dataclass(frozen=True)
class SamplerSettings:
    """The sampler and its options."""

    name: str
    steps: int
    guidance: float
    eta: float = 0.0
    autocast: str | None = None
    compile: bool | str = False
    target: str | None = None  # the Python path of a sampler of the user's own, and its options
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ScorerSettings:
    """A scorer: its short name (`sdpet.choices.SCORERS`) or Python path as `target`, and its arguments."""

    target: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class EvalSettings:
    """The evaluation of a run.

    Attributes
    ----------
    scorers : mapping of str to ScorerSettings
        By their key in `eval`.
    plan : mapping
        The arguments of `EvalPlan`.
    strict : bool
        Whether a scorer that is not available is an error.
    """

    scorers: Mapping[str, ScorerSettings]
    plan: Mapping[str, Any]
    strict: bool = True


@dataclass(frozen=True)
class LoggerSettings:
    """The logger that receives metrics and images; the record is written in any case.

    `target` is the Python path of a logger of Lightning's or the user's own, and `options` are its arguments.
    """

    name: str
    project: str | None = None
    mode: str | None = None
    entity: str | None = None
    tags: Sequence[str] = ()
    notes: str | None = None
    run_name: str | None = None
    target: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
