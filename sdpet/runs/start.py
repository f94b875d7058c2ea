"""Start runs: lock them, skip complete ones, and write a record for every other one."""

from __future__ import annotations

import logging
import os
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Any

from sdpet.config import RunConfig, fleet_key, run_folder, settings_of, validate
from sdpet.files.atomic import fsync_folder, no_space
from sdpet.files.lock import RunLock, run_lock
from sdpet.runs.checkpoint import read_checkpoint, remove_checkpoint
from sdpet.runs.distributed import dispatcher, external_rank
from sdpet.runs.execute import PreparedRun, train_and_score
from sdpet.runs.folder import prepare_run_folder, remove_incomplete, write_config
from sdpet.runs.libraries import quiet_libraries
from sdpet.runs.loggers.choose import tell_failure
from sdpet.runs.record import CONFIG, SAMPLES, Record, factors
from sdpet.runs.reuse import draw_samples_again, find_trained, register_training, score_existing
from sdpet.runs.setup import ProgressCallback, Resources

LOG = logging.getLogger("sdpet")
POLL = 1.0  # seconds between checks of runs that another process is working on
DoneCallback = Callable[[int, Record | None], None]


def run(config: Any, resources: Resources | None = None, progress: ProgressCallback | None = None) -> Record | None:
    """Train, sample and score one design.

    Parameters
    ----------
    config : DictConfig, mapping or RunConfig
        The config that Hydra composed, or one that is checked already.
    resources : Resources, optional
        Models and data that calls share.
    progress : callable, optional
        Called as ``progress("train", step, steps, loss)`` and ``progress("sample", done, total)``.

    Returns
    -------
    Record or None
        The record, whose status may be "diverged" or "failed". A complete run is not repeated, unless it failed.
        None if another process is working on the same run.

    Raises
    ------
    ValueError
        The config is invalid. One sentence says why, before any work.
    """
    return run_together([config], resources, progress)[0]


def run_together(
    configs: Sequence[Any],
    resources: Resources | None = None,
    progress: ProgressCallback | None = None,
    done: DoneCallback | None = None,
    wait: bool = False,
) -> list[Record | None]:
    """`run` for several configs that can share a fleet (equal `fleet_key`).

    If a fleet ends with an error, such as too little memory, its two halves are tried. Only a run that fails alone is
    recorded as failed.

    Parameters
    ----------
    configs, resources, progress
        See `run`.
    done : callable, optional
        Called as ``done(i, record)`` as soon as run i has its record.
    wait : bool
        Whether to wait for runs that another process is working on, instead of returning None for them.

    Returns
    -------
    list of Record or None
        One for each config, see `run`.

    Raises
    ------
    ValueError
        A config is invalid.
    OSError
        The disk is full. Complete runs are kept, and unfinished ones are removed, not recorded as failed.
    """
    work = _Work([validate(config) for config in configs], resources or Resources(), done)
    rank = external_rank(work.configs[0])
    if rank is not None and rank.rank > 0:
        dispatcher(work.configs[0]).serve()
        return [Record.find(folder) for folder in work.folders]
    with quiet_libraries(), ExitStack() as locks:
        if rank is not None:
            locks.callback(dispatcher(work.configs[0]).broadcast, {})
        while True:
            fleets = work.claim(locks)
            while fleets:
                fleet = fleets.popleft()
                try:
                    source = work.prepare(fleet)
                    runs = [work.prepared_run(i) for i in fleet]
                    if (kept := work.kept.get(fleet[0])) is not None:
                        work.finish(fleet[0], draw_samples_again(runs[0], kept, work.resources, progress))
                    elif source is not None:
                        work.finish(fleet[0], score_existing(runs[0], source, work.resources, progress))
                    else:
                        for i, record in zip(fleet, train_and_score(runs, work.resources, progress), strict=True):
                            work.finish(i, record)
                except Exception as error:  # is recorded, so that the other runs of a study continue
                    retried = work.after_error(fleet, error)
                except BaseException:  # Ctrl-C or SIGTERM
                    remove_incomplete([work.folders[i] for i in fleet if i not in work.finished])
                    raise
                else:
                    retried = []
                fleets.extendleft(reversed(retried))
            if not wait or all(record is not None for record in work.records):
                return work.records
            time.sleep(POLL)


def load_ahead(config: RunConfig, resources: Resources) -> None:
    """Load task and scorers before a run needs them. Loading errors are ignored here; the runs will report them."""
    with quiet_libraries(), suppress(Exception):
        resources.task(config)
        resources.scorers(config)


class _Work:
    """The state of one call of `run_together`: locks, checkpoints and records of the runs, by their index."""

    def __init__(self, configs: Sequence[RunConfig], resources: Resources, done: DoneCallback | None) -> None:
        self.configs, self.resources, self._done = configs, resources, done
        self.folders = [run_folder(config) for config in configs]
        self.records: list[Record | None] = [None] * len(configs)
        self.finished: set[int] = set()
        self.kept: dict[int, Record] = {}  # of runs whose weights are there and whose samples were lost
        self._locks: dict[int, RunLock] = {}
        self._states: dict[int, dict[str, Any] | None] = {}

    def claim(self, locks: ExitStack) -> deque[list[int]]:
        """Lock the runs that are not complete, and group them into fleets.

        Runs that resume at the same step form a group. A run whose weights are trained already is done alone.
        """
        groups: dict[int | str, list[int]] = {}
        for i, (config, folder) in enumerate(zip(self.configs, self.folders, strict=True)):
            if self.records[i] is not None or i in self._locks:  # complete, or lost to another process
                self.records[i] = self.records[i] or Record.find(folder)
                continue
            lock = locks.enter_context(run_lock(folder))
            before = self._found(i) if lock else None
            self.records[i] = before
            if lock is None or (before is not None and before.status != "failed"):
                if self._done:
                    self._done(i, before)
                continue
            self._locks[i] = lock
            if i in self.kept:
                groups[folder.name] = [i]
                continue
            state = self._states[i] = read_checkpoint(folder)
            trained = state is None and find_trained(folder, config)
            groups.setdefault(folder.name if trained else (state or {"step": 0})["step"], []).append(i)
        fleets: deque[list[int]] = deque()
        for group in groups.values():
            most = self.resources.max_fleet_size.get(fleet_key(self.configs[group[0]]), len(group))
            fleets.extend(group[start : start + most] for start in range(0, len(group), most))
        return fleets

    def _found(self, i: int) -> Record | None:
        """The record of a run that is complete; a lost config.yaml is written again, and lost samples are noted."""
        folder, record = self.folders[i], Record.readable(self.folders[i])
        lacks = None if record is None else record.lacks(folder)
        if record is None or lacks is None:
            return record
        if lacks in (SAMPLES, CONFIG) and not (folder / CONFIG).exists():
            write_config(folder, self.configs[i])
            lacks = record.lacks(folder)
        if lacks == SAMPLES:
            self.kept[i] = record
        return record if lacks is None else None

    def prepare(self, fleet: Sequence[int]) -> Record | None:
        """Make the folders of a fleet; for a single run, return the record of the run that has trained its weights."""
        if fleet[0] in self.kept:
            return None
        for i in fleet:
            prepare_run_folder(self.folders[i], self.configs[i], resumes=self._states[i] is not None)
        if len(fleet) > 1 or self._states[fleet[0]] is not None:
            return None
        return find_trained(self.folders[fleet[0]], self.configs[fleet[0]])

    def prepared_run(self, i: int) -> PreparedRun:
        return PreparedRun(self.configs[i], self.folders[i], self._states.get(i))

    def finish(self, i: int, record: Record) -> None:
        """Write the record as the last file, so that a run with a record is complete."""
        if not self._locks[i].is_held():  # our lease expired and another process took over this run
            self.records[i] = None
            self.finished.add(i)
            return
        fsync_folder(self.folders[i])
        record.write(self.folders[i])
        remove_checkpoint(self.folders[i])
        if record.status == "finished" and record.trained_in is None and i not in self.kept:
            register_training(self.folders[i], self.configs[i])
        self.records[i] = Record.read(self.folders[i])  # as other processes will read it
        if self._done:
            self._done(i, self.records[i])
        self.finished.add(i)

    def after_error(self, fleet: Sequence[int], error: Exception) -> list[list[int]]:
        """Record the failure of a single run; for a fleet, return the halves to try again."""
        left = [i for i in fleet if i not in self.finished]
        full = no_space(error)
        if full is not None:  # the other runs would fail as well
            remove_incomplete([self.folders[i] for i in left], keep_validation=False)
            raise OSError(
                full, os.strerror(full), getattr(error, "filename", None) or str(self.folders[left[0]])
            ) from error
        if fleet[0] in self.kept:
            self._say_not_drawn(fleet[0], error)
            return []
        if len(fleet) == 1:
            self._record_failure(fleet[0], error)
            return []
        if is_out_of_memory(error):
            self.resources.max_fleet_size[fleet_key(self.configs[fleet[0]])] = max(1, len(fleet) // 2)
        half = (len(left) + 1) // 2
        return [part for part in (left[:half], left[half:]) if part]

    def _say_not_drawn(self, i: int, error: Exception) -> None:
        """Samples that were lost could not be drawn again: the record stays as it is."""
        LOG.warning(
            "%s: the samples were lost and cannot be drawn again (%s: %s); its record and its weights are kept.",
            self.folders[i], type(error).__name__, " ".join(str(error).split()).rstrip("."),
        )  # fmt: skip
        self.records[i] = self.kept[i]
        self.finished.add(i)
        if self._done:
            self._done(i, self.records[i])

    def _record_failure(self, i: int, error: Exception) -> None:
        config, folder = self.configs[i], self.folders[i]
        cause = error.__cause__ if type(error).__name__ == "InstantiationException" and error.__cause__ else error
        (folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
        record = failure(config, f"{type(cause).__name__}: {cause}")
        self.finish(i, record)
        tell_failure(config, folder, record)


def is_out_of_memory(error: Exception) -> bool:
    """Whether the error says that memory ran out, on the CPU or a GPU."""
    return isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate memory" in str(error)


def failure(config: RunConfig, reason: str) -> Record:
    """The record of a run that ended with an error."""
    return Record(
        run_id=run_folder(config).name,
        study=config.study,
        status="failed",
        reason=" ".join(reason.split()),
        factors=factors(config),
        task={"name": config.task.name, "data": config.data.name},
        settings=settings_of(config),
    )
