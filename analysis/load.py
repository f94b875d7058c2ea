"""Read the runs of a study into a tidy frame, one row a run: from run folders, a CSV, W&B or a frame."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.load_wandb import PREFIX, offline_files, read_offline, read_project

FACTORS = (
    "placement", "din", "dout", "activation", "mid_dim", "scale", "init", "method", "lr", "steps", "guidance", "seed",
)  # fmt: skip
# What a run costs, in the units of record.json (counts, bytes, seconds).
COSTS = (
    "trainable_params", "adapters", "bytes", "seconds_train", "seconds_per_step", "seconds_sample", "seconds_score",
    "seconds_total", "peak_memory",
)  # fmt: skip
_IDENTITY = ("study", "run_id", "status", "reason", "task", "data", "path", "protocol_hash", "component")
_SMALLER_IS_BETTER = {"fid", "kid", "cmmd", "prior_drift", "loss", "mse", *COSTS}
_SIZES = {"trainable_params", "adapters", "bytes"}
_SECONDS = {"train", "per_step", "sample", "score", "total"}


def load_results(
    source: str | os.PathLike[str] | pd.DataFrame,
    status: str | None = "finished",
    mixed_protocols: str = "refuse",
    scores: str = "first",
) -> pd.DataFrame:
    """One row a run, with the factors, metrics, anchors and costs of each run as columns.

    source: a folder (every record.json below it is read, or else its offline runs of W&B), a CSV file, a frame that is
    already loaded, or a project at W&B, as "wandb:entity/project" or "wandb:entity/project/study". Columns of a W&B
    export such as `adapter.din` are also found under their last name. `placement` is added where only din and
    dout are given. status: keep only runs with this status (None keeps all); what is left out is said in
    `frame.attrs["notes"]`. mixed_protocols: "refuse" raises ValueError when a score of one task was made in different
    ways, because such scores cannot be compared; "flag" only notes it. scores, of a folder of runs: "first", those a
    run ended with; "last", the latest that evaluate.py added; or what it was asked for, such as "eval=paper".

    >>> import analysis
    >>> frame = analysis.load_results(pd.DataFrame({"din": ["a", "b"], "dout": ["c", "c"], "clip_i": [0.5, 0.6]}))
    >>> list(frame["placement"])
    ['a-c', 'b-c']
    """
    if mixed_protocols not in ("refuse", "flag"):
        raise ValueError(f"mixed_protocols is {mixed_protocols!r}; choose refuse or flag.")
    notes: list[str] = []
    if isinstance(source, pd.DataFrame):
        frame, metrics = source.copy(), list(source.attrs.get("metrics", []))
        notes += source.attrs.get("notes", [])
    else:
        path = Path(source)
        if str(source).startswith(PREFIX):
            rows, metrics = read_project(str(source), _flatten)
            frame = pd.DataFrame(rows)
        elif path.is_dir():
            frame, metrics = _read_folder(path, notes, scores)
        elif path.is_file():
            frame, metrics = _read_csv(path), []
        else:
            raise ValueError(
                f"{path} does not exist; give a study folder, a CSV file, a frame or wandb:ENTITY/PROJECT."
            )
    frame = _tidy(frame)
    if len(frame) == 0:
        raise ValueError("The results hold no run.")
    if status is not None and "status" in frame:
        frame = _keep_status(frame, status, notes)
    _check_protocols(frame, mixed_protocols, notes)
    frame = frame.reset_index(drop=True)
    frame.attrs["notes"] = notes
    if metrics:
        frame.attrs["metrics"] = metrics
    return frame


def load_paper_heatmap() -> pd.DataFrame:
    """The 20 placements of Xiang et al. (2023, arXiv 2303.18181): one CLIP similarity each, off the public heatmap.

    Columns din, dout, clip_similarity, placement, component. Accurate to about 0.002; no replicates.

    >>> load_paper_heatmap().shape
    (20, 5)
    """
    from analysis.design import components

    frame = pd.read_csv(Path(__file__).parent / "data" / "xiang2023_dreambooth_heatmap.csv")
    frame["placement"] = frame["din"] + "-" + frame["dout"]
    frame["component"] = components(frame, ["din", "dout"])
    return frame


def factor_columns(frame: pd.DataFrame, seed: bool = False) -> list[str]:
    """Names of the columns that are factors with at least two levels here; `seed` says whether the seed counts.

    In a frame of our records these are the known factors; in any other frame every text column, and whole numbers
    with at most 20 levels, that are not bookkeeping.

    >>> factor_columns(load_paper_heatmap())
    ['placement', 'din', 'dout']
    """
    known = [name for name in FACTORS if name in frame]
    taken = {*known, *_IDENTITY, *COSTS, *frame.attrs.get("metrics", [])}
    free = [c for c in frame.columns if c not in taken and not str(c).endswith("_protocol")]
    others = [str(c) for c in free if _looks_like_factor(frame[c])]
    if "metrics" in frame.attrs:
        others = []
    return [c for c in known + others if (seed or c != "seed") and frame[c].nunique() > 1]


def metric_columns(frame: pd.DataFrame) -> list[str]:
    """Names of the score columns: those of the records, or else every numeric column that is nothing else.

    >>> metric_columns(load_paper_heatmap())
    ['clip_similarity']
    """
    if "metrics" in frame.attrs:
        return [m for m in frame.attrs["metrics"] if m in frame]
    taken = {*FACTORS, *_IDENTITY, *COSTS}
    return [
        str(c)
        for c in frame.columns
        if c not in taken
        and not str(c).endswith(("_floor", "_ceiling", "_protocol"))
        and pd.api.types.is_numeric_dtype(frame[c])
        and not pd.api.types.is_bool_dtype(frame[c])
        and not _looks_like_factor(frame[c])
    ]


def higher_is_better(metric: str) -> bool:
    """Whether larger values of a metric are better (distances, drift, loss and costs are better when small)."""
    name = metric.lower()
    distance = {"fid", "kid", "cmmd"} & set(name.split("_"))  # clip_fid, fid_infinity
    return not (distance or name in _SMALLER_IS_BETTER or name.startswith(("fid", "kid", "loss")))


def metric_protocols(protocol: dict[str, Any]) -> dict[str, str]:
    """For each metric, twelve hex digits of how it was made; what only other metrics depend on does not enter.

    Empty for a protocol that does not tell metrics apart.
    """
    common = {key: protocol.get(key) for key in ("sampler", "eval_seed", "image_size", "image_bits", "score_dtype")}
    references = {key: value for key, value in protocol.items() if key.startswith("reference")}
    return {
        metric: protocol_hash(
            {**common, **(references if entry.get("against") == "references" else {}), "score": entry}
        )
        for metric, entry in (protocol.get("scores") or {}).items()
    }


def protocol_hash(protocol: dict[str, Any] | None) -> str:
    """Twelve hex digits of how the scores were made: scores compare only where it is equal."""
    return hashlib.sha256(json.dumps(_plain(protocol or {}), sort_keys=True, default=str).encode()).hexdigest()[:12]


def _plain(value: Any) -> Any:
    """Whole numbers as int: W&B keeps 20.0 as 20."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _looks_like_factor(column: pd.Series) -> bool:
    if pd.api.types.is_bool_dtype(column):
        return True
    if pd.api.types.is_integer_dtype(column):
        return column.nunique() <= 20
    return not pd.api.types.is_numeric_dtype(column)


def _find_records(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        if "record.json" in files:
            folders.clear()  # a run folder holds no other runs, but maybe thousands of samples
            yield Path(root) / "record.json"
        # Neither the untuned base model's samples, nor a report, nor W&B's own files hold runs.
        folders[:] = sorted(name for name in folders if name not in ("base", "report", "wandb"))


def _read_folder(folder: Path, notes: list[str], scores: str = "first") -> tuple[pd.DataFrame, list[str]]:
    rows: dict[str, dict[str, Any]] = {}
    metrics: dict[str, None] = {}
    unreadable, twice, unscored = [], 0, 0
    for path in _find_records(folder):
        try:
            record = json.loads(path.read_bytes())
            if (record := _with_scores(record, scores)) is None:
                unscored += 1
                continue
            row = _flatten(record, path)
        except (OSError, ValueError, TypeError, AttributeError, KeyError):
            unreadable.append(str(path))
            continue
        twice += row["run_id"] in rows
        rows.setdefault(row["run_id"], row)
        metrics.update(dict.fromkeys(record.get("metrics") or {}))
    if unreadable:
        notes.append(f"{len(unreadable)} record(s) could not be read and are left out, the first is {unreadable[0]}.")
    if twice:
        notes.append(f"{twice} run(s) are in the folder more than once and are counted once.")
    if unscored:
        notes.append(f"{unscored} run(s) have no scores of {scores} and are left out; evaluate.py makes them.")
    if unscored and not rows:
        raise ValueError(
            f"no run in {folder} has scores of {scores}; make them: python evaluate.py run={folder} {scores}."
        )
    if not rows and offline_files(folder):
        found, names = read_offline(folder, _flatten)
        return pd.DataFrame(found), names
    if not rows:
        raise ValueError(f"{folder} holds no run with a readable record.json.")
    return pd.DataFrame(list(rows.values())), list(metrics)


def _flatten(record: dict[str, Any], path: Path) -> dict[str, Any]:
    task = record.get("task") or {}
    row: dict[str, Any] = {
        "study": record.get("study"),
        "run_id": record.get("run_id") or str(path.parent),
        "status": record.get("status"),
        "reason": record.get("reason"),
        "task": task.get("name"),
        "data": task.get("data"),
        **(record.get("factors") or {}),
    }
    for metric, value in (record.get("metrics") or {}).items():
        row[metric] = np.nan if value is None else value
    for metric, anchor in (record.get("anchors") or {}).items():
        for end in ("floor", "ceiling"):
            value = (anchor or {}).get(end)
            row[f"{metric}_{end}"] = np.nan if value is None else value
    row.update({key: value for key, value in (record.get("sizes") or {}).items() if key in _SIZES})
    row.update({f"seconds_{key}": v for key, v in (record.get("seconds") or {}).items() if key in _SECONDS})
    row["peak_memory"] = record.get("peak_memory")
    row["path"] = str(path.parent)
    if protocol := record.get("protocol"):  # none where nothing was scored
        protocol = _without_factors(protocol, row)
        made = metric_protocols(protocol) or dict.fromkeys(record.get("metrics") or {}, protocol_hash(protocol))
        row.update({f"{metric}_protocol": value for metric, value in made.items()})
    row["protocol_hash"] = protocol_hash(protocol) if protocol else None
    return row


def _without_factors(protocol: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """The protocol without the guidance where that is a factor of the run: then it does not tell protocols apart."""
    sampler = protocol.get("sampler")
    if not isinstance(sampler, dict) or row.get("guidance") is None:
        return protocol
    return protocol | {"sampler": {key: value for key, value in sampler.items() if key != "guidance"}}


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as a CSV: {error}") from None


def _tidy(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.rename(columns=str)
    for column in list(frame.columns):
        last = column.replace("/", ".").rsplit(".", 1)[-1]
        if last != column and last not in frame:
            frame[last] = frame[column]
    if "State" in frame and "status" not in frame:  # W&B
        frame["status"] = frame["State"].astype(str).str.lower()
    if "placement" not in frame and {"din", "dout"} <= set(frame.columns):
        frame["placement"] = frame["din"] + "-" + frame["dout"]
    return frame


def _keep_status(frame: pd.DataFrame, status: str, notes: list[str]) -> pd.DataFrame:
    other = frame.loc[frame["status"] != status, "status"]
    if len(other) == len(frame):
        raise ValueError(f"No run has status {status}; there are {_count(other)}.")
    if len(other):
        notes.append(f"{len(other)} of {len(frame)} runs are left out: {_count(other)}.")
    return frame[frame["status"] == status]


def _count(column: pd.Series) -> str:
    return ", ".join(f"{n} {value}" for value, n in column.value_counts(dropna=False).items())


def _check_protocols(frame: pd.DataFrame, mixed: str, notes: list[str]) -> None:
    by = [c for c in ("task", "data") if c in frame]
    own = [str(c) for c in frame.columns if str(c).endswith("_protocol")]  # of each metric
    worst = {
        column.removesuffix("_protocol"): int(
            frame.groupby(by, dropna=False)[column].nunique().max() if by else frame[column].nunique()
        )
        for column in own or [c for c in ("protocol_hash",) if c in frame]
    }
    several = {name: ways for name, ways in worst.items() if ways > 1}
    if several:
        what = f": {', '.join(several)}" if own else ""
        sentence = (
            f"Runs of one task were scored in {max(several.values())} different ways (protocol_hash), "
            f"so they cannot be compared{what}"
        )
        if mixed == "refuse":
            raise ValueError(f"{sentence}; score them again alike, or filter the frame to one protocol.")
        notes.append(sentence + ".")


def _with_scores(record: dict[str, Any], scores: str) -> dict[str, Any] | None:
    """The record with the scores asked for in the place of its first ones; None where there are none."""
    if scores == "first":
        return record
    added = [e for e in record.get("evaluations") or [] if scores == "last" or scores in (e.get("asked") or [])]
    if not added:
        return record if scores == "last" else None
    seconds = {**(record.get("seconds") or {}), **(added[-1].get("seconds") or {})}
    return {**record, **{key: added[-1].get(key) for key in ("metrics", "anchors", "protocol")}, "seconds": seconds}
