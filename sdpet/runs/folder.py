"""The folder of a run: emptied when the run begins, and deleted if the run ends without a record.

Only what an unfinished run left is ever deleted. A folder with a record is moved to `.replaced/` before the run is done
again, as when its weights were lost.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from sdpet.config import RunConfig, with_paths
from sdpet.files.atomic import write_atomic
from sdpet.runs.checkpoint import checkpoint_file
from sdpet.runs.copies import write_identity
from sdpet.runs.record import CONFIG, FILE

REPLACED = ".replaced"
VALIDATION = "validation"


def prepare_run_folder(folder: Path, config: RunConfig, resumes: bool) -> None:
    """Make the run's folder with only config.yaml and identity.json in it.

    What an interrupted run left is deleted. A folder with a record is moved away, see `set_aside`.

    Parameters
    ----------
    folder : Path
        The run's folder.
    config : RunConfig
        Stored as config.yaml, with absolute paths.
    resumes : bool
        Whether the run resumes from a checkpoint; it then keeps its validation samples.
    """
    if (folder / FILE).exists():
        kept = set_aside(folder)
        if resumes and (kept / VALIDATION).is_dir():
            folder.mkdir()
            (kept / VALIDATION).rename(folder / VALIDATION)
    _clear(folder, keep_validation=resumes)
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, config)
    write_identity(folder, config)


def write_config(folder: Path, config: RunConfig) -> None:
    """Store the config of a run as its config.yaml, with absolute paths."""
    import yaml

    text = yaml.safe_dump(with_paths(config.values, Path.absolute), sort_keys=False, allow_unicode=True)
    write_atomic(folder / CONFIG, lambda file: file.write_text(text, encoding="utf-8"))


def set_aside(folder: Path) -> Path:
    """Move the folder of a run that is done again to `.replaced/` beside it, with its scores and evaluations.

    Parameters
    ----------
    folder : Path
        The run's folder.

    Returns
    -------
    Path
        Where it is now: `.replaced/<run_id>.<number>`.
    """
    place = folder.parent / REPLACED
    place.mkdir(exist_ok=True)
    taken = [int(path.suffix[1:]) for path in place.glob(f"{folder.name}.*") if path.suffix[1:].isdigit()]
    kept = place / f"{folder.name}.{max(taken, default=0) + 1}"
    folder.rename(kept)
    return kept


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
        if not (folder / FILE).exists():
            _clear(folder, keep_validation and checkpoint_file(folder).exists())


def _clear(folder: Path, keep_validation: bool) -> None:
    if not (keep_validation and (folder / VALIDATION).is_dir()):
        shutil.rmtree(folder, ignore_errors=True)
        return
    for item in folder.iterdir():
        if item.name != VALIDATION:
            shutil.rmtree(item) if item.is_dir() else item.unlink()
