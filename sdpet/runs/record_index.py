"""The records of a study from one Parquet file, so that thousands of runs are read in seconds.

The records are the truth. The index beside them, `.records.index`, is made from them and holds for each record the
time, size and number of its file: a record that is not as it was then is read itself, and so is every one where the
index is missing, damaged or of another version. Nothing is lost where it is deleted. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sdpet
from sdpet.config import question_of, ways_of
from sdpet.files.atomic import write_atomic
from sdpet.files.collection import collection_paused
from sdpet.files.digests import KEY as DIGESTS
from sdpet.files.digests import is_changed
from sdpet.files.record_file import FILE as RECORD
from sdpet.files.record_file import LaterFormat, read_record
from sdpet.runs.copies import FILE as IDENTITY
from sdpet.runs.copies import Origin
from sdpet.runs.record import MAY_BE_NULL, Record

if TYPE_CHECKING:
    import pyarrow

FILE = ".records.index"  # a digest of DIGEST bytes, then a table in Parquet
DIGEST = 16
LEAST = 500  # runs of a study that has an index; fewer are read in no time
NEW = 0.02  # share of new or changed records from which the index is written again
SETTLED = 2 * 10**9  # nanoseconds; a younger file could change again without a sign of it
LEFT_OUT = ("loss", DIGESTS)  # of records
SEEDED = ("settings", "factors")  # keys whose values differ in the seed and in little else
STAMP = ("inode", "size", "mtime", "ctime")  # of a record's file
_KNOWN = frozenset(field.name for field in fields(Record))


@dataclass(frozen=True, slots=True)
class Entry:
    """What the index knows of a run.

    Attributes
    ----------
    content : dict
        The record, without `loss` and `digests`. Runs share its values, which nobody may change.
    changed : bool
        Whether the record was changed since its run ended, by its own digest.
    weights : tuple of str or None
        Names of the files of weights; None where files of the run were missing.
    folder, identity : int
        Times of the last changes to the run's folder and its identity.json, in nanoseconds; 0 where there is none.
    stamp : tuple of int
        `STAMP` of record.json.
    origin : Origin or None
        See `Origin.read`.
    """

    content: dict[str, Any]
    changed: bool
    weights: tuple[str, ...] | None
    folder: int
    stamp: tuple[int, ...]
    origin: Origin | None
    identity: int


class RecordIndex:
    """The records of a study, from its index where they are as they were, else from their files.

    Parameters
    ----------
    study : Path
        The study's folder.
    """

    def __init__(self, study: Path) -> None:
        self._study = study
        self._at = f"{study}/"
        self._stored = _load(study / FILE)
        self._new: dict[str, Entry] = {}
        self._found: dict[str, Record | None] = {}

    def entry(self, name: str) -> Entry:
        """What the index knows of a run; raises as `read_record`.

        Parameters
        ----------
        name : str
            The name of the run's folder.

        Returns
        -------
        Entry
        """
        stamp = _stamp(f"{self._at}{name}/{RECORD}")
        known = self._stored.get(name) or self._new.get(name)
        if known is None or known.stamp != stamp:
            self._stored.pop(name, None)
            known = self._new[name] = _read(self._study / name, stamp)
        return known

    def origin(self, name: str) -> Origin | None:
        """`Origin.read` of a run."""
        known = self._stored.get(name)
        if known is not None and known.identity and known.identity == _changed_at(f"{self._at}{name}/{IDENTITY}"):
            return known.origin
        return Origin.read(self._study / name)

    def find(self, folder: Path) -> Record | None:
        """`Record.find` of a run of the study, without its loss and digests; each run is looked at once."""
        name = folder.name
        if name not in self._found:
            self._found[name] = None
            try:
                known = self.entry(name)
                if self._is_whole(name, known):
                    self._found[name] = _as_record(known.content)
            except LaterFormat:
                raise
            except (OSError, ValueError, TypeError):
                pass  # not ended, or damaged
        return self._found[name]

    def _is_whole(self, name: str, known: Entry) -> bool:
        """Whether the record is as it was, and no file of the run was lost."""
        own = f"{self._at}{name}"
        if known.weights is None or known.stamp != _stamp(f"{own}/{RECORD}") or known.folder != _changed_at(own):
            return False
        try:
            size = sum(os.stat(f"{own}/{weights}").st_size for weights in known.weights)
        except OSError:
            return False
        if size != (known.content.get("sizes") or {}).get("bytes", size):
            return False
        return known.content.get("status") != "finished" or os.path.exists(f"{own}/samples/index.jsonl")

    def save(self) -> None:
        """Write the index if enough is new; a folder that cannot be written stays without."""
        settled = time.time_ns() - SETTLED
        fresh = {name: entry for name, entry in self._new.items() if entry.stamp[-1] < settled}
        total = len(self._stored) + len(fresh)
        if total < LEAST or len(fresh) <= NEW * total or importlib.util.find_spec("pyarrow") is None:
            return
        with suppress(OSError):
            write_atomic(self._study / FILE, lambda file: _write(file, {**self._stored, **fresh}))


def _read(folder: Path, stamp: tuple[int, ...]) -> Entry:
    content = read_record(folder / RECORD)
    changed_at, identity = _changed_at(str(folder)), _changed_at(f"{folder}/{IDENTITY}")
    weights = None
    with suppress(TypeError, ValueError):
        if _as_record(content).lacks(folder) is None:
            weights = tuple(sorted(file.name for file in folder.glob("*.safetensors")))
    kept = {key: value for key, value in content.items() if key not in LEFT_OUT}
    return Entry(kept, is_changed(content), weights, changed_at, stamp, Origin.read(folder), identity)


def _as_record(content: Mapping[str, Any]) -> Record:
    kept = {key: v for key, v in content.items() if key in _KNOWN and (v is not None or key in MAY_BE_NULL)}
    return Record(**kept)


def _stamp(path: str) -> tuple[int, ...]:
    found = os.stat(path)
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _changed_at(path: str) -> int:
    try:
        return os.stat(path).st_ctime_ns
    except OSError:
        return 0


def _digest(content: memoryview) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST).digest()


def _version() -> bytes:
    """What the index of one version depends on beside the records."""
    return json.dumps([1, sdpet.__version__, list(ways_of({"trainer": {}})), question_of({"trainer": {}})]).encode()


def _write(path: Path, entries: Mapping[str, Entry]) -> None:
    import pyarrow
    from pyarrow import parquet

    kept = list(entries.values())
    columns: dict[str, Any] = {"name": pyarrow.array(list(entries))}
    for place, part in enumerate(STAMP):
        columns[part] = pyarrow.array([entry.stamp[place] for entry in kept], pyarrow.uint64())
    for part in ("folder", "identity"):
        columns[part] = pyarrow.array([getattr(entry, part) for entry in kept], pyarrow.uint64())
    columns["changed"] = pyarrow.array([entry.changed for entry in kept])
    columns["weights"] = _texts(entry.weights for entry in kept)
    columns["question"] = pyarrow.array([entry.origin.question if entry.origin else None for entry in kept])
    columns["ways"] = _texts(entry.origin and entry.origin.ways for entry in kept)
    for key in dict.fromkeys(key for entry in kept for key in entry.content):
        values = [entry.content.get(key, ...) for entry in kept]
        if key in SEEDED:
            columns[f"seed {key}"] = _texts(v["seed"] if isinstance(v, dict) and "seed" in v else ... for v in values)
            values = [v | {"seed": None} if isinstance(v, dict) and "seed" in v else v for v in values]
        columns[f"record {key}"] = _texts(values)
    table = pyarrow.table(columns).replace_schema_metadata({"sdpet": _version()})
    buffer = pyarrow.BufferOutputStream()
    parquet.write_table(table, buffer, compression="zstd")
    content = memoryview(buffer.getvalue())
    path.write_bytes(_digest(content) + content)


def _texts(values: Iterable[Any]) -> pyarrow.Array:
    """Values as JSON, each text once; null for what a record does not have (...)."""
    import pyarrow

    known: dict[int, tuple[Any, str]] = {}  # runs of an index share values: each is written once

    def text(value: Any) -> str | None:
        if value is ...:
            return None
        if id(value) not in known:
            known[id(value)] = value, json.dumps(value, separators=(",", ":"))
        return known[id(value)][1]

    return pyarrow.array([text(value) for value in values], pyarrow.string()).dictionary_encode()


@collection_paused()
def _load(path: Path) -> dict[str, Entry]:
    """The entries of an index by the name of the run's folder; none where it cannot be used."""
    if not path.is_file() or importlib.util.find_spec("pyarrow") is None:
        return {}
    from pyarrow import ArrowException, BufferReader, parquet

    try:
        content = memoryview(path.read_bytes())
        if content[:DIGEST] != _digest(content[DIGEST:]):
            return {}
        table = parquet.read_table(BufferReader(content[DIGEST:]))
        if (table.schema.metadata or {}).get(b"sdpet") != _version():
            return {}
        return _entries(table)
    except (ArrowException, OSError, ValueError, KeyError, TypeError, IndexError):
        return {}


def _entries(table: pyarrow.Table) -> dict[str, Entry]:
    values: dict[str, list[Any]] = {}
    for name in table.column_names:
        values[name] = _parsed(table[name]) if " " in name or name in ("weights", "ways") else table[name].to_pylist()
    keys = [name.removeprefix("record ") for name in table.column_names if name.startswith("record ")]
    contents: list[dict[str, Any]] = [{} for _ in range(len(table))]
    for key in keys:
        column, seeds = values[f"record {key}"], values.get(f"seed {key}")
        for number, content in enumerate(contents):
            value = column[number]
            if value is not ...:
                seed = ... if seeds is None else seeds[number]
                content[key] = value if seed is ... else {**value, "seed": seed}
    columns = (values[part] for part in ("name", "changed", "weights", "folder", "identity", "question", "ways"))
    stamps = zip(*(values[part] for part in STAMP), strict=True)
    found = {}
    for content, stamp, name, changed, weights, folder, identity, question, ways in zip(
        contents, stamps, *columns, strict=True
    ):
        origin = None if question is None else Origin(question, ways)
        files = None if weights is None else tuple(weights)
        found[name] = Entry(content, changed, files, folder, stamp, origin, identity)
    return found


def _parsed(column: pyarrow.ChunkedArray) -> list[Any]:
    """The values of a column of JSON; equal texts give the same object."""
    values: list[Any] = []
    for chunk in column.unify_dictionaries().chunks:
        known = [json.loads(text) for text in chunk.dictionary.to_pylist()]
        values += [... if place is None else known[place] for place in chunk.indices.to_pylist()]
    return values
