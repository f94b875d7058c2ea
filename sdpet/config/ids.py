"""Run ids, training ids and further keys that identify runs. Nothing here imports torch.

An id is a hash of everything that can change the result, and of nothing else: no paths, no logging options, no Python
paths of code.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sdpet.adapters.spec import ALWAYS
from sdpet.choices import DEFAULT_FORM, LORA_FILE_WEIGHTS, SCORERS, WHERE_WORDS
from sdpet.config.groups import LAB
from sdpet.config.run_config import SCORER_KEYS, RunConfig
from sdpet.config.schema import OWN_PART_KEYS, is_own_part
from sdpet.files.folders import counted_files, dataset_files, flowers_files
from sdpet.files.hashing import WEIGHTS, hash_file, hash_files, hash_folder, once
from sdpet.models.source import source_of

CLASS_IMAGE_KEYS = ("class_images", "class_sampler", "class_steps", "class_guidance")  # of data
# Keys of data from which others are made, which identify the run in their place.
NAMES_OF_SUBJECT = ("noun", "subject", "class_word", "root", "living", "prompts")
# Values at which an option changes nothing. They are left out of the hash, so ids from before the option stay valid.
NEUTRAL_DEFAULTS: dict[str, dict[str, Any]] = {
    "adapter": {
        "placements": None, "blocks": "all", "when": [0.0, 1.0], "where": "unet", "targets": None, "options": None,
        "file": None,
    },
    "task": {"noise_offset": 0.0, "background": 1.0},
    "data": {"mask_dir": None},
    "unet": {
        "noise_levels": "logit_normal", "shift": None, "vae_dtype": None, "vae_tiling": False, "vae_slicing": False,
    },
    "sampler": {"autocast": None, "compile": False},
    "eval": {"autocast": None},
    "trainer": {
        "accumulate": 1, "optimizer": "adamw", "ema": None, "grad_checkpointing": False, "compile": False,
        "callbacks": None, "strategy": "auto", "deterministic": False, "tf32": None,
    },
}  # fmt: skip
# Callbacks of Lightning that only watch: they change no weight.
WATCHING = (
    "LearningRateMonitor", "DeviceStatsMonitor", "ModelCheckpoint", "OnExceptionCheckpoint", "ModelSummary",
    "RichModelSummary", "TQDMProgressBar", "RichProgressBar", "ThroughputMonitor", "Timer",
)  # fmt: skip
PER_RUN_OPTIONS = (
    "lr",
    "weight_decay",
    "warmup",
    "schedule",
    "clip",
    "ema",
    "optimizer",
)  # of trainer; runs of a fleet may differ in them
# Keys of trainer that say how a run is computed, and not what. They enter the run id, because results may differ in the
# last bits, but runs that differ in nothing else answer the same question.
WAYS: dict[str, Any] = {
    "device": None, "threads": None, "devices": 1, "num_nodes": 1, "precision": None, "grad_checkpointing": False,
    "compile": False, "strategy": "auto", "deterministic": False, "tf32": None,
}  # fmt: skip
UNNAMED = (
    "adapter", "adapter.din", "adapter.dout", "adapter.placements", "adapter.blocks", "adapter.when", "adapter.where",
    "form", "seed", "study", "output_root", "quiet", "again", "logger", "sweeps",
)  # fmt: skip


def run_id(config: RunConfig) -> str:
    """The id of a run.

    Returns
    -------
    str
        12 hexadecimal digits; equal for configs with equal `identity`.
    """
    return _hash(_text(config))


def training_id(config: RunConfig) -> str:
    """The id of a training.

    Returns
    -------
    str
        12 hexadecimal digits; equal for runs that train the same weights, whatever their sampler and evaluation.
    """
    return _hash(_text(config, without=("sampler", "eval")))


def question_of(found: Mapping[str, Any]) -> str:
    """The id of a question: equal for runs that differ only in the way they are computed (`ways_of`).

    Parameters
    ----------
    found : mapping
        The `identity` of a run.

    Returns
    -------
    str
        12 hexadecimal digits.
    """
    return _digest({**found, "trainer": _without(found["trainer"], *WAYS)})


def ways_of(found: RunConfig | Mapping[str, Any]) -> dict[str, Any]:
    """How a run is computed: device, threads, processes, precision and the like.

    Parameters
    ----------
    found : RunConfig or mapping
        The run's config or `identity`.

    Returns
    -------
    dict
        Values by the key in `trainer`.
    """
    trainer = (found.values if isinstance(found, RunConfig) else found)["trainer"]
    return {key: trainer.get(key, default) for key, default in WAYS.items()}


def run_folder(config: RunConfig) -> Path:
    """The folder of a run: output_root/study/run_id."""
    return config.output_root / config.study / run_id(config)


def design_id(config: RunConfig) -> str:
    """The id of a design: equal for runs that differ only in their seed."""
    return run_id(config.changed(seed=0))


def fleet_key(config: RunConfig) -> str:
    """A key that is equal for runs that can be trained together, as one fleet."""
    values, trainer = config.values, config.trainer
    alone = not config.adapter.shares_a_model or trainer.precision == "16-mixed" or trainer.world_size > 1
    alone = alone or trainer.optimizer == "adamw8bit" or bool(acting_callbacks(trainer.callbacks))
    shared = _without(values["trainer"], *PER_RUN_OPTIONS)
    return json.dumps([_sampled_alike(values), shared, run_id(config) if alone else None], sort_keys=True)


def sampling_key(config: RunConfig) -> str:
    """A key that is equal for runs whose stored adapters can be sampled in one batch.

    Such runs have the same base model, task, sampler and evaluation.
    """
    return json.dumps([_sampled_alike(config.values), config.trainer.device], sort_keys=True)


def scoring_key(config: RunConfig) -> str:
    """A key that is equal for configs with the same scorers."""
    return json.dumps([config.values["eval"], config.task.name, config.data.name], sort_keys=True)


def identity(config: RunConfig) -> dict[str, Any]:
    """Everything that can change the result of a run.

    Returns
    -------
    dict
        Plain values by group of the config. A folder is represented by the hash of its content.
    """
    values, unet, data = config.values, config.values["unet"], config.values["data"]
    masked = config.task.background < 1  # without that, masks change nothing
    folders = {key: path for key, path in config.data.folders.items() if masked or key != "mask_dir"}
    content = {key: _content(path, config) for key, path in folders.items()}
    unused = () if config.draws_class_images else CLASS_IMAGE_KEYS  # the options that draw class images identify them
    without = (*NAMES_OF_SUBJECT, *unused, *content, *(_neutral("data", values) if masked else ("mask_dir",)))
    weights = once(cache_key("weights", unet), lambda: source_of(unet).content_hash())
    chosen = (
        "image_size",
        "prediction",
        *(key for key in NEUTRAL_DEFAULTS["unet"] if key not in _neutral("unet", values)),
    )
    size = {key: unet[key] for key in chosen if unet.get(key) is not None}
    return {
        "seed": config.seed,
        "adapter": _adapter_identity(values),
        **_form_identity(values),
        "unet": {"dtype": unet["dtype"], "weights": weights} | size,
        "task": _own_identity("task", config) or _without(values["task"], *_neutral("task", values)),
        "data": _own_identity("data", config) or _without(data, *without) | content,
        "trainer": _trainer_identity(values),
        "sampler": _own_identity("sampler", config) or _without(values["sampler"], *_neutral("sampler", values)),
        "eval": _eval_identity(values["eval"]),
    }


def _content(folder: Path, config: RunConfig) -> str:
    """A hash of the files that can change the result. Other files beside the images change nothing."""
    captioned, name = config.data.kind == "captions", config.data.name

    def make() -> str:
        match name:
            case "dataset":
                files = dataset_files(folder)
            case "flowers":
                files = flowers_files(folder)
            case _:
                files = {file for file in counted_files(folder, captioned) if file.is_file()}
        return hash_files(folder, sorted(files))

    return once(("content", folder, captioned, name), make)


def cache_key(what: str, values: Mapping[str, Any]) -> str:
    """A key for the cache `sdpet.files.hashing.once`; `what` names the kind of value that is computed from `values`."""
    return json.dumps([what, values], sort_keys=True, default=str)


def say_unused(config: RunConfig, overrides: Sequence[str]) -> None:
    """Warn of overrides that say how class images are drawn, where the base model draws none."""
    if config.draws_class_images:
        return
    drawing = {f"data.{key}" for key in CLASS_IMAGE_KEYS}
    given = [key for key in (override.lstrip("+").partition("=")[0] for override in overrides) if key in drawing]
    if given:
        why = "the class images are those of data.class_dir" if config.task.reg_weight > 0 else "task.reg_weight=0"
        warnings.warn(f"{', '.join(given)} changes nothing, since {why}.", stacklevel=2)


def _sampled_alike(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: values[key] for key in ("unet", "task", "data", "sampler", "eval", "output_root")}


def _neutral(group: str, values: Mapping[str, Any]) -> list[str]:
    """Names of the group's options that have their neutral value."""
    return [key for key, value in NEUTRAL_DEFAULTS[group].items() if values[group].get(key, value) == value]


def acting_callbacks(callbacks: Mapping[str, Any] | None) -> dict[str, Any]:
    """The callbacks that may change the weights: all but those of Lightning that only watch.

    Parameters
    ----------
    callbacks : mapping, optional
        trainer.callbacks.

    Returns
    -------
    dict
    """
    return {name: item for name, item in (callbacks or {}).items() if not _only_watches(item["_target_"])}


def _only_watches(target: str) -> bool:
    package, _, name = target.rpartition(".")
    return name in WATCHING and package in ("lightning.pytorch.callbacks", "pytorch_lightning.callbacks")


def _trainer_identity(values: Mapping[str, Any]) -> dict[str, Any]:
    """The group `trainer`. Validation changes nothing, unless callbacks act at the end of each of its epochs."""
    trainer = values["trainer"]
    acting = acting_callbacks(trainer.get("callbacks"))
    found = _without(trainer, "profiler", *_neutral("trainer", values), *(() if acting else ("validate_every",)))
    return _without(found, "callbacks") | ({"callbacks": acting} if acting else {})


def _text(config: RunConfig, without: Sequence[str] = ()) -> str:
    """The identity as JSON; all but the seed is written once for runs that differ in nothing else."""

    def around_seed() -> tuple[str, str]:
        found = _without(identity(config), "seed", *without)
        before, after = ({k: v for k, v in found.items() if (k < "seed") is first} for first in (True, False))
        return _json(before)[:-1], _json(after)[1:]

    before, after = once(("identity", config.cell, without), around_seed)
    return f'{before},"seed":{config.seed},{after}'


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def _digest(content: Mapping[str, Any]) -> str:
    return _hash(_json(content))


def _adapter_identity(values: Mapping[str, Any]) -> dict[str, Any]:
    """The group `adapter`; a LoRA file is represented by the hash of its content."""
    found = _without(values["adapter"], *_neutral("adapter", values))
    if "file" not in found:
        return found
    path = Path(found["file"]).expanduser()
    weights = path if path.is_file() else path / LORA_FILE_WEIGHTS
    return {**found, "file": once(("lora file", weights), lambda: hash_file(weights))}


def _form_identity(values: Mapping[str, Any]) -> dict[str, Any]:
    """The group `form`, unless it is the paper's, which is not in ids of older versions."""
    form = values.get("form") or {"name": DEFAULT_FORM}
    return {} if form == {"name": DEFAULT_FORM} else {"form": form}


def _eval_identity(group: Mapping[str, Any]) -> dict[str, Any]:
    """The group `eval` without `strict`, which changes no score: it only decides whether a score may be missing."""
    found = _without(group, "chunk", "strict", *_neutral("eval", {"eval": group}))
    found |= {key: _scorer_identity(group[key]) for key in SCORER_KEYS if group.get(key)}
    return found | {"similarity": {k: _scorer_identity(v) for k, v in (group.get("similarity") or {}).items()}}


def _own_identity(group: str, config: RunConfig) -> dict[str, Any] | None:
    """An object of the user's own: its Python path and options; a path is represented by the hash of its content."""
    values = config.values[group]
    if not is_own_part(group, values):
        return None
    neutral = [key for key in _neutral(group, config.values) if key in OWN_PART_KEYS[group]]
    return {key: _path_content(value) for key, value in values.items() if key not in ("class_word", *neutral)}


def _path_content(value: Any) -> Any:
    """The hash of a file's or folder's content, where an option is the path of one; other values as they are."""
    path = Path(value).expanduser() if isinstance(value, str) and ("/" in value or "." in value) else None
    if path is not None and path.is_dir():
        return hash_folder(path, ("",))
    return hash_file(path) if path is not None and path.is_file() else value


def _scorer_identity(scorer: Mapping[str, Any]) -> dict[str, Any]:
    """The scorer's fixed name and its arguments; a path is represented by the hash of its content."""
    arguments = _without(scorer, "device", "_target_")
    if scorer["_target_"] == "lab-clip":
        arguments.setdefault("folder", str(LAB / "scorer"))
    for key, value in arguments.items():
        path = Path(value).expanduser() if isinstance(value, str) else None
        if path is not None and path.is_dir():
            arguments[key] = hash_folder(path, WEIGHTS)
        elif path is not None and path.is_file():
            arguments[key] = hash_folder(path.parent, (path.name.lower(),))
    return {**arguments, "_target_": SCORERS.get(scorer["_target_"], scorer["_target_"])}


def _without(mapping: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key not in keys}


def name_of(config: RunConfig, overrides: Sequence[str] = ()) -> str:
    """A readable name of a run.

    Parameters
    ----------
    config : RunConfig
        The run.
    overrides : sequence of str
        The overrides on the command line; those that the name does not show already are appended.

    Returns
    -------
    str
        Such as "attn2o-ffni seed 1".
    """
    adapter, form = config.adapter, config.form
    parts = [adapter.placement or adapter.method]
    parts += [form.label, *(f"{key} {value}" for key, value in form.options.items())] if not form.is_default else []
    parts += [adapter.blocks] if adapter.blocks != "all" else []
    parts += ["when {:g}-{:g}".format(*adapter.when)] if tuple(adapter.when) != ALWAYS else []
    parts += [WHERE_WORDS[adapter.where]] if adapter.where in WHERE_WORDS else []
    parts += [f"seed {config.seed}"]
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if key not in UNNAMED and not key.startswith(("hydra", "form.")):
            parts.append(f"{key.rpartition('.')[2]} {value}")
    return " ".join(parts)
