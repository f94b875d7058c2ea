"""Read the runs of a study into a tidy frame, one row a run: from run folders, a CSV, W&B or a frame."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from analysis.runs.load_wandb import PREFIX, offline_files, read_offline, read_project
from analysis.runs.records import FACTORS, FIRST, read_records

# What a run costs, in the units of record.json (counts, bytes, seconds).
COSTS = (
    "trainable_params", "adapters", "bytes", "seconds_train", "seconds_per_step", "seconds_sample", "seconds_score",
    "seconds_total", "peak_memory",
)  # fmt: skip
_IDENTITY = ("study", "run_id", "trained_in", "status", "reason", "task", "data", "path", "protocol_hash", "component")
_SMALLER_IS_BETTER = {"fid", "kid", "cmmd", "prior_drift", "loss", "mse", *COSTS}


def load_results(
    source: str | os.PathLike[str] | pd.DataFrame,
    status: str | None = "finished",
    mixed_protocols: str = "refuse",
    scores: str = FIRST,
) -> pd.DataFrame:
    """One row a run, with the factors, metrics, anchors and costs of each run as columns.

    source: a folder (every record.json below it is read, or else its offline runs of W&B), a CSV file, a frame that is
    already loaded, or a project at W&B, as "wandb:entity/project" or "wandb:entity/project/study". Columns of a W&B
    export such as `adapter.din` are also found under their last name. `placement` is added where only din and
    dout are given. status: keep only runs with this status (None keeps all); what is left out is said in
    `frame.attrs["notes"]`. mixed_protocols: "refuse" raises ValueError when a score of one task was made in different
    ways, because such scores cannot be compared; "flag" only notes it. scores, of a folder of runs: "first", those a
    run ended with; "last", the latest that evaluate.py added; or what it was asked for, such as "eval=paper" or
    "eval=paper sampler.guidance=4". The factor guidance is that of the scored samples.

    >>> import analysis
    >>> frame = analysis.load_results(pd.DataFrame({"din": ["a", "b"], "dout": ["c", "c"], "clip_i": [0.5, 0.6]}))
    >>> list(frame["placement"])
    ['a-c', 'b-c']
    """
    if mixed_protocols not in ("refuse", "flag"):
        raise ValueError(f"mixed_protocols is {mixed_protocols!r}; choose refuse or flag.")
    notes: list[str] = []
    if scores != FIRST and (isinstance(source, pd.DataFrame) or not Path(source).is_dir()):
        raise ValueError(f"scores={scores!r} can be chosen only of a folder of runs.")
    if isinstance(source, pd.DataFrame):
        frame, metrics = source.copy(), list(source.attrs.get("metrics", []))
        notes += source.attrs.get("notes", [])
    else:
        path = Path(source)
        if str(source).startswith(PREFIX):
            rows, metrics = read_project(str(source))
            frame = pd.DataFrame(rows)
        elif path.is_dir():
            rows, metrics = read_records(path, notes, scores)
            if not rows and offline_files(path):
                rows, metrics = read_offline(path)
            if not rows:
                raise ValueError(f"{path} holds no run with a readable record.json.")
            frame = pd.DataFrame(rows)
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
    from analysis.linear_model.design import components

    frame = pd.read_csv(Path(__file__).parent.parent / "data" / "xiang2023_dreambooth_heatmap.csv")
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


def _looks_like_factor(column: pd.Series) -> bool:
    if pd.api.types.is_bool_dtype(column):
        return True
    if pd.api.types.is_integer_dtype(column):
        return column.nunique() <= 20
    return not pd.api.types.is_numeric_dtype(column)


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
