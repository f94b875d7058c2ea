"""The keys of a run's config, with one rule for each. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdpet.adapters.spec import check_blocks, check_options, interval, is_path, known_activation, several
from sdpet.choices import (
    AUTOCASTS,
    DEFAULT_FORM,
    DISTANCES,
    DTYPES,
    FORM_OPTIONS,
    FORMS,
    INITS,
    LOGGERS,
    METHODS,
    NOISE_LEVELS,
    OWN_FORM,
    PRECISIONS,
    PREDICTIONS,
    PROFILERS,
    SAMPLERS,
    SCHEDULES,
    STRATEGIES,
    TASKS,
    WHERES,
)
from sdpet.config.value_rules import (
    FORMER_TARGETS,
    MOST_DEVICES,
    MOST_IMAGES,
    MOST_NODES,
    MOST_SHOWN,
    MOST_SIDE,
    MOST_STEPS,
    MOST_THREADS,
    MOST_WIDTH,
    Rule,
    Sentence,
    asked,
    boolean,
    boolean_or,
    by_method,
    by_sentence,
    callbacks,
    choice,
    device,
    folder_name,
    former_target,
    given_options,
    integer,
    list_of,
    named_or_own,
    number,
    open_unit_interval,
    optimizer,
    optional,
    output,
    position,
    string,
    target,
    targets,
    templates,
    texts,
    zero_or,
)
from sdpet.files.hashing import once_for
from sdpet.files.terminal import did_you_mean

RULES: dict[str, dict[str, Rule]] = {
    "": {
        "study": folder_name,
        "seed": integer(0),
        "output_root": string,
        "quiet": boolean,
        "again": boolean,
        "checkpoint_seconds": number(0),
        "asked": asked,
    },
    "adapter": {
        "method": choice(METHODS),
        "din": optional(position, tell=False),
        "dout": optional(output, tell=False),
        "activation": optional(by_sentence(known_activation), tell=False),
        "mid_dim": optional(integer(1, MOST_WIDTH)),
        "params": optional(integer(1, 10**12)),
        "scale": optional(number(), tell=False),
        "init": optional(choice(INITS), tell=False),
        "placements": optional(by_sentence(several)),
        "blocks": by_sentence(check_blocks),
        "when": by_sentence(interval),
        "where": choice(WHERES),
        "targets": optional(texts),
        "options": given_options,
        "file": optional(string),
    },
    "form": {
        "name": choice((*FORMS, OWN_FORM)),
        "_target_": optional(string),
    },
    "unet": {
        "name": string,
        "path": optional(string),
        "dtype": choice(DTYPES),
        "guidance": number(0),
        "use_ema": boolean,
        "config": optional(string),
        "image_size": optional(integer(8, MOST_SIDE)),
        "vae": optional(string),
        "prediction": optional(choice(PREDICTIONS)),
        "vae_dtype": optional(choice(DTYPES)),
        "vae_tiling": boolean,
        "vae_slicing": boolean,
        "offload": boolean,
        "pooled": boolean,
        "t5": boolean,
        "noise_levels": choice(NOISE_LEVELS),
        "shift": optional(number(0, above=True)),
    },
    "task": {
        "_target_": former_target("task"),
        "name": choice(tuple(TASKS)),
        "reg_weight": number(0),
        "dropout": number(0, 1),
        "flip": number(0, 1),
        "min_snr": optional(number(0, above=True)),
        "noise_offset": number(0),
        "background": number(0, 1),
    },
    "data": {
        "kind": choice(tuple(TASKS.values())),
        "name": string,
        "noun": string,
        "root": string,
        "living": optional(boolean),
        "prompts": choice(("dataset", "eval")),
        "subject": string,
        "class_word": string,
        "class_images": integer(1, MOST_IMAGES),
        "class_sampler": choice(SAMPLERS),
        "class_steps": integer(1, MOST_STEPS),
        "class_guidance": number(0),
        "image_column": string,
        "caption_column": string,
        "subject_dir": optional(string),
        "class_dir": optional(string),
        "heldout_dir": optional(string),
        "mask_dir": optional(string),
        "prompt": string,
        "class_prompt": string,
        "token": string,
        "folder": optional(string),
        "heldout_share": number(0, 1),
    },
    "trainer": {
        "device": device,
        "precision": choice(PRECISIONS),
        "threads": integer(1, MOST_THREADS),
        "devices": integer(1, MOST_DEVICES),
        "num_nodes": integer(1, MOST_NODES),
        "steps": zero_or(integer(1, MOST_STEPS)),
        "batch_size": integer(1, MOST_IMAGES),
        "lr": number(0, above=True),
        "weight_decay": number(0),
        "warmup": integer(0, MOST_STEPS),
        "schedule": choice(SCHEDULES),
        "clip": optional(number(0, above=True)),
        "accumulate": integer(1, MOST_STEPS),
        "optimizer": optimizer,
        "ema": optional(open_unit_interval),
        "grad_checkpointing": boolean,
        "compile": boolean_or("graphs"),
        "validate_every": optional(integer(1, MOST_STEPS)),
        "callbacks": optional(callbacks),
        "profiler": optional(named_or_own(PROFILERS, "lightning.pytorch.profilers.SimpleProfiler")),
        "strategy": named_or_own(STRATEGIES, "lightning.pytorch.strategies.DDPStrategy"),
        "deterministic": boolean_or("warn"),
        "tf32": optional(boolean),
        "methods": by_method,
    },
    "sampler": {
        "_target_": former_target("sampler"),
        "name": choice(SAMPLERS),
        "steps": integer(1, MOST_STEPS),
        "guidance": number(0),
        "eta": number(0, 1),
        "autocast": optional(choice(tuple(AUTOCASTS))),
        "compile": boolean_or("auto"),
    },
    "eval": {
        "_target_": former_target("eval"),
        "scorer": target,
        "similarity": targets,
        "features": optional(target),
        "diversity": optional(target),
        "strict": boolean,
        "subject_images": integer(1, MOST_IMAGES),
        "class_images": integer(0, MOST_IMAGES),
        "prompts": templates,
        "prompt_images": integer(0, MOST_IMAGES),
        "images": integer(2, MOST_IMAGES),
        "distances": list_of(DISTANCES),
        "noise_images": integer(0, MOST_IMAGES),
        "eval_seed": optional(integer(0)),
        "chunk": integer(1, MOST_IMAGES),
        "autocast": optional(choice(tuple(AUTOCASTS))),
    },
    "logger": {
        "name": choice(LOGGERS),
        "project": string,
        "mode": choice(("auto", "offline", "online", "disabled")),
        "entity": optional(string),
        "tags": texts,
        "notes": optional(string),
        "run_name": optional(string),
    },
}


def check_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """Check every value of a config.

    Parameters
    ----------
    config : mapping
        The resolved config.

    Returns
    -------
    dict
        The values in canonical types.

    Raises
    ------
    ValueError
        A key is unknown or its value breaks its rule. The sentence names the first such key and the valid choices.
    """
    checked: dict[str, Any] = {}
    for group in RULES:
        values = {k: v for k, v in config.items() if k not in RULES} if group == "" else config.get(group)
        values = {"name": DEFAULT_FORM} if values is None and group == "form" else values  # of older versions
        if not isinstance(values, Mapping):
            raise ValueError(f"{group} is missing from the config; choose one by {group}=NAME.")
        found = _checked(group, values) if group else check_group(group, values)
        checked.update(found if group == "" else {group: found})
    return checked


def _checked(group: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """`check_group`, once for each group that several runs of a plan share."""
    return once_for(values, ("checked", group), lambda: check_group(group, values))


def check_group(group: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Check the values of one group of the config; returns and raises as `check_values`."""
    if group == "form":
        return _check_form(values)
    if is_own_part(group, values):
        return _check_own_part(group, values)
    checked: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{group}.{key}".lstrip(".")
        if key not in RULES[group]:
            raise ValueError(unknown_key(name))
        try:
            found = RULES[group][key](value)
        except Sentence as error:
            raise ValueError(f"{name}: {error}") from None
        except ValueError as error:
            raise ValueError(f"{name} {error}, not {_shown(value)}.") from None
        if key != "_target_":
            checked[key] = found
    return checked


def _check_form(values: Mapping[str, Any]) -> dict[str, Any]:
    """The group of the form, whose keys beside the name are options of its class."""
    try:
        name = RULES["form"]["name"](values.get("name"))
    except ValueError as error:
        raise ValueError(f"form.name {error}, not {values.get('name')!r}.") from None
    own = values.get("_target_")
    if name == OWN_FORM and not is_path(own):
        raise ValueError(f"form._target_ must be the Python path of a class, such as my_lab.Gated, not {own!r}.")
    if name != OWN_FORM and own is not None:
        raise ValueError(f"form._target_ needs form={OWN_FORM}; the form {name} is sdpet's own.")
    try:
        options = check_options({key: value for key, value in values.items() if key not in ("name", "_target_")})
    except ValueError as error:
        raise ValueError(f"form: {error}") from None
    takes = FORM_OPTIONS.get(name, ())
    unknown = [key for key in options if name != OWN_FORM and key not in takes]
    if unknown:
        has = f"its options are {', '.join(takes)}" if takes else "it has none"
        raise ValueError(f"form.{unknown[0]}: the form {name} has no option {unknown[0]!r}; {has}.")
    return {"name": name, **({"_target_": own} if name == OWN_FORM else {}), **options}


def _shown(value: Any) -> str:
    """The value in few letters; numbers may have thousands of digits."""
    try:
        text = repr(value)
    except ValueError:  # more digits than Python writes
        return "a number of thousands of digits"
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


# Keys that sdpet itself reads in a group whose object is the user's own; its other keys are the object's options.
OWN_PART_KEYS = {
    "task": (),
    "data": ("kind", "prompt", "class_prompt", "token", "class_word"),
    "sampler": ("steps", "guidance", "autocast", "compile"),
    "logger": (),
}


def is_own_part(group: str, values: Mapping[str, Any]) -> bool:
    """Whether the values of a group name a class of the user's own."""
    own = values.get("_target_")
    return group in OWN_PART_KEYS and own is not None and own not in FORMER_TARGETS.get(group, ())


def _check_own_part(group: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Check what sdpet reads of an object of the user's own; its options stay as they are."""
    own = values["_target_"]
    if not isinstance(own, str) or "." not in own:
        raise ValueError(f"{group}._target_ must be the Python path of a class, such as my_lab.MyClass, not {own!r}.")
    checked = {"_target_": own, "name": own.rpartition(".")[2]}
    words = ("prompt", "class_prompt", "token", "class_word")  # of a subject
    for key in OWN_PART_KEYS[group]:
        if values.get(key) is None or (key in words and values.get("kind") == "captions"):
            continue
        try:
            checked[key] = RULES[group][key](values[key])
        except ValueError as error:
            raise ValueError(f"{group}.{key} {error}, not {_shown(values[key])}.") from None
    return checked | {str(key): value for key, value in values.items() if key not in (*checked, *OWN_PART_KEYS[group])}


def unknown_key(name: str) -> str:
    """The error for a key that does not exist, or that this command does not take; it lists the valid keys."""
    group, _, key = name.rpartition(".")
    if group not in RULES:
        return f"there is no config group {group!r}; groups are {', '.join(g for g in RULES if g)}."
    keys = [*RULES[group], *(g for g in RULES if g and not group)]
    if key in keys:
        return f"{name} cannot be set here."
    hint = did_you_mean(key, keys)
    where = f"of {group} are" if group else "are"
    return f"there is no key {name!r}{hint}; keys {where} {', '.join(k for k in keys if k != '_target_')}."
