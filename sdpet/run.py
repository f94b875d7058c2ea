"""One run: a design trained, sampled and scored, in one folder that is complete when its record is there."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpet.files import no_space, settle
from sdpet.ranks import company, count, orders, started_as
from sdpet.record import Record, bin_loss, factors
from sdpet.stage import Stage, anchors_of, design_of, eval_plan, floor_images, hush
from sdpet.study.checkpoint import SECONDS, Keeper, read_checkpoint, remove_checkpoint
from sdpet.study.claim import Claim, claim
from sdpet.study.folder import clear_unfinished, start_afresh
from sdpet.study.log import open_log, tell_failure
from sdpet.study.trained import remember_training, score_trained, trained_before
from sdpet.study.validate import run_folder, run_id, validate

if TYPE_CHECKING:
    from sdpet.fit import TrainConfig
    from sdpet.methods import Handle
    from sdpet.scoring import Evaluation

__all__ = ["fleet_key", "run", "run_together", "validate"]

Watch = Callable[..., None]  # (phase: train or sample, steps done, steps in all); in training then the loss
Done = Callable[[int, Record | None], None]
OWN = ("lr", "weight_decay", "warmup", "schedule", "clip", "ema", "optimizer")  # of trainer: free within a fleet
SHARED = ("steps", "precision", "accumulate", "grad_checkpointing", "compile", "validate_every")
TRAINER_KEYS = (*OWN, *SHARED)  # what fit() takes


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
        for place, record in [(0, scored)] if scored else _run(runs, stage, watch):
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


def _run(
    runs: Sequence[tuple[dict[str, Any], Path, dict[str, Any] | None]], stage: Stage, watch: Watch | None
) -> Iterator[tuple[int, Record]]:
    """Place and record of each run (config, folder, state to go on from), when all of them are trained and scored."""
    hush()
    import torch
    from hydra.utils import instantiate

    from sdpet.fit import fit_together
    from sdpet.loop import Alone, Member
    from sdpet.methods import build, build_fleet
    from sdpet.sample import NOT_FINITE
    from sdpet.scoring import evaluate_together, save_noise_map, save_samples
    from sdpet.validation import Validation

    config = runs[0][0]
    torch.set_num_threads(config["trainer"]["threads"])
    base, task, scorers = stage.base(config), stage.task(config, watch), stage.scorers(config)
    frames = [anchors_of(own, stage, floor_images(own["seed"])) for own, _, _ in runs]
    base_params = sum(p.numel() for p in base.unet.parameters())
    started = time.perf_counter()
    designs = [design_of(own, base) for own, _, _ in runs]
    seeds = [own["seed"] for own, _, _ in runs]
    fleet = None if len(runs) == 1 else build_fleet(base, designs, seeds)
    handles: Sequence[Handle] = fleet.members if fleet else [build(base, designs[0], seeds[0])]
    crew = fleet or Alone()
    records, members = [], []
    try:
        with ExitStack() as stack:
            logs = [stack.enter_context(open_log(own, folder)) for own, folder, _ in runs]
            for (own, folder, state), design, handle, frame, log in zip(
                runs, designs, handles, frames, logs, strict=True
            ):
                options = options_of(own)
                for step, loss in enumerate((state or {"loss": []})["loss"]):
                    log.step(step + 1, loss)
                members.append(Member(handle, own["seed"], options, _on_step(log, watch, options.steps), state))
                records.append(
                    Record(
                        run_id=folder.name,
                        study=own["study"],
                        status="finished",
                        factors=factors(own, design.mid_dim),
                        task=task.describe(),
                        anchors=frame,
                    )
                )
            keeper = Keeper(
                [folder for _, folder, _ in runs], lambda: crew.aboard, config.get("checkpoint_seconds", SECONDS)
            )
            sampler, plan = instantiate(config["sampler"]), eval_plan(config)
            validate = Validation(base, task, sampler, plan, seeds, [folder for _, folder, _ in runs])
            with company(config, runs[0][1]) as rank:
                results = fit_together(base, members, task, fleet, keeper, rank, validate)
            for (_, folder, _), handle, record, result in zip(runs, handles, records, results, strict=True):
                record.loss = bin_loss(result.loss)
                record.peak_memory = result.peak_memory_bytes
                record.seconds = {"train": result.seconds, "per_step": result.seconds_per_step}
                handle.save(folder)
                record.sizes = _sizes(folder, handle, base_params)
                if result.diverged:
                    record.status = "diverged"
                    record.reason = f"the loss was not finite at step {len(result.loss)}"
            scored = [i for i in crew.aboard if records[i].status == "finished"]
            if scored:
                found = evaluate_together(
                    base, task, scorers, sampler, [seeds[i] for i in scored], plan, _sampling(watch)
                )
                for i, scores in zip(scored, found, strict=True):
                    if scores is None:
                        records[i].status, records[i].reason = "diverged", NOT_FINITE
                        continue
                    records[i].metrics, records[i].protocol = scores.metrics, scores.protocol
                    records[i].seconds |= scores.seconds
                    records[i].missing = scores.missing
                    save_samples(scores, runs[i][1] / "samples")
                    save_noise_map(scores, runs[i][1])
            for (_, folder, _), record, log in zip(runs, records, logs, strict=True):
                record.seconds["total"] = (time.perf_counter() - started) / len(runs)
                log.summarize(record, folder)
    finally:
        for handle in handles:
            handle.detach()
        if fleet:
            fleet.detach()
    yield from enumerate(records)


def options_of(config: Mapping[str, Any]) -> TrainConfig:
    """How a run of this config is trained."""
    from sdpet.fit import TrainConfig

    return TrainConfig(**{key: config["trainer"][key] for key in TRAINER_KEYS if key in config["trainer"]})


def _on_step(log: Any, watch: Watch | None, steps: int) -> Callable[[int, float], None]:
    def on_step(step: int, loss: float) -> None:
        log.step(step, loss)
        if watch:
            watch("train", step, steps, loss)

    return on_step


def evaluate(config: Any, folder: Path, stage: Stage | None = None, watch: Watch | None = None) -> Evaluation:
    """Sample and score the design saved in `folder` under a (validated) config's sampler and eval."""
    hush()
    import torch
    from hydra.utils import instantiate

    from sdpet.methods import load
    from sdpet.scoring import evaluate_run

    stage = stage or Stage()
    torch.set_num_threads(config["trainer"]["threads"])
    base, task, scorers = stage.base(config), stage.task(config), stage.scorers(config)
    handle = load(base, folder)
    try:
        sampler = instantiate(config["sampler"])
        return evaluate_run(base, task, scorers, sampler, config["seed"], eval_plan(config), _sampling(watch))
    finally:
        handle.detach()


def _sizes(folder: Path, handle: Handle, base_params: int) -> dict[str, int | None]:
    written = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    return {
        "trainable_params": handle.num_parameters(),
        "base_params": base_params,
        "adapters": len(handle),
        "bytes": written,
    }


def _sampling(watch: Watch | None) -> Callable[[int, int], None] | None:
    return None if watch is None else lambda done, total: watch("sample", done, total)
