"""Records of runs as rows of a frame: their files in a study's folder, the scores asked for, how these were made."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.runs.settings.factors import add_factors
from sdpet.choices import NOT_SHOWN, misleading
from sdpet.config import FACTORS as EVERY
from sdpet.files.collection import collection_paused
from sdpet.files.digests import changed_files
from sdpet.files.project import here
from sdpet.files.record_file import read_record
from sdpet.runs.record_index import RecordIndex

MOST_CHECKED = 1000  # runs whose files are compared with the digests in their records
MOST_NAMED = 5  # files that a note names
FACTORS = tuple(EVERY)  # of every record

COMMON = "(common)"  # begins the names of columns that `load_results` checks and removes
_OF_SUBJECT = ("prompts_hash", "prompts", "images_hash")
FIRST, LAST = "first", "last"  # of the scores of a run
_SIZES = {"trainable_params", "adapters", "bytes"}
_SECONDS = {"train", "per_step", "sample", "score", "total"}
_NAN = float("nan")
RECORD = "record.json"

Row = dict[str, Any]
Protocols = dict[tuple[Any, ...], tuple[Any, Row]]  # of rows with one protocol, by its id: it, and their columns


@dataclass(frozen=True)
class Told:
    """What runs tell: a row of each, the names of the scores and of the factors, and the keys of further factors.

    `indexes` are those of the folders that hold runs.
    """

    rows: list[Row]
    metrics: list[str] = field(default_factory=list)
    factors: list[str] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)
    indexes: dict[Path, RecordIndex] = field(default_factory=dict, repr=False)


@collection_paused()
def read_records(folder: Path, notes: list[str], scores: str = FIRST) -> Told:
    """What the runs below the folder tell; what is left out is added to the notes.

    scores: see `with_scores`. Raises ValueError where there are runs, but none with such scores.
    """
    rows: dict[str, Row] = {}
    kept: list[tuple[dict[str, Any], Path]] = []  # settings, factors and folder of each row
    metrics: dict[str, None] = {}
    hidden: dict[str, None] = {}
    asked: dict[str, None] = {}
    unreadable: list[str] = []
    changed: list[str] = []
    twice = unscored = 0
    later: dict[bool, list[Row]] = {True: [], False: []}  # whether the row holds scores that evaluate.py added
    indexes: dict[Path, RecordIndex] = {}
    protocols: Protocols = {}
    for number, path in enumerate(_find_records(folder)):
        study = path.parent.parent
        try:
            if study not in indexes:
                indexes[study] = RecordIndex(study)
            known = indexes[study].entry(path.parent.name)
            record = known.content
            chosen = with_scores(record, scores)
            if chosen is None:
                unscored += 1
                asked.update(dict.fromkeys(" ".join(e.get("asked") or []) for e in record.get("evaluations") or []))
                continue
            row = flatten(chosen, path, protocols)
        except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
            unreadable.append(str(error) if str(path) in str(error) else f"{path} ({type(error).__name__})")
            continue
        if number < MOST_CHECKED:
            changed += changed_files(path.parent, read_record(path))
        elif known.changed:
            changed.append(f"{path} was changed")
        twice += row["run_id"] in rows
        if rows.setdefault(row["run_id"], row) is row:
            kept.append(({key: chosen.get(key) for key in ("settings", "factors")}, path.parent))
            if row["status"] == "finished":
                later[chosen is not record].append(row)
        own = _misleading(chosen)
        hidden.update(dict.fromkeys(own))
        metrics.update(dict.fromkeys(name for name in chosen.get("metrics") or {} if name not in own))
    for index in indexes.values():
        index.save()
    if hidden := {name: None for name in hidden if name not in metrics}:
        notes.append(NOT_SHOWN.format(scores=", ".join(hidden)) + ". --metric shows one of them all the same.")
    if unreadable:
        notes.append(f"{len(unreadable)} record(s) could not be read and are left out: {_named(unreadable)}.")
    if changed:
        notes.append(
            f"{len(changed)} file(s) are not as they were when the runs ended: {_named(changed)}; the scores are those "
            "of the records. python -m sdpet.study verify lists all such files."
        )
    if twice:
        notes.append(f"{twice} run(s) are in the folder more than once and are counted once.")
    if unscored:
        notes.append(f"{unscored} run(s) have no scores of {scores} and are left out; evaluate.py makes them.")
    if scores == LAST and later[True] and later[False]:
        notes.append(_mixed_scores(later[True], later[False]))
    if unscored and not rows:
        choices = ", ".join([FIRST, LAST, *(name for name in asked if name)])
        raise ValueError(
            f"no run in {folder} has scores of {scores}; choose from {choices}, "
            + here(f"or make them: python evaluate.py run={folder} {scores}.")
        )
    names, keys = add_factors(list(rows.values()), [one for one, _ in kept], [where for _, where in kept], notes)
    first = sorted(
        metrics, key=lambda name: not name.endswith("_right")
    )  # a share of right answers, where there is one
    return Told(list(rows.values()), first, names, keys, indexes)


def _named(problems: list[str]) -> str:
    more = f"; and {len(problems) - MOST_NAMED} more" if len(problems) > MOST_NAMED else ""
    return "; ".join(problem.rstrip(".") for problem in problems[:MOST_NAMED]) + more


def _mixed_scores(later: list[Row], first: list[Row]) -> str:
    """That only some runs were scored again, and whether floors and guidance differ for that."""
    total = len(later) + len(first)
    said = (
        f"Only {len(later)} of {total} runs were scored again; the other {len(first)} count with the scores they "
        "ended with"
    )
    strengths = [
        sorted({row["guidance"] for row in rows if row.get("guidance") is not None}) for rows in (later, first)
    ]
    if strengths[0] != strengths[1] and all(strengths):
        again, before = (", ".join(f"{v:g}" for v in values) for values in strengths)
        said += f", under guidance {before} instead of {again}, so scores and floors differ for that as well"
    return f"{said}; evaluate.py scores them alike."


def _misleading(record: dict[str, Any]) -> list[str]:
    """The scores of a record that prefer damaged images of its data to real ones."""
    data, made = (record.get("task") or {}).get("data"), (record.get("protocol") or {}).get("scores") or {}
    return [name for name in misleading(data, made) if name in (record.get("metrics") or {})]


def with_scores(record: dict[str, Any], scores: str) -> dict[str, Any] | None:
    """The record with the scores asked for in the place of its first ones; None where there are none.

    scores: "first", those a run ended with; "last", the latest that evaluate.py added; or what it was asked for, as
    "eval=paper" or "eval=paper sampler.guidance=4", of which the latest counts.
    """
    if scores == FIRST:
        return record
    wanted = set() if scores == LAST else set(scores.split())
    added = [entry for entry in record.get("evaluations") or [] if wanted <= set(entry.get("asked") or [])]
    if not added:
        return record if scores == LAST else None
    entry = added[-1]
    chosen = {**record, **{key: entry.get(key) for key in ("metrics", "anchors", "protocol", "missing")}}
    chosen["seconds"] = {**(record.get("seconds") or {}), **(entry.get("seconds") or {})}
    chosen |= {"samples": entry.get("samples", "samples"), "base": entry.get("base")}
    sampler = (entry.get("protocol") or {}).get("sampler")
    if isinstance(record.get("settings"), dict):
        chosen["settings"] = _scored_again(record["settings"], sampler)
    if isinstance(sampler, dict) and "guidance" in sampler and "guidance" in (record.get("factors") or {}):
        chosen["factors"] = {**record["factors"], "guidance": sampler["guidance"]}  # of these samples
    return chosen


def _scored_again(settings: dict[str, Any], sampler: Any) -> dict[str, Any]:
    """The settings of a run that was scored again by this sampler; those of the evaluation are left out."""
    kept = {key: value for key, value in settings.items() if key.partition(".")[0] not in ("eval", "sampler")}
    if isinstance(sampler, dict):
        kept |= {"sampler": sampler.get("name"), **{f"sampler.{key}": value for key, value in sampler.items()}}
    return kept


def flatten(record: dict[str, Any], path: Path, protocols: Protocols | None = None) -> Row:
    """The row of a record that lies at `path`; `protocols` is kept between rows whose records share theirs."""
    task, folder = record.get("task") or {}, path.parent
    row: Row = {
        "study": record.get("study"),
        "run_id": record.get("run_id") or str(folder),
        "trained_in": record.get("trained_in"),
        "status": record.get("status"),
        "reason": record.get("reason"),
        "task": task.get("name"),
        "data": task.get("data"),
        **(record.get("factors") or {}),
    }
    for metric, value in (record.get("metrics") or {}).items():
        row[metric] = _NAN if value is None else value
    for metric, anchor in (record.get("anchors") or {}).items():
        for end in ("floor", "ceiling"):
            value = (anchor or {}).get(end)
            row[f"{metric}_{end}"] = _NAN if value is None else value
    row.update({key: value for key, value in (record.get("sizes") or {}).items() if key in _SIZES})
    row.update({f"seconds_{key}": v for key, v in (record.get("seconds") or {}).items() if key in _SECONDS})
    row["peak_memory"] = record.get("peak_memory")
    row["path"] = str(folder)
    protocol = record.get("protocol")  # none where nothing was scored
    key = (id(protocol), row.get("guidance") is None, *(record.get("metrics") or {}))
    protocols = {} if protocols is None else protocols
    if key not in protocols:
        protocols[key] = protocol, _protocol_columns(protocol, row, list(key[2:]))
    row.update(protocols[key][1])
    return row


def _protocol_columns(protocol: dict[str, Any] | None, row: Row, metrics: list[str]) -> Row:
    """The columns that say how scores were made."""
    if not protocol:
        return {"protocol_hash": None}
    protocol = _without_factors(protocol, row)
    made = metric_protocols(protocol) or dict.fromkeys(metrics, protocol_hash(protocol))
    columns = {f"{metric}_protocol": value for metric, value in made.items()}
    columns |= {f"{COMMON}{metric}": value for metric, value in common_protocols(protocol).items()}
    return {**columns, "protocol_hash": protocol_hash(protocol)}


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


def common_protocols(protocol: dict[str, Any]) -> dict[str, str]:
    """For each metric, twelve hex digits of how it was made, without what is a subject's own.

    Runs of several subjects compare only where these agree: the scorer, how it prepares images, the numbers of images
    and the sampler. References and prompts are those of each subject.
    """
    common = {key: protocol.get(key) for key in ("sampler", "eval_seed", "image_size", "image_bits", "score_dtype")}
    return {
        metric: protocol_hash({**common, "score": {k: v for k, v in entry.items() if k not in _OF_SUBJECT}})
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


def _without_factors(protocol: dict[str, Any], row: Row) -> dict[str, Any]:
    """The protocol without the guidance where that is a factor of the run: then it does not tell protocols apart."""
    sampler = protocol.get("sampler")
    if not isinstance(sampler, dict) or row.get("guidance") is None:
        return protocol
    return protocol | {"sampler": {key: value for key, value in sampler.items() if key != "guidance"}}


def _find_records(folder: Path) -> Iterator[Path]:
    if (folder / RECORD).is_file():  # a run folder holds no other runs, but maybe thousands of samples
        yield folder / RECORD
        return
    try:
        with os.scandir(folder) as entries:
            # Neither the untuned base model's samples, nor a report, nor W&B's own files hold runs.
            # What stands in hidden folders was replaced, or belongs to caches.
            names = [e.name for e in entries if e.name not in ("base", "report", "wandb") and e.name[0] != "."
                     and e.is_dir() and not e.is_symlink()]  # fmt: skip
    except OSError:
        return
    for name in sorted(names):
        if os.path.isfile(f"{folder}/{name}/{RECORD}"):
            yield folder / name / RECORD
        else:
            yield from _find_records(folder / name)
