"""Which settings of a study are factors, and under which names they are shown. Nothing here imports torch.

Planning, recording and loading all ask this module, so that a key that varies is the same factor everywhere. The name
of a key depends on the key alone: further runs never rename a factor.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import PurePath
from typing import Any

from sdpet.config.ids import WAYS as OF_TRAINER
from sdpet.config.run_config import RunConfig
from sdpet.config.schema import RULES
from sdpet.config.settings import CONTENT, chosen_keys, defaults, settings_of

Settings = Mapping[str, Any]
# The factors that every record has, and their keys; the placement joins din and dout.
FACTORS = {
    "placement": "", "din": "adapter.din", "dout": "adapter.dout", "activation": "adapter.activation",
    "mid_dim": "adapter.mid_dim", "scale": "adapter.scale", "init": "adapter.init", "method": "adapter.method",
    "lr": "trainer.lr", "steps": "trainer.steps", "guidance": "sampler.guidance", "seed": "seed",
}  # fmt: skip
# Names of columns of a run that are no settings. A key of this name is shown with its group.
TAKEN = (
    "study", "run_id", "trained_in", "status", "reason", "path", "protocol_hash", "component", "name", "kind",
    "trainable_params", "adapters", "bytes", "peak_memory", "residual", "design", "unit", "training", "adapter", "unet",
    "task", "data", "trainer", "sampler", "eval", "logger", "image", "images", "prompt", "sample", "step", "epoch",
    "file", "run",
)  # fmt: skip
# A key on the left decides those on the right: where they differ only with it, they are no factors of their own.
# A name that ends in a dot stands for all keys that begin so. A chosen group decides its own keys, too.
DECIDES = {
    "task": ("data", "data.", "trainer.batch_size"),
    "unet": ("sampler.guidance", "data.class_guidance", "adapter.params", "adapter.mid_dim"),
    "adapter.method": ("adapter.", "trainer.lr", "trainer.steps"),
    "adapter.mid_dim": ("adapter.params",),
    "data.subject": ("data.", "eval.prompts"),
    "data.subject_dir": ("data.",),
    "data.noun": ("data.prompt", "data.class_prompt"),
    "data.class_word": ("data.prompt", "data.class_prompt", "data.class_dir"),
    "data.token": ("data.prompt",),
}
FIRST = ("task", "data", "unet", "adapter.method")  # decide before others
# Keys that say how a run is computed, and not what. They are factors only where some design was run in several ways.
WAYS = tuple(f"trainer.{key}" for key in OF_TRAINER)
COMPUTED = "(how runs are computed)"  # what such keys follow where no design was run in several ways
ABSENT = "default"  # the level of a run whose config lacks an option of an open group, such as form.gates


@dataclass(frozen=True)
class Varying:
    """The settings that vary in a collection of runs.

    Attributes
    ----------
    levels : dict
        By shown name of each factor beyond `FACTORS`, a level for each run: a number, a text, or None for a run that
        does not have the factor. A value null is the text "null".
    keys : dict of str to str
        The key of each of these factors.
    follow : dict of str to str
        Keys that differ only with another one, and this other one. They are no factors of their own.
    """

    levels: dict[str, list[Any]] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    follow: dict[str, str] = field(default_factory=dict)

    @property
    def idle(self) -> set[str]:
        """Those of `FACTORS` that only follow another setting."""
        return {name for name, key in FACTORS.items() if key in self.follow}


def shown_name(key: str) -> str:
    """The name under which a key of the config is shown as a factor.

    Parameters
    ----------
    key : str
        A dotted key, or the name of a group.

    Returns
    -------
    str
        The last part of the key, or more of it where another key ends alike; the names of `FACTORS` come first.

    >>> [shown_name(key) for key in ("trainer.steps", "sampler.steps", "task.min_snr", "sampler", "eval.scorer.model")]
    ['steps', 'sampler.steps', 'min_snr', 'sampler', 'scorer.model']
    """
    known = {path: name for name, path in FACTORS.items()}
    if key in known:
        return known[key]
    parts = key.split(".")
    if parts[-1] == "_target_" and len(parts) > 1:  # names the class of what the key before it is
        parts = parts[:-1]
    if len(parts) == 1:
        return parts[0]
    if len(parts) > 2:
        return ".".join(parts[-2:])
    return parts[-1] if _endings()[parts[-1]] == (".".join(parts) in _schema_keys()) else ".".join(parts)


@cache
def _schema_keys() -> frozenset[str]:
    return frozenset(f"{group}.{key}" for group, rules in RULES.items() if group for key in rules)


@cache
def _endings() -> Counter[str]:
    """How many things bear a name: keys of the config, factors of every record, and other columns of a run."""
    keys = [key for group, rules in RULES.items() if group != "logger" for key in rules]
    own = {path.rpartition(".")[2] for path in FACTORS.values()}
    return Counter([*keys, *(name for name in FACTORS if name not in own), *TAKEN])


def varying(settings: Sequence[Settings | None]) -> Varying:
    """Decide which settings of some runs are factors.

    Parameters
    ----------
    settings : sequence of mapping or None
        What `settings_of` gave for each run; None for a run whose settings are not known.

    Returns
    -------
    Varying
        The factors beyond `FACTORS`, with the levels of all runs.
    """
    known = [i for i, one in enumerate(settings) if one]
    runs = [settings[i] for i in known]
    columns = _varying_columns(runs)  # type: ignore[arg-type]
    follow = following(columns)
    follow |= {key: COMPUTED for key in _ways_apart(columns) if key not in follow}
    found = Varying(follow=follow)
    own = [key for key in columns if key not in follow and key not in FACTORS.values()]
    names = Counter(shown_name(key) for key in own)
    for key in own:
        name = shown_name(key) if names[shown_name(key)] == 1 else key
        levels: list[Any] = [None] * len(settings)
        for i, level in zip(known, _levels(key, runs, columns), strict=True):  # type: ignore[arg-type]
            levels[i] = level
        found.levels[name], found.keys[name] = levels, key
    return found


def _varying_columns(runs: Sequence[Settings]) -> dict[str, list[str]]:
    """By key that varies, a text for each run that tells its values apart; groups come before their keys."""
    neutral, found = defaults(), {}
    for key in _differing(runs, neutral):
        content = key + CONTENT
        texts = [_token(one.get(content) or one.get(key, neutral.get(key, _Absent))) for one in runs]
        told = set(texts) - ({ABSENT} if "." not in key or key in _schema_keys() else set())
        if len(told) > 1 and ("." in key or ABSENT not in texts):
            found[key] = texts
    return dict(sorted(found.items(), key=lambda item: (item[0].count(".") > 0, item[0])))


def _differing(runs: Sequence[Settings], neutral: Settings) -> list[str]:
    """The keys whose values are not equal in all runs; of 10,000 runs in a fraction of a second."""
    first: dict[str, Any] = {}
    found: dict[str, None] = {}
    for one in runs:
        if not first:
            first = {**neutral, **one}
        for key, value in one.items():
            if key not in first or first[key] != value:
                found[key.removesuffix(CONTENT)] = None
        if len(one) < len(first):
            found |= dict.fromkeys(key for key in first if key not in one and first[key] != neutral.get(key, _Absent))
    return [key for key in found if not key.endswith(CONTENT)]


class _Absent:
    """Marks a key that a config does not have."""


def _token(value: Any) -> str:
    if value is _Absent:
        return ABSENT
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # W&B keeps 20.0 as 20
    if isinstance(value, int | str):  # of thousands of runs, quickly
        return _text_of(value, type(value).__name__)
    return json.dumps(value, sort_keys=True, default=str)


@lru_cache(maxsize=100_000)
def _text_of(value: int | str, kind: str) -> str:
    """JSON of a value; `kind` tells true and 1 apart."""
    return json.dumps(value)


def following(columns: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The keys that differ only with another one, which decides them, with this other one.

    Parameters
    ----------
    columns : mapping of str to sequence of str
        By key, its level in each run.

    Returns
    -------
    dict of str to str
    """
    follow: dict[str, str] = {}
    deciding = [*(k for k in FIRST if k in columns), *(k for k in columns if k not in FIRST)]
    for decider in deciding:
        if decider in follow:
            continue
        for key in columns:
            if key != decider and key not in follow and _decides(decider, key) and _is_function(columns, key, decider):
                follow[key] = decider
    return follow


def _ways_apart(columns: Mapping[str, Sequence[str]]) -> list[str]:
    """The keys of `WAYS` that vary, but never between runs that are otherwise alike."""
    others = [texts for key, texts in columns.items() if key not in WAYS]
    found = []
    for key in (key for key in WAYS if key in columns):
        alike = list(zip(*others, strict=True)) or [()] * len(columns[key])
        if len(set(zip(alike, columns[key], strict=True))) == len(set(alike)):
            found.append(key)
    return found


def _decides(decider: str, key: str) -> bool:
    stem = decider.removesuffix("._target_").removesuffix(".name")
    own = "." not in decider or stem != decider or stem.rpartition(".")[2] in RULES
    if own and (key.startswith(f"{stem}.") or key.startswith(f"{stem.rpartition('.')[2]}.")):
        return True
    return any(key.startswith(part) if part.endswith(".") else key == part for part in DECIDES.get(decider, ()))


def _is_function(columns: Mapping[str, Sequence[str]], key: str, decider: str) -> bool:
    pairs = set(zip(columns[decider], columns[key], strict=True))
    return len(pairs) == len(set(columns[decider]))


def _levels(key: str, runs: Sequence[Settings], columns: Mapping[str, Sequence[str]]) -> list[Any]:
    """The level of each run: numbers where all values are, else texts; None where a method has no such key."""
    neutral = defaults()
    values = [one.get(key, neutral.get(key, _Absent)) for one in runs]
    if key.startswith("adapter."):  # what another method leaves out is no level of this factor
        others = [one.get("adapter.method", "adapter") != "adapter" for one in runs]
        if any(others) and not all(others):
            lacking = [other and value in (None, _Absent) for other, value in zip(others, values, strict=True)]
            kept = iter(_plain([v for v, lacks in zip(values, lacking, strict=True) if not lacks]))
            return [None if lacks else next(kept) for lacks in lacking]
    if any(one.get(key + CONTENT) for one in runs):
        values = _short_paths(values, columns[key])
    if key not in _schema_keys():
        return _plain(values)
    kept = iter(_plain([value for value in values if value is not _Absent]))
    return [None if value is _Absent else next(kept) for value in values]


def _plain(values: Sequence[Any]) -> list[Any]:
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return list(values)
    return [level_text(value) for value in values]


def level_text(value: Any) -> str:
    """A value of the config as people type it.

    >>> [level_text(value) for value in (None, True, 0.9, "cosine", ["fid", "kid"])]
    ['null', 'true', '0.9', 'cosine', '[fid, kid]']
    """
    if value is _Absent:
        return ABSENT
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(level_text, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _short_paths(values: Sequence[Any], contents: Sequence[str]) -> list[Any]:
    """Paths by as many of their last parts as tell them apart; one content has one name, however it was given."""
    first: dict[str, Any] = {}
    for content, value in zip(contents, values, strict=True):
        first.setdefault(content, value)
    for count in range(1, 20):
        names = {
            content: "/".join(PurePath(value).parts[-count:]) if isinstance(value, str) else value
            for content, value in first.items()
        }
        if len(set(names.values())) == len(names):
            return [names[content] for content in contents]
    short = {content: content.strip('"')[:6] for content in first}
    return [f"{first[content]} ({short[content]})" for content in contents]


def named_settings(config: RunConfig) -> dict[str, Any]:
    """Every setting of a run under the name of its factor, beyond `FACTORS`; for loggers, which compare runs."""
    return {
        shown_name(key): value
        for key, value in settings_of(config).items()
        if key not in FACTORS.values() and not key.endswith(CONTENT)
    }


def given_factors(config: RunConfig) -> dict[str, Any]:
    """The settings that were given for a run, by hand or by a sweep, under the names of their factors.

    Those in `FACTORS` are left out, since each record has them in any case.
    """
    given, settings = set(chosen_keys(config)), settings_of(config)
    return {
        shown_name(key): level_text(value) if isinstance(value, list) else value
        for key, value in settings.items()
        if key not in FACTORS.values()
        and not key.endswith(CONTENT)
        and (key in given or any(key.startswith(f"{one}.") for one in given if "." in one))
    }
