"""The folder of a run under way: begun empty, and cleared away when the run ends without a record."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sdpet.runs.checkpoint import checkpoint_file
from sdpet.runs.record import FILE, Record


def start_afresh(folder: Path, config: dict[str, Any], goes_on: bool) -> None:
    """An empty folder but for config.yaml; what an interrupted or failed run left is removed, its record first.

    goes_on: from a checkpoint, so that validation samples of the steps already done stay.
    """
    import yaml

    (folder / FILE).unlink(missing_ok=True)
    _clear(folder, keep_validation=goes_on)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")


def clear_unfinished(folders: Sequence[Path], keep_validation: bool = True) -> None:
    """Leave nothing half done, and all that is done: a stop can strike just after a record was written.

    keep_validation: where a checkpoint lets the run go on, its validation samples stay.
    """
    for folder in folders:
        if Record.find(folder) is None:
            _clear(folder, keep_validation and checkpoint_file(folder).exists())


def _clear(folder: Path, keep_validation: bool) -> None:
    if not (keep_validation and (folder / "validation").is_dir()):
        shutil.rmtree(folder, ignore_errors=True)
        return
    for item in folder.iterdir():
        if item.name != "validation":
            shutil.rmtree(item) if item.is_dir() else item.unlink()
