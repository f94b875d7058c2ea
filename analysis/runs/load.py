"""Read the runs of a study into a tidy frame, one row a run: from run folders, a CSV, W&B or a frame."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.runs.columns import decimal_commas, is_truth, typed
from analysis.runs.direction import higher_is_better
from analysis.runs.exports import bookkeeping
from analysis.runs.load_wandb import PREFIX, offline_files, read_offline, read_project
from analysis.runs.names import with_short_names
from analysis.runs.progress import confirming, under_way, without_copies
from analysis.runs.records import COMMON, FIRST, Told, read_records
from analysis.runs.roles import FACTORS, Roles, guess_roles, is_of_records
from analysis.runs.settings.factors import RECORDS, further_factors, scoring_factors, subject_factors
from analysis.runs.statuses import FINISHED, has_status, with_status
from analysis.runs.tables.file import read_text_table
from analysis.runs.tables.frames import plain
from analysis.runs.tables.objects import read_objects
from analysis.runs.tables.tall import as_columns
from analysis.runs.tables.wide import as_long
from analysis.runs.words_in_names import says_score
from sdpet.config import FACTORS as KEYS
from sdpet.config import following

RESIDUAL = "residual"
_TOLD = ("metrics", "factors", "keys")  # attrs of a frame of records

__all__ = ["FACTORS", "factor_columns", "higher_is_better", "load_paper_heatmap", "load_results", "metric_columns"]


def load_results(
    source: str | os.PathLike[str] | pd.DataFrame,
    status: str | None = FINISHED,
    mixed_protocols: str = "refuse",
    scores: str = FIRST,
    confirm: bool = False,
) -> pd.DataFrame:
    """One row a run, with the factors, metrics, anchors and costs of each run as columns.

    Parameters
    ----------
    source
        A folder (every record.json below it is read, or else its offline runs of W&B), a file of delimited text (any
        of the usual encodings, separators and notations of numbers; a column of scores for each seed makes one row
        each) or of JSON objects, a frame that is already loaded, or a project at W&B, as "wandb:entity/project" or
        "wandb:entity/project/study".
    status
        Keep only runs with this status (None keeps all). Words of other tools (completed, success, ...) count as
        finished.
    mixed_protocols
        "refuse" raises ValueError when a score of one task was made in different ways, because such scores cannot be
        compared; "flag" only notes it.
    scores
        Of a folder of runs: "first", those a run ended with; "last", the latest that evaluate.py added; or what it was
        asked for, such as "eval=paper" or "eval=paper sampler.guidance=4". The factor guidance is that of the scored
        samples.
    confirm
        Of a study's folder: the runs that confirm its best on fresh seeds (`hydra.sweeper.confirm`), and only them;
        they are left out otherwise.

    Returns
    -------
    pandas.DataFrame
        What is left out, missing or doubtful is said in `.attrs["notes"]`. Nested columns such as `adapter.din` are
        also found under their last name, where only one column has it. `placement` is added where only din and dout
        are given, as words.

    Raises
    ------
    ValueError
        Where there is nothing to read, no run with the status, or mixed protocols.

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
    frame, told = _read(source, notes, scores, confirm)
    frame = _tidy(frame if told else _judged(frame, notes), ours=bool(told))
    if len(frame) == 0:
        raise ValueError("The results hold no run.")
    if status is not None and has_status(frame):
        frame = _keep_status(frame, status, notes)
    frame.attrs |= {key: value for key, value in told.items() if value}
    _check_protocols(frame, mixed_protocols, notes)
    frame = frame.drop(columns=[c for c in frame if c.startswith(COMMON)]).reset_index(drop=True)
    frame.attrs["notes"] = notes
    return frame


def _read(
    source: str | os.PathLike[str] | pd.DataFrame, notes: list[str], scores: str, confirm: bool
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The frame as it comes from its source, and of records the names of scores and factors, for its attrs."""
    if isinstance(source, pd.DataFrame):
        notes += source.attrs.get("notes", [])
        known = {key: source.attrs[key] for key in _TOLD if key in source.attrs}
        return source.copy() if "notes" in source.attrs or is_of_records(source) else plain(source, notes), known
    path = Path(source)
    if str(source).startswith(PREFIX):
        told = read_project(str(source), notes)
        return pd.DataFrame(told.rows), _attrs(told)
    if path.is_dir():
        told = read_records(path, notes, scores)
        if not told.rows and offline_files(path):
            told = read_offline(path, notes)
        if not told.rows:
            raise ValueError(f"{path} holds no run with a readable record.json.")
        frame = pd.DataFrame(told.rows)
        notes += under_way(path, frame)
        frame = without_copies(frame, notes, told.indexes)
        apart = confirming(path)
        fresh = frame["run_id"].astype(str).isin(apart) if apart else pd.Series(False, index=frame.index)
        if fresh.any() and not confirm:
            notes.append(
                f"Beside the study there are runs on fresh seeds that confirm the best ({int(fresh.sum())}); they are "
                "in no test and no other mean."
            )
        return frame[fresh if confirm else ~fresh], _attrs(told)
    if path.is_file():
        return read_table(path, notes), {}
    raise ValueError(f"{path} does not exist; give a study folder, a CSV file, a frame or wandb:ENTITY/PROJECT.")


def _attrs(told: Told) -> dict[str, Any]:
    return {name: getattr(told, name) for name in _TOLD}


def read_table(path: Path, notes: list[str]) -> pd.DataFrame:
    """A file of delimited text or of JSON as a frame with a row a run; what was not as usual is added to the notes."""
    if (objects := read_objects(path)) is not None:
        notes.append(f"{path.name} is read as JSON, one object a row.")
        return _reshaped(objects, notes)
    table = read_text_table(path)
    notes += table.notes
    columns, idle = {}, bookkeeping(table.names)
    ours, commas = set(table.names) >= RECORDS, decimal_commas(table.rows, table.separator)
    for position, name in enumerate(table.names):
        cells = [row[position] for row in table.rows]
        if ours and "null" in cells:  # a setting that is null is a level
            columns[name] = pd.Series(cells).where([bool(cell) for cell in cells])
            continue
        columns[name], said = typed(name, cells, table.lines, table.separator, commas)
        notes += [] if name in idle else said
    return pd.DataFrame(columns) if ours else _reshaped(pd.DataFrame(columns), notes)


def _reshaped(frame: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """With a column for each score and a row for each seed."""
    frame, said_tall = as_columns(frame)
    frame, said_wide = as_long(frame)
    notes += [said for said in (said_tall, said_wide) if said]
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

    In a frame of our records these are the keys of the config that differ between its runs, the known ones first; in
    any other frame what `guess_roles` takes for factors.

    >>> factor_columns(load_paper_heatmap())
    ['placement', 'din', 'dout']
    """
    return [c for c in _factors(frame) if (seed or c != "seed") and c in frame and frame[c].nunique() > 1]


def _factors(frame: pd.DataFrame) -> list[str]:
    if "factors" in frame.attrs:
        return list(frame.attrs["factors"])
    if is_of_records(frame):
        names = [*FACTORS, "task", "data", *further_factors(frame, metric_columns(frame))]
        return [name for name in names if name not in _followers(frame, names)]
    return roles_of(frame).factors


def _followers(frame: pd.DataFrame, names: list[str]) -> set[str]:
    """Factors that only follow another one, as the rate of a method goes with the method."""
    keys = {name: KEYS.get(name) or name for name in names if name in frame and frame[name].nunique(dropna=False) > 1}
    follow = following({keys[name]: frame[name].astype(str).tolist() for name in keys if name != "placement"})
    return {name for name, key in keys.items() if key in follow}


def metric_columns(frame: pd.DataFrame) -> list[str]:
    """Names of the score columns: those of the records, or else what `guess_roles` takes for scores, likeliest first.

    >>> metric_columns(load_paper_heatmap())
    ['clip_similarity']
    """
    if "metrics" in frame.attrs:
        return [m for m in frame.attrs["metrics"] if m in frame]
    return roles_of(frame).metrics


def roles_of(frame: pd.DataFrame) -> Roles:
    """The guessed roles of the columns, those of the whole table where the frame is a part of it."""
    known = frame.attrs.get("roles")  # settled where a report was asked for
    if known and set(known["factors"]) | set(known["metrics"]) <= set(map(str, frame.columns)):
        return Roles(list(known["factors"]), list(known["metrics"]), list(known["notes"]))
    return guess_roles(frame)


def _tidy(frame: pd.DataFrame, ours: bool = False) -> pd.DataFrame:
    frame = frame.rename(columns=str)
    if RESIDUAL in frame and RESIDUAL.capitalize() not in frame:  # the name of what a model leaves, in every table
        frame = frame.rename(columns={RESIDUAL: RESIDUAL.capitalize()})
    frame = with_status(frame if ours else with_short_names(frame))
    if "placement" not in frame and {"din", "dout"} <= set(frame.columns):
        ends = [frame[c] for c in ("din", "dout")]
        if not any(pd.api.types.is_numeric_dtype(end) for end in ends):
            frame["placement"] = ends[0] + "-" + ends[1]
    return frame


def _judged(frame: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Truth values that are scores by their name, such as success, as 1 and 0."""
    judged = [c for c in frame.columns if is_truth(frame[c]) and says_score(str(c))]
    for name in judged:
        notes.append(f"{name} is read as 1 where it is true and 0 where it is false.")
    return frame.assign(**{name: frame[name].astype(float) for name in judged}) if judged else frame


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
    by = list(dict.fromkeys([*(c for c in ("task", "data") if c in frame), *scoring_factors(frame)]))
    own = [str(c) for c in frame.columns if str(c).endswith("_protocol")]  # of each metric

    def ways(column: str, groups: list[str]) -> int:
        return int(frame.groupby(groups, dropna=False)[column].nunique().max() if groups else frame[column].nunique())

    worst = {c.removesuffix("_protocol"): ways(c, by) for c in own or [c for c in ("protocol_hash",) if c in frame]}
    subjects = subject_factors(frame)  # each has its own references and prompts, but the rest must agree
    for column in (c for c in map(str, frame.columns) if c.startswith(COMMON)):
        metric = column.removeprefix(COMMON)
        worst[metric] = max(worst.get(metric, 0), ways(column, [name for name in by if name not in subjects]))
    several = {name: count for name, count in worst.items() if count > 1}
    if several:
        what = f": {', '.join(several)}" if own else ""
        sentence = (
            f"Runs of one task were scored in {max(several.values())} different ways (protocol_hash), "
            f"so they cannot be compared{what}"
        )
        if mixed == "refuse":
            raise ValueError(f"{sentence}; score them again alike, or filter the frame to one protocol.")
        notes.append(sentence + ".")
