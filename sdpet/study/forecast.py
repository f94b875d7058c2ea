"""Before a study runs: list the levels of its runs, and estimate its time and disk space from finished runs."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdpet.config import settings_of, training_id, varying
from sdpet.files.collection import collection_paused
from sdpet.files.hashing import unchanging
from sdpet.files.terminal import counted
from sdpet.runs.record import Record, every_factor
from sdpet.study.plan import Job
from sdpet.study.report import duration

SAMPLED = 200  # largest number of a study's records that are read for an estimate
PILOT_STEPS = 5
PILOT = "hydra.sweeper.pilot=FOLDER uses another study, hydra.sweeper.pilot=run measures short runs"


@collection_paused()
def levels_of(jobs: Sequence[Job]) -> tuple[list[dict[str, Any]], list[str]]:
    """The factors of the runs of a study.

    A setting fixed by the design (such as lr for full fine-tuning) does not count as a factor. If only some of the
    designs have a placement, the factor is `design`, or `method` if there is only one placement.

    Parameters
    ----------
    jobs : sequence of Job
        The runs.

    Returns
    -------
    rows : list of dict
        The levels of each run, under the names that the analysis uses; trained_in tells trainings apart.
    names : list of str
        The factors that vary; the seed is the last.
    """
    with unchanging():
        found = varying([settings_of(job.config) for job in jobs])
        trainings = [training_id(job.config) for job in jobs]
    rows = []
    for i, job in enumerate(jobs):
        row = {**every_factor(job.config), "task": job.config.task.name}
        row |= {name: levels[i] for name, levels in found.levels.items()}
        if row["mid_dim"] is None and job.config.adapter.params is not None:
            row["mid_dim"] = "null"  # derived from the number of parameters: a level like any other
        row["design"] = row["placement"] or row["method"]
        row["trained_in"] = trainings[i]
        rows.append(row)
    if any(row["mid_dim"] == "null" for row in rows):
        for row in rows:
            row["mid_dim"] = None if row["mid_dim"] is None else str(row["mid_dim"])  # levels of one type
    names = [name for name in dict.fromkeys(key for row in rows for key in row) if _count(rows, [name]) > 1]
    names = [name for name in names if name not in {"trained_in", *found.idle}]
    placements = {row["placement"] for row in rows}
    if None in placements:
        of_design = "method" if len(placements) <= 2 else "design"
        names = [of_design, *(n for n in names if n not in ("placement", "din", "dout", "design", "method"))]
        names = [n for n in names if n in (of_design, "seed") or not _follows(rows, n, of_design)]
    else:
        names = [n for n in names if n != "design"]
    return rows, sorted(names, key=lambda name: name == "seed")


def factors_of(jobs: Sequence[Job]) -> dict[str, int]:
    """The factors of the runs of a study with their number of levels; see `levels_of`."""
    rows, names = levels_of(jobs)
    return {name: len({str(row.get(name)) for row in rows if row.get(name) is not None}) for name in names}


def _follows(rows: Sequence[Mapping[str, Any]], name: str, design: str) -> bool:
    """Whether each design has at most one level of the factor."""
    return _count(rows, [design, name]) <= _count(rows, [design])


def _count(rows: Iterable[Mapping[str, Any]], names: Sequence[str]) -> int:
    """The number of distinct combinations of levels of these factors, among runs that have all of them."""
    found = {tuple(row.get(name) for name in names) for row in rows}
    return len({levels for levels in found if None not in levels})


@dataclass(frozen=True)
class Forecast:
    """The expected time and disk space of some runs.

    Attributes
    ----------
    seconds : float or None
        Time of all runs one after another; None if no run of this kind was measured.
    size : int or None
        Bytes on disk; None if nothing was measured.
    basis : str
        The runs on which the estimate is based.
    unknown : str
        The tasks whose runs are not in `seconds`, since none was measured.
    """

    seconds: float | None
    size: int | None
    basis: str
    unknown: str = ""


def make_forecast(
    train: Sequence[Job], score: Sequence[Job], measured: Sequence[tuple[Record, int]], where: str
) -> Forecast:
    """Estimate the time and disk space of runs from finished runs.

    Seconds are taken as proportional to the steps of training and of sampling. Their rates are those of runs with the
    same task and method, or at least the same task.

    Parameters
    ----------
    train : sequence of Job
        Runs that train.
    score : sequence of Job
        Runs that only score weights of another run.
    measured : sequence of (Record, int)
        Records of finished runs, and the size of their folders in bytes.
    where : str
        Where these runs are, for the text.

    Returns
    -------
    Forecast
        The estimate.
    """
    times: dict[tuple[str, ...], list[dict[str, float]]] = {}
    for record, _ in measured:
        if (entry := _times(record)) is None:
            continue
        for key in ((record.task["name"], str(record.factors["method"])), (record.task["name"],)):
            times.setdefault(key, []).append(entry)
    total, unknown = 0.0, set()
    for job, trains in [*((job, True) for job in train), *((job, False) for job in score)]:
        task, config = job.config.task.name, job.config
        known = times.get((task, config.adapter.method)) or times.get((task,))
        if not known:
            unknown.add(task)
            continue
        one = {name: statistics.fmean(entry[name] for entry in known) for name in known[0]}
        total += one["per_step"] * config.trainer.steps * trains
        total += one["per_draw"] * config.sampler.steps + one["score"] + one["rest"]
    size = round(statistics.fmean(size for _, size in measured) * (len(train) + len(score))) if measured else None
    tasks = " or ".join(sorted(unknown))
    if not measured or (unknown and not total):
        return Forecast(None, size, f"no finished run of {tasks}{where and f' in {where}'}")
    return Forecast(total, size, f"{counted(len(measured), 'measured run')}{where and f' of {where}'}", tasks)


def _times(record: Record) -> dict[str, float] | None:
    seconds = {key: value or 0.0 for key, value in record.seconds.items()}
    draws = (record.protocol.get("sampler") or {}).get("steps")
    if record.status != "finished" or not draws or "sample" not in seconds:
        return None
    train = 0.0 if record.trained_in else seconds.get("train", 0.0)
    rest = max(seconds.get("total", 0.0) - train - seconds["sample"] - seconds.get("score", 0.0), 0.0)
    per_step = seconds.get("train", 0.0) / max(int(record.factors.get("steps") or 1), 1)
    return {
        "per_step": per_step,
        "per_draw": seconds["sample"] / draws,
        "score": seconds.get("score", 0.0),
        "rest": rest,
    }


def measured_in(folder: Path) -> list[tuple[Record, int]]:
    """Records of at most 200 finished runs, spread over the study, and the size of their folders in bytes."""
    if not folder.is_dir():
        return []
    runs = sorted(entry.path for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    found = []
    for path in runs[:: max(1, len(runs) // SAMPLED)]:
        record = Record.find(Path(path))
        if record is not None and record.status == "finished":
            found.append((record, folder_size(Path(path))))
    return found


def folder_size(folder: Path) -> int:
    """The size of all files in a folder, in bytes."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def short_pilot(jobs: Iterable[Job]) -> list[tuple[Record, int]]:
    """Do a pilot run of each task and method: train for a few steps, score in full, then delete the run.

    Parameters
    ----------
    jobs : iterable of Job
        The runs of the study.

    Returns
    -------
    list of (Record, int)
        The record of each pilot, and the size of its folder in bytes.

    Raises
    ------
    ValueError
        A pilot does not finish.
    """
    from sdpet.runs import run

    first: dict[tuple[str, str], Job] = {}
    for job in jobs:
        first.setdefault((job.config.task.name, job.config.adapter.method), job)
    found = []
    with tempfile.TemporaryDirectory(prefix="sdpet-pilot-") as root:
        for job in first.values():
            steps = min(PILOT_STEPS, job.config.trainer.steps)
            pilot = job.config.changed(
                output_root=root, study="pilot", logger={"name": "none"}, trainer={"steps": steps}
            )
            record = run(pilot)
            if record is None or record.status != "finished":
                reason = record.reason if record else "no record"
                raise ValueError(f"the pilot of {job.name} did not finish: {reason}")
            found.append((record, folder_size(Path(root) / "pilot" / record.run_id)))
    return found


def free_space(folder: Path) -> int:
    """Free bytes on the disk where the folder is or will be."""
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(existing).free


def size_words(size: float) -> str:
    """A number of bytes in a readable unit."""
    power = 1 + (size >= 1e6) + (size >= 1e9)
    amount, unit = size / 1000**power, ("kB", "MB", "GB")[power - 1]
    return f"{amount:.3g} {unit}" if amount < 100 else f"{amount:.0f} {unit}"


def forecast_lines(expected: Forecast, train: int, score: int, workers: object, folder: Path) -> list[str]:
    """The lines of a plan that report the estimate.

    Parameters
    ----------
    expected : Forecast
        The estimate for the runs that are not complete.
    train, score : int
        The number of runs that train, and that only score.
    workers : object
        The launcher's option `workers`, or None.
    folder : Path
        The study's folder.
    """
    if not train + score:
        return []
    lines = [f"  training  {counted(train, 'run')}; {score} more only for scores of their weights"] if score else []
    if expected.seconds is None:
        lines.append(f"  time      unknown, {expected.basis}; {PILOT}")
    else:
        from sdpet.study.worker_pool import usable_cores

        count = usable_cores() if workers == "auto" else workers if isinstance(workers, int) else 1
        count = max(1, min(count, train or score))
        side_by_side = f" on {count} workers ({duration(expected.seconds)} in total)" if count > 1 else ""
        lines.append(f"  time      about {duration(expected.seconds / count)}{side_by_side}, based on {expected.basis}")
        if expected.unknown:
            lines.append(f"            and that of its runs of {expected.unknown}, of which none was measured; {PILOT}")
    if expected.size is not None:
        from sdpet.study.forecast import free_space, size_words

        free = free_space(folder)
        short = "; NOT ENOUGH" if expected.size > free else ""
        lines.append(f"  disk      about {size_words(expected.size)}, {size_words(free)} free{short}")
    return lines
