"""One run: a design trained, sampled and scored, in one folder that is complete when its record is there."""

from __future__ import annotations

import json
import os
import shutil
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpet.record import Record, bin_loss, factors
from sdpet.study.checkpoint import Keeper, read_checkpoint, remove_checkpoint
from sdpet.study.claim import claim
from sdpet.study.log import open_log
from sdpet.study.validate import LAB_IMAGES, base_folder, data_folders, placement, run_folder, run_id, validate

if TYPE_CHECKING:
    from sdpet.base import BaseModel
    from sdpet.methods import Handle
    from sdpet.scoring import EvalPlan, Evaluation, Scorer
    from sdpet.tasks import Task

__all__ = ["Stage", "fleet_key", "run", "run_together", "validate"]

Watch = Callable[[str, int, int], None]  # (phase: train or sample, steps done, steps in all)
Done = Callable[[int, Record | None], None]
TRAINER_KEYS = ("steps", "lr", "weight_decay", "warmup", "schedule", "clip", "precision")  # what fit() takes


class Stage:
    """What runs of one process share: base model, task and scorer, loaded when first needed."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[str, Any]] = {}
        self.most: int | None = None  # members of a fleet that memory was found to be enough for

    def base(self, config: Mapping[str, Any]) -> BaseModel:
        from sdpet.base import load_base

        unet, device = config["unet"], config["trainer"]["device"]
        key = [str(base_folder(config)), unet["dtype"], device]
        return self._keep("base", key, lambda: load_base(unet["name"], base_folder(config), device, unet["dtype"]))

    def scorer(self, config: Mapping[str, Any]) -> Scorer:
        from hydra.utils import instantiate

        arguments = config["eval"]["scorer"]
        return self._keep("scorer", arguments, lambda: instantiate(arguments))

    def task(self, config: Mapping[str, Any]) -> Task:
        """Latents and text states are computed once a task, whatever the number of runs."""
        from hydra.utils import instantiate

        arguments = {k: v for k, v in config["task"].items() if k != "name"} | _data_arguments(config)
        arguments["batch_size"] = config["trainer"]["batch_size"]
        base = self.base(config)
        return self._keep("task", [arguments, id(base)], lambda: instantiate(arguments, _partial_=True)(base=base))

    def _keep(self, what: str, key: Any, make: Callable[[], Any]) -> Any:
        text = json.dumps(key, sort_keys=True, default=str)
        if what not in self._kept or self._kept[what][0] != text:
            self._kept.pop(what, None)  # free the old one before the new one is made
            self._kept[what] = (text, make())
        return self._kept[what][1]


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
    memory, is tried again in halves, so that only runs that fail alone are recorded as failed.
    """
    checked = [validate(config) for config in configs]
    folders = [run_folder(config) for config in checked]
    records: list[Record | None] = [None] * len(checked)
    stage = stage or Stage()

    def finish(i: int, record: Record) -> None:
        record.write(folders[i])
        remove_checkpoint(folders[i])
        records[i] = Record.read(folders[i])  # as everyone else will see it
        if done:
            done(i, records[i])

    with ExitStack() as claims:
        todo: dict[int, list[int]] = {}  # runs by the step at which they go on
        states: dict[int, dict[str, Any] | None] = {}
        for i, folder in enumerate(folders):
            mine = claims.enter_context(claim(folder))
            before = Record.find(folder) if mine else None
            if mine and (before is None or before.status == "failed"):
                states[i] = read_checkpoint(folder)
                todo.setdefault((states[i] or {"step": 0})["step"], []).append(i)
            elif done:
                done(i, before)
            records[i] = before
        for fleet in todo.values():
            _attempt(fleet, checked, folders, states, stage, watch, finish)
    return records


def fleet_key(config: Mapping[str, Any]) -> str:
    """Runs whose validated configs give equal keys can be trained together."""
    trainer = {
        k: v for k, v in config["trainer"].items() if k not in ("lr", "weight_decay", "warmup", "schedule", "clip")
    }
    shared = {key: config[key] for key in ("unet", "task", "data", "sampler", "eval", "output_root")}
    alone = config["adapter"]["method"] != "adapter" or trainer["precision"] == "16-mixed"
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
            _start_afresh(folders[i], configs[i])
        runs = [(configs[i], folders[i], states[i]) for i in fleet]
        for place, record in _run(runs, stage, watch):
            finish(fleet[place], record)
            left.remove(fleet[place])
        return
    except Exception as error:  # recorded, so that the other runs of a study go on
        if len(fleet) == 1:
            cause = error.__cause__ if type(error).__name__ == "InstantiationException" and error.__cause__ else error
            (folders[fleet[0]] / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
            finish(fleet[0], failure(configs[fleet[0]], f"{type(cause).__name__}: {cause}"))
            return
        if _is_memory(error):
            stage.most = max(1, len(fleet) // 2)
    except BaseException:  # Ctrl-C or SIGTERM: leave nothing half done
        for i in left:
            shutil.rmtree(folders[i], ignore_errors=True)
        raise
    half = (len(left) + 1) // 2  # outside of except, where the error still holds the fleet's memory
    for part in filter(None, (left[:half], left[half:])):
        _attempt(part, configs, folders, states, stage, watch, finish)


def _is_memory(error: Exception) -> bool:
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

    from sdpet.fit import TrainConfig, fit_together
    from sdpet.loop import Alone, Member
    from sdpet.methods import build, build_fleet
    from sdpet.sample import NOT_FINITE
    from sdpet.scoring import evaluate_together, save_samples

    config = runs[0][0]
    torch.set_num_threads(config["trainer"]["threads"])
    base, task, scorer = stage.base(config), stage.task(config), stage.scorer(config)
    frames = [anchors_of(own, stage) for own, _, _ in runs]
    base_params = sum(p.numel() for p in base.unet.parameters())
    started = time.perf_counter()
    designs = [_design(own, base) for own, _, _ in runs]
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
                options = TrainConfig(**{key: own["trainer"][key] for key in TRAINER_KEYS})
                for step, loss in enumerate((state or {"loss": []})["loss"]):
                    log.step(step + 1, loss)
                members.append(Member(handle, own["seed"], options, _on_step(log, watch, options.steps), state))
                records.append(
                    Record(
                        run_id=folder.name,
                        study=own["study"],
                        status="finished",
                        factors=factors(own, design.spec.mid_dim if design.spec else None),
                        task=task.describe(),
                        anchors=frame,
                    )
                )
            keeper = Keeper([folder for _, folder, _ in runs], lambda: crew.aboard if designs[0].spec else [])
            for (_, folder, _), handle, record, result in zip(
                runs, handles, records, fit_together(base, members, task, fleet, keeper), strict=True
            ):
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
                sampler, plan = instantiate(config["sampler"]), eval_plan(config)
                found = evaluate_together(
                    base, task, scorer, sampler, [seeds[i] for i in scored], plan, _sampling(watch)
                )
                for i, scores in zip(scored, found, strict=True):
                    if scores is None:
                        records[i].status, records[i].reason = "diverged", NOT_FINITE
                        continue
                    records[i].metrics, records[i].protocol = scores.metrics, scores.protocol
                    records[i].seconds |= scores.seconds
                    save_samples(scores, runs[i][1] / "samples")
            for (_, folder, _), record, log in zip(runs, records, logs, strict=True):
                record.seconds["total"] = (time.perf_counter() - started) / len(runs)
                log.summarize(record, folder)
    finally:
        for handle in handles:
            handle.detach()
        if fleet:
            fleet.detach()
    yield from enumerate(records)


def _on_step(log: Any, watch: Watch | None, steps: int) -> Callable[[int, float], None]:
    def on_step(step: int, loss: float) -> None:
        log.step(step, loss)
        if watch:
            watch("train", step, steps)

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
    base, task, scorer = stage.base(config), stage.task(config), stage.scorer(config)
    handle = load(base, folder)
    try:
        sampler = instantiate(config["sampler"])
        return evaluate_run(base, task, scorer, sampler, config["seed"], eval_plan(config), _sampling(watch))
    finally:
        handle.detach()


def anchors_of(config: Mapping[str, Any], stage: Stage) -> dict[str, dict[str, float | None]]:
    """Floor and ceiling of each metric, kept in output_root/.anchors for all runs that share them."""
    from hydra.utils import instantiate

    from sdpet.anchors import anchors

    base, task, scorer = stage.base(config), stage.task(config), stage.scorer(config)
    cache = Path(config["output_root"]).expanduser() / ".anchors"
    return anchors(base, task, scorer, instantiate(config["sampler"]), config["seed"], eval_plan(config), cache)


def protocol_of(config: Mapping[str, Any], stage: Stage) -> dict[str, Any]:
    """How scores under this config are made; needs no sampling."""
    from hydra.utils import instantiate

    from sdpet.scoring import protocol

    hush()
    base, task, scorer = stage.base(config), stage.task(config), stage.scorer(config)
    made_by = protocol(base, task, scorer, instantiate(config["sampler"]), eval_plan(config))
    return json.loads(json.dumps(made_by))  # as it reads in a record


def eval_plan(config: Mapping[str, Any]) -> EvalPlan:
    from hydra.utils import instantiate

    return instantiate({key: value for key, value in config["eval"].items() if key != "scorer"}, _convert_="all")


def hush() -> None:
    """Silence what libraries say to their own developers; called before they are imported."""
    import logging

    for name in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
        os.environ.setdefault(name, "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name in ("lightning.pytorch", "lightning.fabric", "lightning", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.formatwarning = lambda message, *place, **more: f"note: {message}\n"
    warnings.filterwarnings("ignore", module=r"(lightning|torch|diffusers|transformers|open_clip|torchmetrics)\..*")


def _design(config: Mapping[str, Any], base: BaseModel) -> Any:
    from dataclasses import replace

    from sdpet.adapters import AdapterSpec, mid_dim_for
    from sdpet.methods import Design

    adapter = config["adapter"]
    if adapter["method"] != "adapter":
        return Design(adapter["method"])
    form = {key: adapter[key] for key in ("activation", "scale", "init")}
    spec = AdapterSpec.parse(str(placement(adapter)), **form, mid_dim=adapter["mid_dim"] or 1)
    if adapter["mid_dim"] is None:
        spec = replace(spec, mid_dim=mid_dim_for(base.unet, spec, adapter["params"]))
    return Design("adapter", spec)


def _data_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    data, folders = config["data"], data_folders(config)
    if data["kind"] == "captions":
        source = str(folders["folder"]) if folders else data["name"]
        return {"data": source, "heldout_share": data["heldout_share"]}
    given = {key: str(folders[key]) if key in folders else None for key in LAB_IMAGES}
    return {**given, "data": data["name"], **{key: data[key] for key in ("prompt", "class_prompt", "token")}}


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


def _start_afresh(folder: Path, config: dict[str, Any]) -> None:
    """An empty folder but for config.yaml; what an interrupted or failed run left is removed, its record first."""
    import yaml

    (folder / "record.json").unlink(missing_ok=True)
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True), encoding="utf-8")
