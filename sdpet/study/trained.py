"""Runs of a study that differ in nothing but sampler and eval train once: the others score the same weights.

`.trained/<training_id>` beside the run folders holds the run_id of a run that has trained these weights.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdpet.files import atomically
from sdpet.record import Record
from sdpet.study.validate import training_id

WEIGHTS = (".safetensors", ".json")
NOT_WEIGHTS = ("record.json",)


def remember_training(folder: Path, config: Mapping[str, Any]) -> None:
    """To be called when the run in `folder` has its record."""
    note = folder.parent / ".trained" / training_id(config)
    note.parent.mkdir(exist_ok=True)
    atomically(note, lambda file: file.write_text(folder.name + "\n", encoding="utf-8"))


def trained_before(folder: Path, config: Mapping[str, Any]) -> Record | None:
    """The record of another finished run of this study with the very same training, or None."""
    try:
        name = (folder.parent / ".trained" / training_id(config)).read_text(encoding="utf-8").strip()
    except OSError:
        return None
    other = folder.parent / name
    if not name or other == folder or not any(other.glob("*.safetensors")):
        return None
    record = Record.find(other)
    return record if record is not None and record.status == "finished" else None


def take_weights(source: Path, folder: Path) -> None:
    """The saved weights of a run in another run's folder, by hard link where the file system has them."""
    for file in sorted(source.iterdir()):
        if file.suffix in WEIGHTS and file.name not in NOT_WEIGHTS:
            try:
                os.link(file, folder / file.name)
            except OSError:
                shutil.copyfile(file, folder / file.name)
