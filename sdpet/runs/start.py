"""One run: a design trained, sampled and scored, in one folder that is complete when its record is there."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpet.config.checks import validate
from sdpet.config.ids import run_folder, run_id
from sdpet.files.atomic import no_space, settle
from sdpet.files.lock import Claim, claim
from sdpet.runs.checkpoint import read_checkpoint, remove_checkpoint
from sdpet.runs.distributed import count, orders, started_as
from sdpet.runs.execute import Watch, train_and_score
from sdpet.runs.folder import clear_unfinished, start_afresh
from sdpet.runs.loggers.choose import tell_failure
from sdpet.runs.record import Record, factors
from sdpet.runs.reuse import remember_training, score_trained, trained_before
from sdpet.runs.setup import OWN, Stage, hush

if TYPE_CHECKING:
    pass

__all__ = ["fleet_key", "run", "run_together", "validate"]

Done = Callable[[int, Record | None], None]


def run(config: Any, stage: Stage | None = None, watch: Watch | None = None) -> Record | None:
    """Train, sample and score one design; gives its record, which may say "diverged" or "failed".

    config: composed by Hydra, or a plain mapping. A run that is complete is not done again, unless it failed. None:
    another process is doing this very run. Raises ValueError for a config that cannot be run, before any work.
    """
    return run_together([config], stage, watch)[0]


def run_together(
    configs: Sequence[Any], stage: Stage | None = None, watch: Watch | None = None, done: Done | None = None
) -> list[Record | None]:
    """`run` for several configs that can share a fleet (equal `fleet_key`): one record each, or None.

    done(i, record) is called as soon as run i has its record. A fleet that ends with an error, such as too little
    memory, is tried again in halves, so that only runs that fail alone are recorded as failed. Raises OSError when the
    disk is full, which is no run's own fault: what was done stays, what was under way is cleared away.
    """
    checked = [validate(config) for config in configs]
    folders = [run_folder(config) for config in checked]
    records: list[Record | None] = [None] * len(checked)
    held: dict[int, Claim] = {}
    stage = stage or Stage()

    def finish(i: int, record: Record) -> None:
        if not held[i].holds():  # we were without a sign of life for long: another process does this run now
            records[i] = None
            return
        settle(folders[i])
        record.write(folders[i])
        remove_checkpoint(folders[i])
        if record.status == "finished" and record.trained_in is None:
            remember_training(folders[i], checked[i])
        records[i] = Record.read(folders[i])  # as everyone else will see it
        if done:
            done(i, records[i])

    rank = started_as(checked[0])
    if rank is not None and rank.rank > 0:
        orders(checked[0]).follow()
        return [Record.find(folder) for folder in folders]
    with ExitStack() as claims:
        if rank is not None:
            claims.callback(orders(checked[0]).give, {})
        todo: dict[int | str, list[int]] = {}  # runs by the step at which they go on, or one by one if trained before
        states: dict[int, dict[str, Any] | None] = {}
        for i, folder in enumerate(folders):
            mine = claims.enter_context(claim(folder))
            before = Record.find(folder) if mine else None
            if mine and (before is None or before.status == "failed"):
                held[i] = mine
                states[i] = read_checkpoint(folder)
                trained = states[i] is None and trained_before(folder, checked[i])
                todo.setdefault(folder.name if trained else (states[i] or {"step": 0})["step"], []).append(i)
            elif done:
                done(i, before)
            records[i] = before
        for fleet in todo.values():
            most = stage.most.get(fleet_key(checked[fleet[0]]), len(fleet))
            for start in range(0, len(fleet), most):
                _attempt(fleet[start : start + most], checked, folders, states, stage, watch, finish)
    return records


def prepare(config: Mapping[str, Any], stage: Stage) -> None:
    """Load what runs of this validated config share, ahead of time. What cannot be loaded is for the runs to say."""
    hush()
    with suppress(Exception):
        stage.task(config), stage.scorers(config)


def fleet_key(config: Mapping[str, Any]) -> str:
    """Runs whose validated configs give equal keys can be trained together."""
    trainer = {k: v for k, v in config["trainer"].items() if k not in OWN}
    shared = {key: config[key] for key in ("unet", "task", "data", "sampler", "eval", "output_root")}
    alone = config["adapter"]["method"] != "adapter" or trainer["precision"] == "16-mixed" or count(config) > 1
    alone = alone or trainer.get("compile", False) or config["trainer"].get("optimizer") == "adamw8bit"
    return json.dumps([shared, trainer, run_id(config) if alone else None], sort_keys=True)


def _attempt(
    fleet: list[int],
    configs: Sequence[dict[str, Any]],
    folders: Sequence[Path],
    states: Mapping[int, dict[str, Any] | None],
    stage: Stage,
    watch: Watch | None,
    finish: Callable[[int, Record], None],
) -> None:
    """Do the runs `fleet` (numbers into the lists) together; after an error those without a record in halves."""
    left = list(fleet)
    try:
        for i in fleet:
            start_afresh(folders[i], configs[i], goes_on=states[i] is not None)
        runs = [(configs[i], folders[i], states[i]) for i in fleet]
        alone = len(fleet) == 1 and states[fleet[0]] is None
        source = trained_before(folders[fleet[0]], configs[fleet[0]]) if alone else None
        scored = source and score_trained(configs[fleet[0]], folders[fleet[0]], source, stage, watch)
        for place, record in [(0, scored)] if scored else train_and_score(runs, stage, watch):
            finish(fleet[place], record)
            left.remove(fleet[place])
        return
    except Exception as error:  # recorded, so that the other runs of a study go on
        full = no_space(error)
        if full is not None:  # room for the others is not there either
            clear_unfinished([folders[i] for i in left], keep_validation=False)
            raise OSError(full, os.strerror(full), getattr(error, "filename", None) or str(folders[left[0]])) from error
        if len(fleet) == 1:
            cause = error.__cause__ if type(error).__name__ == "InstantiationException" and error.__cause__ else error
            (folders[fleet[0]] / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
            record = failure(configs[fleet[0]], f"{type(cause).__name__}: {cause}")
            finish(fleet[0], record)
            tell_failure(configs[fleet[0]], folders[fleet[0]], record)
            return
        if is_memory(error):
            stage.most[fleet_key(configs[fleet[0]])] = max(1, len(fleet) // 2)
    except BaseException:  # Ctrl-C or SIGTERM: leave nothing half done
        clear_unfinished([folders[i] for i in left])
        raise
    half = (len(left) + 1) // 2  # outside of except, where the error still holds the fleet's memory
    for part in filter(None, (left[:half], left[half:])):
        _attempt(part, configs, folders, states, stage, watch, finish)


def is_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate memory" in str(error)


def failure(config: Mapping[str, Any], reason: str) -> Record:
    """The record of a run that ended with an error."""
    return Record(
        run_id=run_folder(config).name,
        study=config["study"],
        status="failed",
        reason=" ".join(reason.split()),
        factors=factors(config),
        task={"name": config["task"]["name"], "data": config["data"]["name"]},
    )
