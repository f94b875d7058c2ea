"""The settings of a run: every key that can change its result, flat, with plain values. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from typing import Any

from sdpet.choices import DEFAULT_FORM
from sdpet.config.groups import ModelSettings, SamplerSettings, TrainerSettings
from sdpet.config.ids import CLASS_IMAGE_KEYS, NEUTRAL_DEFAULTS, acting_callbacks, identity
from sdpet.config.run_config import RunConfig
from sdpet.config.schema import is_own_part
from sdpet.config.value_rules import SHORT_NAMES
from sdpet.files.hashing import once

CONTENT = ".content"  # ends the key that holds the hash of the files which the path under the key before it names
_SHOWN = {  # keys that people know and that the identity replaces by the content of files, or derives others from
    "unet": ("name", "path", "config", "use_ema"),
    "data": ("noun", "subject", "class_word", *CLASS_IMAGE_KEYS),
}
_STORED = ("adapter", "unet", "task", "data", "trainer", "sampler", "eval", "form")  # groups that change results
_WITHOUT_EFFECT = (
    "unet.guidance", "unet.offload", "data.root", "data.living", "data.prompts", "trainer.validate_every",
    "trainer.devices", "trainer.num_nodes", "trainer.profiler", "eval.chunk", "eval.strict",
)  # fmt: skip
_HIDDEN = {"unet": ("weights",)}
_UNNAMED_GROUPS = ("adapter", "logger")  # the factors of an adapter are its keys; a logger changes no result


def defaults() -> dict[str, Any]:
    """Values of options that stored configs of older versions lack, by dotted key."""
    kinds = {"unet": ModelSettings, "trainer": TrainerSettings, "sampler": SamplerSettings}
    found = {
        f"{group}.{field.name}": field.default
        for group, kind in kinds.items()
        for field in fields(kind)  # type: ignore[arg-type]
        if field.default is not MISSING
    }
    found["form"] = DEFAULT_FORM
    return found | {f"{group}.{key}": value for group, keys in NEUTRAL_DEFAULTS.items() for key, value in keys.items()}


def settings_of(config: RunConfig) -> dict[str, Any]:
    """Every key of a config that can change the result of the run, options at their default included.

    Parameters
    ----------
    config : RunConfig
        The run.

    Returns
    -------
    dict
        Plain values and lists by dotted key, such as "trainer.lr". A key without a dot is a chosen group, such as
        ``"sampler": "ddim"``. A path stays as it was given; the hash of its files is stored under the key that ends
        in ".content".
    """
    return {**once(("settings", config.cell), lambda: _settings_of(config)), "seed": config.seed}


def _settings_of(config: RunConfig) -> dict[str, Any]:
    hashed = identity(config)
    found: dict[str, Any] = {"seed": config.seed}
    for group, kept in hashed.items():
        values = config.values.get(group)
        if not isinstance(values, Mapping):
            continue
        if (name := _choice(config, group)) is not None:
            found[group] = name
        values = _without_watchers(group, values)
        wanted = {*kept, *NEUTRAL_DEFAULTS.get(group, ()), *_SHOWN.get(group, ())} - {*_HIDDEN.get(group, ())}
        content = dict(flat({group: kept}))
        for key, value in flat({group: {key: value for key, value in values.items() if key in wanted}}):
            found[key] = value
            if isinstance(value, str) and not key.endswith("_target_") and content.get(key, value) != value:
                found[key + CONTENT] = content[key]
    if isinstance(found.get("unet.path"), str):
        found["unet.path" + CONTENT] = hashed["unet"]["weights"]
    _name_subject(found)
    return found


def flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested mappings by dotted key."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def plain_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in a stored config, as its config.yaml holds it; nothing is checked, and no file is hashed.

    Parameters
    ----------
    values : mapping
        The config; also one of an older version.

    Returns
    -------
    dict
        See `settings_of`, without the hashes of files.
    """
    groups = {group: values[group] for group in _STORED if isinstance(values.get(group), Mapping)}
    found = {"seed": values["seed"]} if "seed" in values else {}
    config = RunConfig(values)
    for group, content in groups.items():
        name = _choice(config, group)
        found |= {group: name} if name is not None else {}
        found |= {
            key: SHORT_NAMES.get(value, value) if key.endswith("_target_") else value
            for key, value in flat({group: _without_watchers(group, content)})
            if key not in _WITHOUT_EFFECT
            and not (key.endswith(".device") and group != "trainer")
            and (key != f"{group}._target_" or is_own_part(group, content))
        }
    _name_subject(found)
    return found


def _without_watchers(group: str, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The values of a group without the callbacks that change nothing; None where none is left."""
    if group != "trainer" or not values.get("callbacks"):
        return values
    return {**values, "callbacks": acting_callbacks(values["callbacks"]) or None}


def chosen_keys(config: RunConfig) -> list[str]:
    """The keys and groups that were given by hand, by a sweep or on the command line."""
    return list((config.values.get("asked") or {}).get("keys") or ())


def _choice(config: RunConfig, group: str) -> str | None:
    """The name of the chosen option of a group: that of its file, or the value of its key `name`."""
    if group in _UNNAMED_GROUPS:
        return None
    chosen = ((config.values.get("asked") or {}).get("groups") or {}).get(group)
    name = config.values[group].get("name")
    return name if chosen is None or f"{group}.name" in chosen_keys(config) else chosen


def _name_subject(found: dict[str, Any]) -> None:
    """The folder of a subject is known as data.subject where that key exists."""
    if found.get("data.subject") is not None and "data.subject_dir" in found:
        folder, content = found.pop("data.subject_dir"), found.pop("data.subject_dir" + CONTENT, None)
        if folder is not None and content is not None:
            found["data.subject" + CONTENT] = content
