"""Find runs on disk, read their configs, and attach their designs to a base model."""

from __future__ import annotations

import glob
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpet.config import RunConfig, with_paths
from sdpet.files.received import read_yaml
from sdpet.files.trust import require_trusted_targets
from sdpet.runs.record import FILE

if TYPE_CHECKING:
    from sdpet.models import BaseModel

CONFIG = "config.yaml"
NEEDED = ("adapter", "unet", "task", "data", "trainer", "sampler", "eval")  # groups that every version stored


def find_runs(given: Any) -> list[Path]:
    """Find the folders of runs.

    Parameters
    ----------
    given : str or list of str
        A run's folder, a study's folder (for all its runs), a pattern such as "outputs/*/0123456789ab", or a list of
        these.

    Returns
    -------
    list of Path
        The folders that have a record. A single folder is returned without this check.

    Raises
    ------
    ValueError
        No run was found.
    """
    items = [str(item) for item in given] if not isinstance(given, str) else [given]
    found: dict[Path, None] = {}
    for item in items:
        text = str(Path(item).expanduser())
        folders = [Path(match) for match in sorted(glob.glob(text))] if glob.has_magic(text) else [Path(text)]
        for folder in folders:
            inside = sorted(path.parent for path in folder.glob(f"*/{FILE}"))
            is_run = (folder / "config.yaml").exists()
            found.update(dict.fromkeys([folder] if is_run or not inside else inside))
    runs = [folder for folder in found if len(items) == len(found) == 1 or (folder / FILE).exists()]
    if not runs:
        raise ValueError(f"{', '.join(items)}: there is no finished run; run is a folder outputs/<study>/<run_id>.")
    return runs


def stored_config(folder: Path, trust: bool = False) -> RunConfig:
    """Read the stored config of a run; `validate(config.values)` checks it.

    Parameters
    ----------
    folder : Path
        The run's folder.
    trust : bool
        Whether the config may name code that is not sdpet's own, see `sdpet.files.require_trust`.

    Returns
    -------
    RunConfig
        The config. `study` and `output_root` name the current place of the folder, since studies may be moved.

    Raises
    ------
    ValueError
        The folder is not that of a run, or its config cannot be read, refers to something outside itself, or names
        code that the user has not said to trust.
    """
    config = untrusted_config(folder)
    require_trusted_targets(config.values, folder / CONFIG, trust)
    return config


def untrusted_config(folder: Path) -> RunConfig:
    """`stored_config` for callers that create nothing that the config names by a Python path."""
    try:
        config = read_yaml(folder / CONFIG)
    except FileNotFoundError:
        raise ValueError(f"{folder} holds no {CONFIG}; run must be a run's folder, outputs/<study>/<run_id>.") from None
    if not isinstance(config, dict) or not all(isinstance(config.get(group), dict) for group in NEEDED):
        raise ValueError(f"{folder / CONFIG} is not the config of a run.")
    config = _from_its_own_place(config, folder)
    study = folder.resolve().parent
    if (Path(str(config.get("output_root"))).expanduser() / str(config.get("study"))).resolve() != study:
        config |= {"output_root": str(study.parent), "study": study.name}
    return RunConfig(config)


def _from_its_own_place(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Relative paths, which older versions stored, as they were meant: from the folder in which output_root began."""
    root, place = Path(str(config.get("output_root"))), folder.resolve().parent.parent
    if root.is_absolute() or place.parts[-len(root.parts) :] != root.parts:
        return config
    began = Path(*place.parts[: len(place.parts) - len(root.parts)])
    return with_paths(config, lambda path: path if path.exists() else began / path)


@contextmanager
def tuned(base: BaseModel, folders: Sequence[Path], forms: Collection[str] = ()) -> Iterator[list[int]]:
    """Attach the designs saved in `folders` to `base` inside the block; yields the order of their rows in a batch.

    `forms` are the paths of form classes that the user, or a config that passed the checks, has named.
    """
    from sdpet.adapters import Fleet
    from sdpet.methods import load

    with ExitStack() as stack:
        if len(folders) == 1:
            stack.callback(load(base, folders[0], strict=True, trust=forms).detach)
            yield [0]
            return
        members: list[Any] = []
        for folder in folders:
            members.append(load(base, folder, strict=True, trust=forms))
            members[-1].detach()  # it keeps its weights
        fleet = Fleet(base.unet, members)
        stack.callback(fleet.detach)
        yield fleet.active
