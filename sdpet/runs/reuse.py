"""Runs of a study that differ in nothing but sampler and eval train once: the others score the same weights.

`.trained/<training_id>` beside the run folders holds the run_id of a run that has trained these weights.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpet.config.ids import training_id
from sdpet.files.atomic import atomically
from sdpet.runs.loggers.choose import open_log
from sdpet.runs.record import Record, factors
from sdpet.runs.setup import Stage, anchors_of, eval_plan, floor_images, hush, make_sampler

if TYPE_CHECKING:
    from sdpet.scoring import Evaluation
from sdpet.runs.execute import Watch, sampling_progress

if TYPE_CHECKING:
    from sdpet.runs.setup import Stage

WEIGHTS = (".safetensors", ".json")
NOT_WEIGHTS = ("record.json",)


def remember_training(folder: Path, config: Mapping[str, Any]) -> None:
    """To be called when the run in `folder` has its record."""
    note = folder.parent / ".trained" / training_id(config)
    note.parent.mkdir(exist_ok=True)
    atomically(note, lambda file: file.write_text(folder.name + "\n", encoding="utf-8"))


def trained_before(folder: Path, config: Mapping[str, Any]) -> Record | None:
    """The record of another finished run of this study with the very same training, or None."""
    try:
        name = (folder.parent / ".trained" / training_id(config)).read_text(encoding="utf-8").strip()
    except OSError:
        return None
    other = folder.parent / name
    if not name or other == folder:
        return None
    record = Record.find(other)  # None also where its weights are lost
    return record if record is not None and record.status == "finished" else None


def take_weights(source: Path, folder: Path) -> None:
    """The saved weights of a run in another run's folder, by hard link where the file system has them."""
    for file in sorted(source.iterdir()):
        if file.suffix in WEIGHTS and file.name not in NOT_WEIGHTS:
            try:
                os.link(file, folder / file.name)
            except OSError:
                shutil.copyfile(file, folder / file.name)


def score_trained(
    config: Mapping[str, Any], folder: Path, source: Record, stage: Stage, watch: Callable[..., None] | None = None
) -> Record:
    """The record of a (validated) run whose weights the run of `source` has trained: they are sampled and scored anew.

    Its loss, sizes and seconds of training are those of the other run; seconds["total"] is what this one took.
    """
    from sdpet.runs.reuse import evaluate
    from sdpet.scoring import save_noise_map, save_samples

    started = time.perf_counter()
    take_weights(folder.parent / source.run_id, folder)
    record = Record(
        run_id=folder.name,
        study=config["study"],
        status="finished",
        factors=factors(config, source.factors["mid_dim"]),
        task=source.task,
        anchors=anchors_of(config, stage, floor_images(config["seed"])),
        sizes=source.sizes,
        loss=source.loss,
        peak_memory=source.peak_memory,
        trained_in=source.run_id,
    )
    with open_log(config, folder) as log:
        for step, loss in source.loss:
            log.step(int(step), loss)
        try:
            scores = evaluate(config, folder, stage, watch)
            record.metrics, record.protocol, record.seconds = scores.metrics, scores.protocol, dict(scores.seconds)
            record.missing = scores.missing
            save_samples(scores, folder / "samples")
            save_noise_map(scores, folder)
        except FloatingPointError as error:
            record.status, record.reason = "diverged", str(error)
        record.seconds |= {key: source.seconds.get(key) for key in ("train", "per_step")}
        record.seconds["total"] = time.perf_counter() - started
        log.summarize(record, folder)
    return record


def evaluate(config: Any, folder: Path, stage: Stage | None = None, watch: Watch | None = None) -> Evaluation:
    """Sample and score the design saved in `folder` under a (validated) config's sampler and eval."""
    hush()
    import torch

    from sdpet.methods import load
    from sdpet.scoring import evaluate_run

    stage = stage or Stage()
    torch.set_num_threads(config["trainer"]["threads"])
    base, task, scorers = stage.base(config), stage.task(config), stage.scorers(config)
    handle = load(base, folder)
    try:
        sampler = make_sampler(config)
        return evaluate_run(base, task, scorers, sampler, config["seed"], eval_plan(config), sampling_progress(watch))
    finally:
        handle.detach()
