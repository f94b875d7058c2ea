"""The overrides of each job of a sweep: all combinations of the values that are listed."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType

from sdpet.config.dreambench import ALL, read_dreambench
from sdpet.files.terminal import did_you_mean

ONE_VALUE = ("study", "output_root")  # where all runs of a sweep lie


def combinations(
    loader: ConfigLoader, params: Mapping[str, Any], arguments: Sequence[str], replicates: int | None = None
) -> list[list[str]]:
    """The overrides of each job.

    Parameters
    ----------
    loader : ConfigLoader
        Hydra's loader, which knows the groups that a value such as glob(*) stands for.
    params : mapping
        Levels that the config asks for, by key.
    arguments : sequence of str
        Overrides of the command line; a later value of a key replaces an earlier one.
    replicates : int, optional
        A number of seeds, 0, 1, 2, ..., in the place of seed=...

    Returns
    -------
    list of list of str
        The first sweep varies slowest.

    Raises
    ------
    ValueError
        A key is given twice or without a value, or one study would have two folders.
    """
    parser = OverridesParser.create(config_loader=loader)
    levels: dict[str, list[str]] = {}
    given = [f"{key}={value}" for key, value in params.items()]
    if replicates is not None:
        if any(argument.startswith("seed=") for argument in arguments):
            raise ValueError("give hydra.sweeper.replicates (a number of seeds) or seed=..., not both.")
        given = [f"seed=range(0,{replicates})", *(text for text in given if not text.startswith("seed="))]
    asked: dict[str, Override] = {}  # on the command line
    for number, override in enumerate(parser.parse_overrides([*given, *arguments])):
        key = override.get_key_element()
        if number >= len(given):
            before = asked.setdefault(key, override)
            if before is not override and before.is_sweep_override():  # its levels would be lost
                raise ValueError(
                    f"{key} is given twice, {before.input_line} and {override.input_line}; list its values once."
                )
        if not override.is_sweep_override():
            levels[key] = [override.input_line or ""]
        elif override.is_discrete_sweep():
            levels[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            raise ValueError(f"{override.input_line}: list the values, {key}=A,B,C, or give range(A,B).")
        if key in ONE_VALUE and len(levels[key]) > 1:
            raise ValueError(f"{override.input_line}: a sweep is one study in one folder; give {key} one value.")
        if key.split("/")[0].split(".")[0] == "hydra" and len(levels[key]) > 1:
            raise ValueError(f"{override.input_line}: {key} is of the whole command, not of a run; give it one value.")
        if not levels[key]:
            groups = loader.list_groups("")
            if override.value_type == ValueType.GLOB_CHOICE_SWEEP and not loader.get_group_options(key):
                raise ValueError(f"{override.input_line}: there is no group {key}{did_you_mean(key, groups)}.")
            raise ValueError(f"{override.input_line} gives no value; list at least one.")
    _expand_subjects(levels)
    return [list(job) for job in itertools.product(*levels.values())]


def _expand_subjects(levels: dict[str, list[str]]) -> None:
    """Replace data.subject=all by every subject of the data set."""
    if levels.get("data.subject") == [f"data.subject={ALL}"] and "data=dreambench" in levels.get("data", []):
        if len(roots := levels.get("data.root", [])) != 1:
            raise ValueError("data.subject=all needs one data.root=FOLDER.")
        root = roots[0].partition("=")[2].strip("'\"")
        levels["data.subject"] = [f"data.subject='{name}'" for name in read_dreambench(root).classes]


def split_by_commas(said: str, sweep: Sequence[Sequence[str]]) -> str:
    """How one text with commas is given, where the error is about texts that commas separate."""
    values: dict[str, set[str]] = {}
    for key, _, value in (override.lstrip("+").partition("=") for job in sweep for override in job):
        values.setdefault(key, set()).add(value)
    for key, texts in values.items():
        if len(texts) > 1 and key in said and " " in "".join(texts):
            return (
                f" ({key} has {len(texts)} values here, as commas separate them; "
                f"one text with commas is '{key}=\"A, B\"'.)"
            )
    return ""
