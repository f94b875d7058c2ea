"""The checked config of a run as frozen objects, one for each group. Nothing here imports torch.

`sdpet.config.validate` makes a `RunConfig`. Only this package reads the plain mapping behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import sdpet
from sdpet.adapters.spec import ALWAYS, JOIN
from sdpet.choices import DEFAULT_FORM, FORMS
from sdpet.config.schema import OWN_PART_KEYS, is_own_part
from sdpet.models.source import LAB_TRANSFORMER

LAB = Path(sdpet.__file__).parent / "lab"
LAB_IMAGES = {"subject_dir": "subject", "class_dir": "class", "heldout_dir": "subject_heldout"}
LAB_CLASS_IMAGES = {  # by unet.name and unet.pooled, those of the lab's transformer
    (LAB_TRANSFORMER, True): "class_transformer",
    (LAB_TRANSFORMER, False): "class_transformer_without_pooled",
}
SCORER_KEYS = ("scorer", "features", "diversity")  # single scorers of eval; those of eval.similarity have names
# Keys whose values may be paths; of these, a run on another machine or from another folder may need new ones.
PATH_KEYS = {
    "data": ("subject", "subject_dir", "class_dir", "heldout_dir", "mask_dir", "folder"),
    "unet": ("path", "config", "vae"),
}  # fmt: skip
_OF_LOADING = (
    "use_ema", "config", "image_size", "pooled", "t5", "noise_levels", "shift", "vae", "prediction", "vae_dtype",
    "vae_tiling", "offload",
)  # fmt: skip
_APART = ("_target_", "strict", "similarity", *SCORER_KEYS)  # keys of eval that EvalPlan does not take

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
    compile: bool = False
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


@dataclass(frozen=True)
class RunConfig:
    """The checked config of a run; `validate` makes it.

    Parameters
    ----------
    values : mapping
        The resolved config in canonical types. It is stored as config.yaml and sent to other processes. It must not
        be changed; `changed` makes a new config.
    """

    values: Mapping[str, Any]

    @cached_property
    def cell(self) -> object:
        """A key for what does not depend on the seed; the same object in configs that `with_seed` made of another."""
        return object()

    def with_seed(self, seed: int) -> RunConfig:
        """A copy of the config with another seed, for which what does not depend on the seed is not made again.

        Parameters
        ----------
        seed : int
            It is not checked.

        Returns
        -------
        RunConfig
        """
        made = RunConfig({**self.values, "seed": seed})
        made.__dict__.update({**self.__dict__, "cell": self.cell, "values": made.values})
        return made

    @property
    def study(self) -> str:
        return self.values["study"]

    @property
    def seed(self) -> int:
        return self.values["seed"]

    @property
    def quiet(self) -> bool:
        return self.values["quiet"]

    @property
    def again(self) -> bool:
        """Whether a run is done even if the study has it already, computed in another way; False in older configs."""
        return self.values.get("again", False)

    @property
    def checkpoint_seconds(self) -> float | None:
        """Seconds between checkpoints; None in configs of older versions, which did not store it."""
        return self.values.get("checkpoint_seconds")

    @cached_property
    def output_root(self) -> Path:
        return Path(self.values["output_root"]).expanduser()

    @property
    def task_cache(self) -> str:
        """The folder that caches latents, text states and class images for other runs."""
        return str(Path(self.values["output_root"]) / ".cache")

    @cached_property
    def adapter(self) -> AdapterSettings:
        return _settings(AdapterSettings, self.values["adapter"])

    @cached_property
    def form(self) -> FormSettings:
        group = self.values.get("form") or {}
        options = {key: value for key, value in group.items() if key not in ("name", "_target_")}
        return FormSettings(group.get("_target_") or group.get("name") or DEFAULT_FORM, options)

    @cached_property
    def unet(self) -> ModelSettings:
        return _settings(ModelSettings, self.values["unet"])

    @cached_property
    def task(self) -> TaskSettings:
        target, options = own_part("task", self.values["task"])
        return TaskSettings(self.values["task"]["name"], options, target)

    @cached_property
    def data(self) -> DataSettings:
        unet = self.values.get("unet", {})  # none where only some groups were checked
        drawn_by = LAB_CLASS_IMAGES.get((unet.get("name"), unet.get("pooled", True)), LAB_IMAGES["class_dir"])
        return replace(_settings_of_part(DataSettings, "data", self.values["data"]), lab_class=drawn_by)

    @cached_property
    def trainer(self) -> TrainerSettings:
        return _settings(TrainerSettings, self.values["trainer"])

    @cached_property
    def sampler(self) -> SamplerSettings:
        return _settings_of_part(SamplerSettings, "sampler", self.values["sampler"])

    @cached_property
    def eval(self) -> EvalSettings:
        group = self.values["eval"]
        plan = {key: value for key, value in group.items() if key not in _APART}
        return EvalSettings(
            {key: _scorer(item) for key, item in scorer_items(group).items()}, plan, group.get("strict", True)
        )

    @cached_property
    def logger(self) -> LoggerSettings:
        return _settings_of_part(LoggerSettings, "logger", self.values["logger"])

    @property
    def draws_class_images(self) -> bool:
        """Whether the run needs class images that the base model draws."""
        wanted = self.data.kind == "subject" and self.task.reg_weight > 0
        return wanted and self.data.name != "lab" and self.data.class_dir is None and self.data.target is None

    def changed(self, **given: Any) -> RunConfig:
        """A copy of the config with other values; nothing is checked.

        Parameters
        ----------
        **given
            New values by key. A mapping changes only the keys of its group that it has.

        Returns
        -------
        RunConfig
            The changed copy.
        """
        changes = {k: {**self.values[k], **v} if isinstance(v, Mapping) else v for k, v in given.items()}
        return RunConfig({**self.values, **changes})

    def with_paths_of(self, other: RunConfig) -> RunConfig:
        """A copy of the config with the paths of another one."""
        changes = {
            group: {key: other.values[group][key] for key in keys if key in other.values[group]}
            for group, keys in PATH_KEYS.items()
        }
        return self.changed(**changes)


def with_paths(values: Mapping[str, Any], change: Callable[[Path], Path]) -> dict[str, Any]:
    """Change the paths of a config to files and folders on this machine.

    Parameters
    ----------
    values : mapping
        The plain config.
    change : callable
        Takes and returns a path. A path whose change does not exist is left as it was, such as the id of a model on
        the hub.

    Returns
    -------
    dict
        A copy.
    """
    found = dict(values)
    for group, keys in PATH_KEYS.items():
        changed = dict(values.get(group) or {})
        for key in keys:
            if isinstance(changed.get(key), str) and (path := change(Path(changed[key]).expanduser())).exists():
                changed[key] = str(path)
        if group in values:
            found[group] = changed
    return found


def lacking_key(values: Mapping[str, Any]) -> str | None:
    """The first key that a config needs and does not have, as where a user deleted it; None where all are there."""
    groups = {
        "adapter": AdapterSettings, "unet": ModelSettings, "data": DataSettings, "trainer": TrainerSettings,
        "sampler": SamplerSettings, "logger": LoggerSettings,
    }  # fmt: skip
    needed = [key for key in ("study", "seed", "output_root", "quiet") if key not in values]
    # Stored configs may lack these two, new ones may not.
    needed += ["task.name"] if "name" not in values["task"] else []
    needed += [f"unet.{name}" for name in ("dtype", "guidance") if name not in values["unet"]]
    for group, kind in groups.items():
        names = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
        needed += [f"{group}.{name}" for name in names if name not in values[group]]
    return next(iter(needed), None)


def scorer_items(group: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The mappings of a checked group `eval` that define scorers, by their key."""
    single = {key: group[key] for key in SCORER_KEYS if group.get(key)}
    return single | {f"similarity.{name}": item for name, item in (group.get("similarity") or {}).items()}


def own_part(group: str, values: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """The Python path of an object of the user's own (None for sdpet's), and the options of the group's object."""
    own = is_own_part(group, values)
    read = ("name", "_target_", *(OWN_PART_KEYS[group] if own else ()))
    return values["_target_"] if own else None, {key: value for key, value in values.items() if key not in read}


def _scorer(item: Mapping[str, Any]) -> ScorerSettings:
    return ScorerSettings(item["_target_"], {key: value for key, value in item.items() if key != "_target_"})


def _settings_of_part(kind: type[Settings], group: str, values: Mapping[str, Any]) -> Settings:
    target, options = own_part(group, values)
    if target is None:
        return _settings(kind, values)
    read = {key: values[key] for key in ("name", *OWN_PART_KEYS[group]) if key in values}
    made: Any = kind
    return made(**read, target=target, options=options)


def _settings(kind: type[Settings], values: Mapping[str, Any]) -> Settings:
    """Make a settings object; unknown keys are ignored, since other versions may have stored them."""
    known = {field.name for field in fields(kind)} - {"target"}  # type: ignore[arg-type]
    return kind(**{key: value for key, value in values.items() if key in known})
