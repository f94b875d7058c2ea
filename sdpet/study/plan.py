"""From the overrides of a sweep to jobs: composed, validated, named, without doubles and impossible cells."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict

from sdpet.record import Record
from sdpet.study.validate import InadmissiblePlacement, placement, run_folder, validate

UNNAMED = ("adapter", "adapter.din", "adapter.dout", "seed", "study", "output_root", "quiet", "logger", "sweeps")


@dataclass(frozen=True)
class Job:
    """One run of a study: its overrides on the command line, its validated config, its folder, and a name to show."""

    overrides: tuple[str, ...]
    config: dict[str, Any] = field(repr=False)
    folder: Path
    name: str

    def record(self) -> Record | None:
        return Record.find(self.folder)

    @property
    def complete(self) -> bool:
        """Finished and diverged runs are not done again; failed ones are."""
        record = self.record()
        return record is not None and record.status != "failed"


@dataclass(frozen=True)
class Plan:
    """jobs to do; dropped: names of cells that cannot exist; doubled: how many jobs were the same as another one."""

    jobs: list[Job]
    dropped: list[str]
    doubled: int


class Composer:
    """Composes the jobs of a sweep; jobs that differ only in values share one composition of the groups."""

    def __init__(self, loader: ConfigLoader, master: DictConfig) -> None:
        self._loader, self._master = loader, master
        self._composed: dict[tuple[str, ...], DictConfig] = {}
        self._parsed: dict[str, tuple[Override, bool]] = {}

    def __call__(self, overrides: Sequence[str]) -> DictConfig:
        from hydra._internal.config_loader_impl import ConfigLoaderImpl

        parsed = [self._parse(override) for override in overrides]
        values = [override for override, plain in parsed if plain]
        groups = tuple(str(override.input_line) for override, plain in parsed if not plain)
        if groups not in self._composed:
            config = self._loader.load_sweep_config(self._master, list(groups))
            with open_dict(config):
                del config["hydra"]
            self._composed[groups] = config
        config = copy.deepcopy(self._composed[groups])
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
        return config

    def _parse(self, text: str) -> tuple[Override, bool]:
        """The override, and whether it only sets a value (and chooses no group, adds or deletes no key)."""
        if text not in self._parsed:
            override = OverridesParser.create().parse_override(text)
            key = override.key_or_group
            changes_keys = override.is_add() or override.is_delete() or override.is_force_add()
            chooses = override.package is not None or bool(self._loader.get_group_options(key))
            self._parsed[text] = (override, not (changes_keys or chooses or key.startswith("hydra")))
        return self._parsed[text]


def make_plan(composer: Composer, sweep: Iterable[Sequence[str]]) -> Plan:
    """Raises for the first job that cannot be run (ValueError, or Hydra's error for one that does not compose)."""
    jobs: dict[Path, Job] = {}
    dropped: dict[str, None] = {}
    doubled = 0
    sweep = [list(overrides) for overrides in sweep]
    common = set(sweep[0]).intersection(*sweep) if sweep else set()
    for overrides in sweep:
        config = composer(overrides)
        try:
            checked = validate(config)
        except InadmissiblePlacement:
            dropped[str(placement(OmegaConf.to_container(config.adapter)))] = None  # type: ignore[arg-type]
            continue
        folder = run_folder(checked)
        if folder in jobs:
            doubled += 1
        else:
            named = name_of(checked, [override for override in overrides if override not in common])
            jobs[folder] = Job(tuple(overrides), checked, folder, named)
    return Plan(list(jobs.values()), list(dropped), doubled)


def name_of(config: dict[str, Any], overrides: Sequence[str] = ()) -> str:
    """For people: "attn2o-ffni seed 1", and what else is told of (what sets a job apart from the others)."""
    parts = [placement(config["adapter"]) or config["adapter"]["method"], f"seed {config['seed']}"]
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if key not in UNNAMED and not key.startswith("hydra"):
            parts.append(f"{key.rpartition('.')[2]} {value}")
    return " ".join(parts)
