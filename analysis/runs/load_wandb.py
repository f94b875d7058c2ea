"""Runs from Weights & Biases: a project on a server, or folders of offline runs; one row a run.

Runs that sdpet logged hold their record (see sdpet/runs/loggers/wandb.py), so what is read is what run folders hold. Of
other runs the config and the numbers of the summary become columns, as in a CSV export.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.runs.records import FACTORS, Told, flatten
from analysis.runs.settings.factors import add_factors
from sdpet.config import plain_settings

PREFIX = "wandb:"
OFFLINE = ("offline-run-*", "run-*")  # folders of runs below a folder `wandb`
REPORT = "report_of"  # key in the config of a W&B run that holds the report of a study (analysis/dashboard.py)
NO_END = ("unknown", "running")  # how W&B's tool calls a file without an end: the run was killed, or is going on


@dataclass(frozen=True)
class Logged:
    """A run as W&B has it; state: finished, failed, crashed, killed, running, or unfinished in an offline file."""

    id: str
    state: str
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    where: str


def read_project(address: str, notes: list[str]) -> Told:
    """What the runs tell of the project at `wandb:entity/project`, or of one study of it (`.../project/study`).

    ValueError where there is no account, no such project or no run in it.
    """
    parts = address.removeprefix(PREFIX).strip("/").split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise ValueError(f"{address} is not a W&B project; write wandb:ENTITY/PROJECT or wandb:ENTITY/PROJECT/STUDY.")
    return _told([*_from_server("/".join(parts[:2]), parts[2] if len(parts) == 3 else None)], address, notes)


def read_offline(folder: Path, notes: list[str]) -> Told:
    """What the runs tell, of the offline runs in `folder`; of several tries of one run the last one counts."""
    found: dict[str, Logged] = {}
    for file in offline_files(folder):
        run = _inspect(file)
        if run is not None:
            found[run.id] = run
    return _told(list(found.values()), str(folder), notes)


def offline_files(folder: Path) -> list[Path]:
    """The logs of offline runs in a run's folder, a folder `wandb` or the folder above it, oldest first."""
    tops = [folder, folder / "wandb"]
    files = [*folder.glob("run-*.wandb"), *(f for top in tops for name in OFFLINE for f in top.glob(f"{name}/*.wandb"))]
    return sorted(files, key=lambda file: file.parent.name.partition("run-")[2])  # the name begins with the time


def _from_server(project: str, study: str | None) -> Iterator[Logged]:
    import wandb

    try:
        for run in wandb.Api().runs(project, filters={"group": study} if study else None, lazy=False):
            yield Logged(run.id, run.state, run.config, run.summary_metrics, run.url)
    except (wandb.errors.Error, ValueError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"W&B gives no runs of {project}: {said}") from None


def _inspect(file: Path) -> Logged | None:
    """An offline run as W&B's own tool reads it; None for a file that holds nothing yet."""
    from wandb.util import get_core_path

    # What `wandb leet inspect` runs; the command itself takes half a second more for each of the study's runs.
    place = ["--run-file", str(file.resolve()), str(file.resolve().parent.parent)]
    command = [get_core_path(), "leet", "inspect", "--summary", "--json", *place]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{file} cannot be read as a W&B run: {' '.join(done.stderr.split())}")
    told = json.loads(done.stdout)
    if not told.get("run_id"):
        return None
    state = "unfinished" if told["state"] in NO_END else told["state"]
    return Logged(told["run_id"], state, told.get("config") or {}, told.get("summary") or {}, str(file.parent))


def _told(runs: Iterable[Logged], source: str, notes: list[str]) -> Told:
    rows: list[dict[str, Any]] = []
    records: list[dict[str, Any]] = []
    metrics: dict[str, None] = {}
    for run in runs:
        if REPORT in run.config:
            continue
        if "record" not in run.summary and "run_id" not in run.config:
            rows.append(_foreign(run))
            continue
        record = run.summary.get("record") or _unfinished(run)
        rows.append({**flatten(record, Path("record.json")), "path": run.where})
        records.append(record)
        metrics.update(dict.fromkeys(record.get("metrics") or {}))
    if not rows:
        raise ValueError(f"{source} holds no W&B run.")
    if len(records) < len(rows):  # not all are sdpet's
        return Told(rows, list(metrics))
    return Told(rows, list(metrics), *add_factors(rows, records, [Path(row["path"]) for row in rows], notes))


def _unfinished(run: Logged) -> dict[str, Any]:
    """What is known of a run of sdpet that has no record at W&B."""
    status = "failed" if run.state in ("failed", "crashed", "killed", "finished") else run.state
    return {
        "study": run.config.get("study"),
        "run_id": run.config["run_id"],
        "status": status,
        "reason": run.summary.get("reason") or f"W&B says {run.state}",
        "factors": {key: run.config[key] for key in FACTORS if key in run.config},
        "task": {"name": run.config.get("task"), "data": run.config.get("data")},
        "settings": plain_settings(run.config["config"]) if isinstance(run.config.get("config"), Mapping) else {},
    }


def _foreign(run: Logged) -> dict[str, Any]:
    """A run that sdpet did not log, as a row of W&B's own CSV export. A setting that is None is a level like others."""
    config = {k: "None" if v is None else v for k, v in _leaves(run.config) if not k.startswith("_")}
    scores = {k: v for k, v in _leaves(run.summary) if not k.startswith("_") and isinstance(v, int | float)}
    return {"run_id": run.id, "status": run.state, **config, **scores}


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        elif value is None or isinstance(value, str | int | float | bool):
            yield f"{prefix}{key}", value
