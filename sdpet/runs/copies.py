"""Runs of a study that differ only in the way they were computed: on another device, in another precision, ...

They answer the same question, so a run that a study has in one way is not done again in another one. The file
identity.json of a run's folder has its `identity`, from which question and way follow. Nothing here imports torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdpet.config import RunConfig, identity, question_of, run_folder, ways_of
from sdpet.files.atomic import write_atomic
from sdpet.runs.stored import untrusted_config

FILE = "identity.json"


@dataclass(frozen=True)
class Origin:
    """The question that a run answers, and the way in which it was computed, by the key in `trainer`."""

    question: str
    ways: Mapping[str, Any]

    @classmethod
    def of(cls, config: RunConfig) -> Origin:
        """Question and way of a config."""
        found = identity(config)
        return cls(question_of(found), ways_of(found))

    @classmethod
    def read(cls, folder: Path) -> Origin | None:
        """Question and way of a run on disk; None if its identity was not stored, as by older versions."""
        try:
            found = json.loads((folder / FILE).read_text(encoding="utf-8"))["identity"]
            return cls(question_of(found), ways_of(found))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def key(self, asked: Sequence[str]) -> str:
        """A key that is equal for runs that answer the same question, where the ways `asked` are part of it."""
        return json.dumps([self.question, *(self.ways.get(name) for name in asked)])


def write_identity(folder: Path, config: RunConfig) -> None:
    """Store what the id of a run is made of, with the digests of its inputs.

    Parameters
    ----------
    folder : Path
        The run's folder.
    config : RunConfig
        Its config.
    """
    text = json.dumps({"run_id": folder.name, "identity": identity(config)}, indent=1) + "\n"
    write_atomic(folder / FILE, lambda file: file.write_text(text, encoding="utf-8"))


def same_inputs(folder: Path, config: RunConfig) -> bool:
    """Whether data and base model of a config have the content that a stored run was made with, wherever they are.

    Parameters
    ----------
    folder : Path
        The run's folder.
    config : RunConfig
        The run's config, with other paths, sampler or eval.

    Returns
    -------
    bool
    """
    found = identity(config)
    try:
        stored = json.loads((folder / FILE).read_text(encoding="utf-8"))["identity"]
        same_file = stored["adapter"].get("file") == found["adapter"].get("file")
        return same_file and all(stored[group] == found[group] for group in ("data", "unet"))
    except (OSError, ValueError, KeyError, TypeError):  # of an older version
        return run_folder(untrusted_config(folder).with_paths_of(config)).name == folder.name


def asked_ways(configs: Sequence[RunConfig]) -> list[str]:
    """The ways in which the runs of one command differ. Who sweeps a way asks about it: there it is a question."""
    found = [ways_of(config) for config in configs]
    return [key for key in (found[0] if found else {}) if len({str(ways[key]) for ways in found}) > 1]


def different_way(config: RunConfig, folder: Path) -> str:
    """In which way a run on disk was computed, as far as the config would do it in another one.

    Parameters
    ----------
    config : RunConfig
        The config asked for.
    folder : Path
        A run that answers the same question.

    Returns
    -------
    str
        Such as "trainer.device=cpu trainer.precision=32-true"; empty if it is not known.
    """
    found, asked = Origin.read(folder), ways_of(config)
    ways = found.ways if found else {}
    return " ".join(f"trainer.{key}={value}" for key, value in ways.items() if value != asked[key])
