"""The folder of a run: emptied when the run begins, and deleted if the run ends without a record."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from sdpet.config import RunConfig, with_paths
from sdpet.runs.checkpoint import checkpoint_file
from sdpet.runs.copies import write_identity
from sdpet.runs.record import FILE, Record


def prepare_run_folder(folder: Path, config: RunConfig, resumes: bool) -> None:
    """Make the run's folder with only config.yaml and identity.json in it.

    Files of an interrupted or failed run are deleted, its record first.

    Parameters
    ----------
    folder : Path
        The run's folder.
    config : RunConfig
        Stored as config.yaml, with absolute paths.
    resumes : bool
        Whether the run resumes from a checkpoint; it then keeps its validation samples.
    """
    import yaml

    (folder / FILE).unlink(missing_ok=True)
    _clear(folder, keep_validation=resumes)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(
        yaml.safe_dump(with_paths(config.values, Path.absolute), sort_keys=False, allow_unicode=True), encoding="utf-8"
    )
    write_identity(folder, config)


def remove_incomplete(folders: Sequence[Path], keep_validation: bool = True) -> None:
    """Delete runs without a record; keep complete ones, since an interrupt can arrive right after a record was written.

    Parameters
    ----------
    folders : sequence of Path
        Run folders.
    keep_validation : bool
        Whether to keep the validation samples of a run that can resume from a checkpoint.
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
