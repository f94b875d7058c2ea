"""Which question of a study has an answer already, computed in whatever way. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sdpet.config import RunConfig, run_folder
from sdpet.files.hashing import unchanging
from sdpet.runs.copies import Origin, write_identity
from sdpet.runs.record import FILE as RECORD
from sdpet.runs.record_index import RecordIndex
from sdpet.runs.stored import stored_config


class KnownRuns:
    """The complete runs of a study by their question.

    Parameters
    ----------
    study : Path
        The study's folder.
    asked : sequence of str
        Ways that belong to the question, see `asked_ways`.
    records : RecordIndex, optional
        The study's records.
    """

    def __init__(self, study: Path, asked: Sequence[str] = (), records: RecordIndex | None = None) -> None:
        self._study, self._asked = study, asked
        self._records = RecordIndex(study) if records is None else records
        self._by_question: dict[str, list[str]] | None = None

    def folder(self, config: RunConfig, own: Path) -> Path:
        """The folder of the complete run that answers the same question; the run's own folder if there is none."""
        if config.again or self._is_complete(own):
            return own
        if self._by_question is None:
            self._by_question = self._read()
        if not self._by_question:
            return own
        others = self._by_question.get(Origin.of(config).key(self._asked), [])
        return next((self._study / name for name in others if self._is_complete(self._study / name)), own)

    def _is_complete(self, folder: Path) -> bool:
        record = self._records.find(folder)
        return record is not None and record.status != "failed"

    def _read(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        with unchanging():
            for path in sorted(self._study.glob(f"*/{RECORD}")):
                origin = self._records.origin(path.parent.name) or _of_older_version(path.parent)
                if origin is not None:
                    found.setdefault(origin.key(self._asked), []).append(path.parent.name)
        return found


def _of_older_version(folder: Path) -> Origin | None:
    """Question and way of a run whose identity was not stored; None if its data or weights are gone or have changed."""
    with suppress(Exception):  # old configs may lack anything
        config = stored_config(folder)
        if run_folder(config).name == folder.name:
            write_identity(folder, config)
            return Origin.of(config)
    return None
