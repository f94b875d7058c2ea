"""The rules of single values: each returns the value in its canonical type, or says what it must be."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from sdpet.adapters.positions import INPUTS, OUTPUTS, all_positions, valid_outputs
from sdpet.choices import (
    METHODS,
    OPTIMIZERS,
    PLACEHOLDERS,
    SCORERS,
    SUITES,
)
from sdpet.files.terminal import did_you_mean

SHORT_NAMES = {path: name for name, path in SCORERS.items()}
MOST_SEED = 2**63 - 1
MOST_STEPS, MOST_IMAGES, MOST_SIDE, MOST_WIDTH = 10**9, 10**6, 2**14, 2**16
MOST_THREADS, MOST_DEVICES, MOST_NODES = 1024, 64, 4096
MOST_LETTERS, MOST_NAME, MOST_SHOWN = 10_000, 200, 100


Rule = Callable[[Any], Any]  # returns the value in its canonical type, or raises ValueError("must be ...")


def zero_or(rule: Rule) -> Rule:
    """0, or what a rule takes."""
    return lambda value: 0 if value == 0 and not isinstance(value, bool) else rule(value)


def integer(least: int, most: int = MOST_SEED) -> Rule:
    """A whole number from `least` to `most`; 3.0 becomes 3.

    `most` is beyond what any machine can do. Its default is what random generators take as a seed.
    """

    def rule(value: Any) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"must be a whole number of at least {least}")
        if value > most:
            raise ValueError(f"must be a whole number of at most {most}")
        return value

    return rule


def number(least: float = -math.inf, most: float = math.inf, *, above: bool = False) -> Rule:
    """A finite number in [least, most], or in (least, most] with above=True.

    It becomes a float, so that 1 and 1.0 give the same run id.
    """
    bounds = {
        (False, False): "",
        (True, False): f" {'above' if above else 'of at least'} {least:g}",
        (True, True): f" from {least:g} to {most:g}",
    }[least > -math.inf, most < math.inf]

    def rule(value: Any) -> float:
        ok = not isinstance(value, bool) and isinstance(value, int | float) and abs(value) <= sys.float_info.max
        if not ok or not least <= value <= most or (above and value == least):
            raise ValueError(f"must be a number{bounds}")
        return float(value)

    return rule


def open_unit_interval(value: Any) -> float:
    """A number above 0 and below 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise ValueError("must be a number above 0 and below 1")
    return float(value)


def choice(options: Sequence[str]) -> Rule:
    """One of the options."""

    def rule(value: Any) -> str:
        if value not in options:
            raise ValueError(f"must be one of {', '.join(options)}{did_you_mean(value, options)}")
        return value

    return rule


def position(value: Any) -> str:
    """A position of an adapter, on any model; which models have it is checked later."""
    return _known_position(value, INPUTS)


def output(value: Any) -> str:
    """A position that can be written."""
    if _known_position(value, OUTPUTS) not in valid_outputs(value):
        raise ValueError(f"must be a position that can be written, such as {', '.join(OUTPUTS)}")
    return value


def _known_position(value: Any, listed: Sequence[str]) -> str:
    """The value, if it is a position; the error lists those of the paper that can stand here."""
    known = all_positions()
    if isinstance(value, str) and value in known:
        return value
    hint = did_you_mean(value, [name for name in known if name in listed or name not in INPUTS])
    further = sum(name not in INPUTS for name in known)
    raise ValueError(
        f"must be one of {', '.join(listed)}{hint}, or one of {further} further positions of transformers and "
        "projections (sdpet adapters count lists them)"
    )


def string(value: Any) -> str:
    """A text that is not blank, and that a file or a tokenizer can hold."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be some text")
    if len(value) > MOST_LETTERS or (not value.isprintable() and _cannot_be_kept(value)):
        raise ValueError(f"must be a text of at most {MOST_LETTERS} letters, without NUL and half signs")
    return value


def _cannot_be_kept(text: str) -> bool:
    return "\0" in text or any("\ud800" <= sign <= "\udfff" for sign in text)


def device(value: Any) -> str:
    """The name of a device."""
    if not isinstance(value, str) or not re.fullmatch(r"cpu|cuda(:\d{1,3})?", value):
        raise ValueError("must be cpu, cuda or cuda:N")
    return value


def target(value: Any) -> dict[str, Any]:
    """A mapping that defines a scorer: its short name or Python path as _target_, and its arguments."""
    if not isinstance(value, dict) or not isinstance(value.get("_target_"), str):
        raise ValueError(
            f"must be a mapping with _target_, one of {', '.join(SCORERS)} or a Python path, as in conf/eval/lab.yaml"
        )
    if value["_target_"] not in SCORERS and "." not in value["_target_"]:
        choice(tuple(SCORERS))(value["_target_"])
    return {**value, "_target_": SHORT_NAMES.get(value["_target_"], value["_target_"])}


FORMER_TARGETS = {  # Python paths that version 0.1.0 stored; they are ignored, since `name` selects the object
    "task": ("sdpet.tasks.DreamBoothTask", "sdpet.tasks.FinetuneTask"),
    "sampler": ("sdpet.sample.SamplerConfig",),
    "eval": ("sdpet.scoring.EvalPlan",),
}


def former_target(group: str) -> Rule:
    """A Python path that version 0.1.0 stored. It is accepted and ignored."""

    def rule(value: Any) -> str:
        if value not in FORMER_TARGETS[group]:
            raise ValueError("is no longer read: the object is made from its name; leave it out")
        return value

    return rule


def optimizer(value: Any) -> str | dict[str, Any]:
    """The name of an optimiser, or a mapping with the Python path of one as _target_, and its arguments."""
    if isinstance(value, dict):
        own = value.get("_target_")
        if not isinstance(own, str) or "." not in own:
            raise ValueError("must have a Python path such as torch.optim.SGD as _target_")
        return value
    try:
        return choice(OPTIMIZERS)(value)
    except ValueError as error:
        raise ValueError(f"{error}, or one of your own by +trainer/optimizer=custom") from None


def named_or_own(options: Sequence[str], example: str) -> Rule:
    """One of the options, or a mapping with the Python path of a class as _target_, and its arguments."""

    def rule(value: Any) -> str | dict[str, Any]:
        if isinstance(value, dict):
            return own_class(value, example)
        try:
            return choice(options)(value)
        except ValueError as error:
            raise ValueError(f"{error}, or a mapping with a Python path such as {example} as _target_") from None

    return rule


def own_class(value: Any, example: str) -> dict[str, Any]:
    """A mapping with the Python path of a class as _target_, and its arguments."""
    own = value.get("_target_") if isinstance(value, dict) else None
    if not isinstance(own, str) or "." not in own:
        raise ValueError(f"must be mappings with a Python path such as {example} as _target_")
    return {str(key): item for key, item in value.items()}


def callbacks(value: Any) -> dict[str, Any] | None:
    """Callbacks by name. A list, as users of Lightning write it, is named by their classes."""
    example = "lightning.pytorch.callbacks.EarlyStopping"
    if isinstance(value, list):
        found: dict[str, Any] = {}
        for item in value:
            name = own_class(item, example)["_target_"].rpartition(".")[2]
            same = sum(key.partition("_")[0] == name for key in found)
            found[f"{name}_{same + 1}" if same else name] = item
        value = found
    if not isinstance(value, dict):
        raise ValueError(f"must be mappings with a Python path such as {example} as _target_, in a list or by name")
    return {str(name): own_class(item, example) for name, item in value.items() if item is not None} or None


def boolean_or(word: str) -> Rule:
    """True, false or a word."""

    def check(value: Any) -> bool | str:
        if not isinstance(value, bool) and value != word:
            raise ValueError(f"must be true, false or {word}")
        return value

    return check


def targets(value: Any) -> dict[str, Any]:
    """Scorers by name; the name becomes the prefix of the metrics."""
    taken = ("clip", "features", "diversity", "lpips")
    if not isinstance(value, dict) or not all(str(name).isidentifier() and name not in taken for name in value):
        raise ValueError(
            f"must be mappings with _target_ by name (none of {', '.join(taken)}), as in conf/eval/full.yaml"
        )
    return {name: target(item) for name, item in value.items() if item is not None}


def boolean(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def texts(value: Any) -> list[str]:
    """A list of texts that are not blank."""
    if not isinstance(value, list) or not all(isinstance(item, str) and item.strip() for item in value):
        raise ValueError("must be a list of texts")
    return value


def templates(value: Any) -> list[str] | str:
    """Prompts with a placeholder for the subject, or the name of a suite."""
    if isinstance(value, str):
        return choice(SUITES)(value)
    for template in texts(value):
        if not any(place in template for place in PLACEHOLDERS):
            raise ValueError(f"has {template!r}, which lacks {{prompt}}, where the subject's prompt goes")
    return value


def list_of(options: Sequence[str]) -> Rule:
    """A list whose items are among the options."""
    one = choice(options)
    return lambda value: [one(item) for item in texts(value)]


def folder_name(value: Any) -> str:
    """A name for a folder; a number becomes text."""
    value = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(value, str) or not value.strip() or value.startswith(".") or "/" in value or "\\" in value:
        raise ValueError("must be a name for a folder, without slashes and not beginning with a dot")
    if len(value.encode(errors="replace")) > MOST_NAME or not value.isprintable():
        raise ValueError(f"must be a name for a folder, of at most {MOST_NAME} bytes and without signs for control")
    return value


def by_method(value: Any) -> dict[str, Any]:
    """lr and steps for each method; the files in conf/adapter refer to them."""
    if not isinstance(value, dict) or not all(m in METHODS and isinstance(item, dict) for m, item in value.items()):
        raise ValueError(f"must be lr and steps by method ({', '.join(METHODS)}), as in conf/trainer/cpu.yaml")
    return value


def given_options(value: Any) -> dict[str, Any] | None:
    """The options that are set, by name; None where none is. Each method checks its own."""
    if value is not None and not isinstance(value, dict):
        raise ValueError("must be options by name, as in conf/adapter/lokr.yaml")
    return {str(key): item for key, item in (value or {}).items() if item is not None} or None


def optional(rule: Rule, tell: bool = True) -> Rule:
    """The rule, or null.

    With tell=False the error does not offer null, for keys that only some methods have.
    """

    def or_null(value: Any) -> Any:
        if value is None:
            return None
        try:
            return rule(value)
        except Sentence:
            raise
        except ValueError as error:
            raise ValueError(f"{error}{', or null' if tell else ''}") from None

    return or_null


def asked(value: Any) -> dict[str, Any]:
    """What was chosen when the config was composed: the option of each group, and the keys that were given."""
    groups, keys = (value.get("groups"), value.get("keys")) if isinstance(value, dict) else (None, None)
    if not isinstance(groups, dict) or not isinstance(keys, list) or len(value) > 2:
        raise ValueError("must hold groups and keys; train.py writes it")
    return {"groups": {str(group): str(name) for group, name in groups.items()}, "keys": [str(key) for key in keys]}


def by_sentence(check: Callable[[Any], Any]) -> Rule:
    """A check of `AdapterSpec`, whose error is a sentence of its own; tuples become lists, as in a stored config."""

    def rule(value: Any) -> Any:
        try:
            found = check(value)
        except ValueError as error:
            raise Sentence(str(error)) from None
        return list(found) if isinstance(found, tuple) else found

    return rule


class Sentence(ValueError):
    """An error of a rule that is a whole sentence, to be given to the user after the key."""
