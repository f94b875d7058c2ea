"""Weights & Biases: one W&B run for each run, also where several are trained together in one process.

A run's summary holds its scores by name, for W&B's own charts, and under "record" what record.json holds (but for the
loss, which is W&B's history), so that `analysis.load_results` reads from W&B what it reads from run folders.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sdpet.config import RunConfig, name_of
from sdpet.config.wandb_account import has_account
from sdpet.runs.loggers.base import VALIDATION, NoLog
from sdpet.runs.record import FILE, factors

if TYPE_CHECKING:
    import numpy as np
    import wandb

    from sdpet.runs.record import Record

LOG = logging.getLogger("sdpet")
SHOWN = 16  # samples of a run in its table
INTERRUPTED = 255  # the exit code by which W&B's own hooks tell Ctrl-C


class WandbLog(NoLog):
    """Losses and images as they come; scores, samples and adapter at the end; "failed" unless the run finished.

    Trust the status in the summary rather than W&B's state: a process that is killed cannot report its end.
    """

    def __init__(self, config: RunConfig, folder: Path) -> None:
        self._run = _open(config, folder)
        # Where an online run is resumed, the steps that W&B has already are told again.
        self._known = self._run.step if self._run.resumed else 0
        self._status = "training"
        self._run.summary.update({"status": self._status})

    def step(self, step: int, loss: float) -> None:
        if step > self._known:
            self._run.log({"loss": loss}, step=step)

    def images(self, step: int, images: Sequence[np.ndarray]) -> None:
        import wandb

        if step > self._known:
            self._run.log({VALIDATION: [wandb.Image(image) for image in images]}, step=step)

    def summarize(self, record: Record, folder: Path) -> None:
        self._status = record.status
        # A width that was derived from a number of parameters is known only now.
        self._run.config.update(record.factors, allow_val_change=True)
        self._log_samples(folder / "samples")
        content = record.content()
        del content["loss"]
        self._run.summary.update({"status": record.status, "reason": record.reason, **content["metrics"]})
        self._run.summary.update({"record": content})
        if record.factors["method"] != "full":  # a whole model a run would fill anyone's storage
            self._log_weights(record, folder)

    def close(self, error: BaseException | None = None) -> None:
        if error is None:
            self._run.finish(exit_code=0 if self._status == "finished" else 1)
        elif isinstance(error, Exception):
            self._run.summary.update({"status": "failed", "reason": f"{type(error).__name__}: {error}"})
            self._run.finish(exit_code=1)
        else:  # Ctrl-C or SIGTERM
            self._run.summary.update({"status": "interrupted"})
            self._run.finish(exit_code=INTERRUPTED)

    def _log_samples(self, folder: Path) -> None:
        import wandb

        index = folder / "index.jsonl"
        lines = index.read_text(encoding="utf-8").splitlines()[:SHOWN] if index.exists() else []
        if not lines:
            return
        entries = [json.loads(line) for line in lines]
        table = wandb.Table(columns=["image", "prompt", "role", "seed"])
        for e in entries:
            table.add_data(wandb.Image(str(folder / e["file"])), e["prompt"], e.get("role"), e["seed"])
        pictures = [wandb.Image(str(folder / e["file"]), caption=e["prompt"]) for e in entries[: SHOWN // 2]]
        self._run.log({"samples": pictures, "sample_table": table})

    def _log_weights(self, record: Record, folder: Path) -> None:
        import wandb

        described = {**record.factors, **record.metrics, "study": record.study, "run_id": record.run_id}
        artifact = wandb.Artifact(f"adapter-{record.run_id}", type="adapter", metadata=described)
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            return
        for file in [*files, *sorted(set(folder.glob("*.json")) - {folder / FILE})]:
            artifact.add_file(str(file), policy="immutable")  # no copy outside the run's folder
        self._run.log_artifact(artifact)


def wandb_id(study: str, run_id: str) -> str:
    """The id of a run at W&B: the same whenever and wherever this run is done, and another one in another study."""
    return f"{run_id}-{hashlib.blake2b(study.encode(), digest_size=4).hexdigest()}"


def tell_failure(config: RunConfig, folder: Path, record: Record) -> None:
    """Send the record of a run that could not report its end to W&B. No other log may be open in this process."""
    import wandb

    log = WandbLog(config, folder)
    log.summarize(record, folder)
    log.close()
    wandb.teardown()


def _open(config: RunConfig, folder: Path) -> wandb.Run:
    import wandb

    logger, run_id = config.logger, folder.name
    mode = os.environ.get("WANDB_MODE") or str(logger.mode)
    if mode == "auto":
        mode = "online" if has_account() else "offline"

    def init(mode: str) -> wandb.Run:
        return wandb.init(
            project=logger.project,
            entity=logger.entity,
            mode=mode,  # type: ignore[arg-type]
            group=config.study,
            name=name_of(config),
            id=wandb_id(config.study, run_id),
            resume="allow",
            reinit="create_new",  # the runs of a fleet are open at once, and none is the process's own
            job_type="train",
            config={
                **factors(config),
                "study": config.study,
                "run_id": run_id,
                "task": config.task.name,
                "data": config.data.name,
                "config": dict(config.values),
            },
            dir=str(folder.parent.resolve()),
            settings=wandb.Settings(silent=True, console="off"),
        )

    try:
        return init(mode)
    except wandb.errors.CommError as error:
        if logger.mode != "auto":
            raise
        has_account.cache_clear()
        LOG.warning("W&B cannot be reached (%s); this run is logged offline", error)
        return init("offline")
