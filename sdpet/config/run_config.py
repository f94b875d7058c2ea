"""The checked config of a run as frozen objects, one for each group. Nothing here imports torch.

`sdpet.config.validate` makes a `RunConfig`. Only this package reads the plain mapping behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from sdpet.choices import DEFAULT_FORM
from sdpet.config.groups import (
    LAB_IMAGES,
    AdapterSettings,
    DataSettings,
    EvalSettings,
    FormSettings,
    LoggerSettings,
    ModelSettings,
    SamplerSettings,
    ScorerSettings,
    Settings,
    TaskSettings,
    TrainerSettings,
)
from sdpet.config.schema import OWN_PART_KEYS, is_own_part
from sdpet.models.source import LAB_TRANSFORMER

LAB_CLASS_IMAGES = {  # by unet.name and unet.pooled, those of the lab's transformer
    (LAB_TRANSFORMER, True): "class_transformer",
    (LAB_TRANSFORMER, False): "class_transformer_without_pooled",
}
SCORER_KEYS = ("scorer", "features", "diversity")  # single scorers of eval; those of eval.similarity have names
# Keys whose values may be paths; of these, a run on another machine or from another folder may need new ones.
PATH_KEYS = {
    "adapter": ("file",),
    "data": ("subject", "subject_dir", "class_dir", "heldout_dir", "mask_dir", "folder"),
    "unet": ("path", "config", "vae"),
}  # fmt: skip
_APART = ("_target_", "strict", "similarity", *SCORER_KEYS)  # keys of eval that EvalPlan does not take


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
