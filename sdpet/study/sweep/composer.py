"""Compose the configs of a sweep's jobs as Hydra does, without composing each job from its files."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from sdpet.config import asked_for

_JOB = re.compile(r"\$\{hydra:job\.(num|id)\}")  # Hydra's interpolation of the number of a job
Value = bool | int | float | str | None


@dataclass(frozen=True)
class _Given:
    """A parsed override; `sets` says whether it only sets a value (it chooses no group, adds or deletes no key)."""

    override: Override
    sets: bool
    key: str
    value: Any
    is_plain: bool
    refers: bool


class Composer:
    """Composes the jobs of a sweep as Hydra does, but composes once for jobs that differ only in plain values.

    A plain value is one that no interpolation refers to. It is set on a copy of the composed and resolved config, which
    shares with other jobs the groups that are alike. This is fast enough to plan a study of 20,000 runs in seconds.
    Nobody may change a composed config.

    Parameters
    ----------
    loader : ConfigLoader
        Hydra's loader.
    master : DictConfig
        The config of the sweep.
    """

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self._loader, self._master = _reading_once(loader), master
        self._grouped: dict[tuple[str, ...], DictConfig] = {}
        self._choices: dict[tuple[str, ...], dict[str, Any]] = {}  # the options of all groups
        self._resolved: dict[tuple[str, ...], dict[str, Any] | None] = {}
        self._plain: dict[tuple[str, ...], dict[str, Value]] = {}  # plain values by key
        self._parsed: dict[str, _Given] = {}
        self._is_group: dict[str, bool] = {}
        self._changed: dict[tuple[Any, ...], dict[str, Any]] = {}  # groups with some plain values
        self._asked: dict[tuple[Any, ...], dict[str, Any]] = {}
        self._numbers: dict[tuple[str, ...], dict[str, str]] = {}

    def __call__(self, overrides: Sequence[str]) -> dict[str, Any] | DictConfig:
        """The resolved config of one job; an OmegaConf config if a value is missing."""
        parsed = [self._parse(override) for override in overrides]
        groups = tuple(str(one.override.input_line) for one in parsed if not one.sets)
        values = [one for one in parsed if one.sets]
        plain = self._settable(groups)
        if any(one.refers for one in values):
            plain = {}  # a value that is set later could be one that is referred to here
        simple = {one.key: one for one in values if one.is_plain and one.key in plain}
        rest = [one.override for one in values if one.key not in simple]
        shared = (*groups, "", *(str(override.input_line) for override in rest))
        if shared not in self._resolved:
            self._resolved[shared] = _resolved(self._with_values(groups, rest))
        template = self._resolved[shared]
        if template is None:
            return self._with_values(groups, [one.override for one in values])
        keys = tuple(one.key for one in parsed)
        if (groups, keys) not in self._asked:
            self._asked[groups, keys] = asked_for(self._choices[groups], overrides)
        config = template | {"asked": self._asked[groups, keys]}
        inside: dict[str, list[_Given]] = {}  # by group
        for key, one in simple.items():
            group, dot, _ = key.partition(".")
            if dot:
                inside.setdefault(group, []).append(one)
            else:
                config[key] = one.value
        for group, given in inside.items():
            change = (shared, group, *(str(one.override.input_line) for one in given))
            if change not in self._changed:
                self._changed[change] = _with_changes(template[group], given)
            config[group] = self._changed[change]
        return config

    def numbered(self, overrides: Sequence[str], number: int) -> list[str]:
        """The overrides with the number of the job in the sweep where they, or the config, refer to it.

        The number is written into the overrides, so that a job keeps it when it is composed again.
        """
        found = [_with_number(text, number) for text in overrides]
        parsed = [self._parse(text) for text in found]
        referring = self._referring(tuple(str(one.override.input_line) for one in parsed if not one.sets))
        if referring:
            given = {one.key for one in parsed}
            found += [f"{key}={_with_number(value, number)}" for key, value in referring.items() if key not in given]
        return found

    def _referring(self, groups: tuple[str, ...]) -> dict[str, str]:
        """The values of this composition that refer to the number of the job, by key."""
        if groups not in self._numbers:
            leaves = _leaves(OmegaConf.to_container(self._compose(groups), resolve=False))
            self._numbers[groups] = {k: v for k, v in leaves if isinstance(v, str) and _JOB.search(v)}
        return self._numbers[groups]

    def _settable(self, groups: tuple[str, ...]) -> dict[str, Value]:
        """The plain values of this composition by key."""
        if groups not in self._plain:
            content = OmegaConf.to_container(self._compose(groups), resolve=False)
            leaves = dict(_leaves(content))
            texts = [value for value in leaves.values() if isinstance(value, str) and "${" in value]
            simple = [re.fullmatch(r"\$\{([\w.]*\w)\}", text) for text in texts]
            if any(match is None or match[1].startswith(".") for match in simple):
                self._plain[groups] = {}  # with resolvers or relative references, Hydra composes every job
            else:
                used = {match[1] for match in simple if match}
                self._plain[groups] = {
                    key: value
                    for key, value in leaves.items()
                    if value != "???" and not any(key == name or key.startswith(f"{name}.") for name in used)
                }
        return self._plain[groups]

    def _compose(self, groups: tuple[str, ...]) -> DictConfig:
        if groups not in self._grouped:
            config = self._loader.load_sweep_config(self._master, list(groups))
            self._choices[groups] = dict(config.hydra.runtime.choices)
            with open_dict(config):
                del config["hydra"]
            self._grouped[groups] = config
        return self._grouped[groups]

    def _with_values(self, groups: tuple[str, ...], values: list[Override]) -> DictConfig:
        config = copy.deepcopy(self._compose(groups))
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
        return config

    def _parse(self, text: str) -> _Given:
        if text not in self._parsed:
            override = OverridesParser.create().parse_override(text)
            key = override.key_or_group
            changes_keys = override.is_add() or override.is_delete() or override.is_force_add()
            if key not in self._is_group:  # Hydra reads folders to answer this
                self._is_group[key] = bool(self._loader.get_group_options(key))
            chooses = override.package is not None or self._is_group[key]
            sets, value = not (changes_keys or chooses or key.startswith("hydra")), override.value()
            refers = sets and "${" in str(value)
            self._parsed[text] = _Given(override, sets, key, value, _is_plain(value), refers)
        return self._parsed[text]


def _with_number(text: str, number: int) -> str:
    return _JOB.sub(str(number), text) if "${" in text else text


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float) or (isinstance(value, str) and "$" not in value)


def _leaves(content: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Values other than mappings, by dotted key; a list is given as text, so that its references are found."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _leaves(value, f"{name}.{key}".lstrip("."))
    else:
        yield name, str(content) if isinstance(content, list) and "${" in str(content) else content


def _resolved(config: DictConfig) -> dict[str, Any] | None:
    """The config as plain mappings; None if a value is missing, which `validate` will report."""
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException:
        return None
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _with_changes(group: dict[str, Any], given: Iterable[_Given]) -> dict[str, Any]:
    """A copy of a group of the config with some values set."""
    changed = copy.deepcopy(group)
    for one in given:
        *path, last = one.key.split(".")[1:]
        place = changed
        for name in path:
            place = place[name]
        place[last] = one.value
    return changed


class _FilesReadOnce(ConfigRepository):
    """The files of a config, each read and parsed once; Hydra's own repository reads all of them for every job.

    Parameters
    ----------
    sources : list of ConfigSource
        The folders and packages of the search path.
    known : dict
        What was read, by the file's name. Copies share it, as Hydra copies a repository before each use and then adds
        the folders of hydra.searchpath, which are the same for all jobs of a sweep.
    """

    def __init__(self, sources: list[ConfigSource], known: dict[str, ConfigResult | None]) -> None:
        self.sources, self._known = sources, known

    def __deepcopy__(self, memo: dict[int, Any]) -> _FilesReadOnce:
        return _FilesReadOnce(list(self.sources), self._known)

    def load_config(self, config_path: str) -> ConfigResult | None:
        if config_path not in self._known:
            self._known[config_path] = super().load_config(config_path)
        return copy.deepcopy(self._known[config_path])  # Hydra takes parts of it into the config that it composes


def _reading_once(loader: ConfigLoader) -> ConfigLoader:
    """A loader that reads each file once; the loader itself if it is not Hydra's own."""
    if type(loader) is not ConfigLoaderImpl or type(loader.repository) is not ConfigRepository:
        return loader
    found = copy.copy(loader)
    found.repository = _FilesReadOnce(loader.repository.sources, {})
    return found
