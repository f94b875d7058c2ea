"""One run: a design trained, sampled and scored, in one folder that is complete when its record is there."""

from __future__ import annotations

import json
import os
import shutil
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpet.record import Record, bin_loss, factors
from sdpet.study.claim import claim
from sdpet.study.log import open_log
from sdpet.study.validate import LAB_IMAGES, base_folder, data_folders, placement, run_folder, validate

if TYPE_CHECKING:
    from sdpet.base import BaseModel
    from sdpet.methods import Handle
    from sdpet.scoring import EvalPlan, Evaluation, Scorer
    from sdpet.tasks import Task

__all__ = ["Stage", "run", "validate"]

Watch = Callable[[str, int, int], None]  # (phase: train or sample, steps done, steps in all)
TRAINER_KEYS = ("steps", "lr", "weight_decay", "warmup", "schedule", "clip", "precision")  # what fit() takes


class Stage:
    """What runs of one process share: base model, task and scorer, loaded when first needed."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[str, Any]] = {}

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
    config = validate(config)
    folder = run_folder(config)
    with claim(folder) as mine:
        if not mine:
            return None
        done = Record.find(folder)
        if done is not None and done.status != "failed":
            return done
        _start_afresh(folder, config)
        try:
            record = _run(config, folder, stage or Stage(), watch)
        except Exception as error:  # recorded, so that the other runs of a study go on
            cause = error.__cause__ if type(error).__name__ == "InstantiationException" and error.__cause__ else error
            record = failure(config, f"{type(cause).__name__}: {cause}")
            (folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
        except BaseException:  # Ctrl-C or SIGTERM: leave nothing half done
            shutil.rmtree(folder, ignore_errors=True)
            raise
        record.write(folder)
        return Record.read(folder)  # as everyone else will see it


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


def _run(config: dict[str, Any], folder: Path, stage: Stage, watch: Watch | None) -> Record:
    hush()
    import torch
    from hydra.utils import instantiate

    from sdpet.fit import fit
    from sdpet.methods import build
    from sdpet.scoring import evaluate_run, save_samples

    torch.set_num_threads(config["trainer"]["threads"])
    base, task, scorer = stage.base(config), stage.task(config), stage.scorer(config)
    sampler, plan, seed = instantiate(config["sampler"]), eval_plan(config), config["seed"]
    frame = anchors_of(config, stage)
    base_params = sum(p.numel() for p in base.unet.parameters())

    started = time.perf_counter()
    design = _design(config, base)
    handle = build(base, design, seed)
    train = config["trainer"]
    record = Record(
        run_id=folder.name,
        study=config["study"],
        status="finished",
        factors=factors(config, design.spec.mid_dim if design.spec else None),
        task=task.describe(),
        anchors=frame,
    )
    try:
        with open_log(config, folder) as log:

            def on_step(step: int, loss: float) -> None:
                log.step(step, loss)
                if watch:
                    watch("train", step, train["steps"])

            result = fit(
                base, handle, task, seed=seed, on_step=on_step,
                **{key: train[key] for key in TRAINER_KEYS},
            )  # fmt: skip
            record.loss = bin_loss(result.loss)
            record.peak_memory = result.peak_memory_bytes
            record.seconds = {"train": result.seconds, "per_step": result.seconds_per_step}
            handle.save(folder)
            record.sizes = _sizes(folder, handle, base_params)
            try:
                if result.diverged:
                    raise FloatingPointError(f"the loss was not finite at step {len(result.loss)}")
                scores = evaluate_run(base, task, scorer, sampler, seed, plan, _sampling(watch))
                record.metrics, record.protocol = scores.metrics, scores.protocol
                record.seconds |= scores.seconds
                save_samples(scores, folder / "samples")
            except FloatingPointError as error:
                record.status, record.reason = "diverged", str(error)
            record.seconds["total"] = time.perf_counter() - started
            log.summarize(record, folder)
    finally:
        handle.detach()
    return record


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
