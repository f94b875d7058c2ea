"""Weights & Biases: one W&B run for each run, also for runs of a fleet, which share a process.

The summary of a W&B run has the scores by name, for W&B's charts. Its key "record" has the content of record.json
without the loss, which is in W&B's history. So `analysis.load_results` can read the same results from W&B as from run
folders.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpet.config import RunConfig, name_of, named_settings
from sdpet.config.wandb_account import has_account
from sdpet.runs.copies import FILE as IDENTITY
from sdpet.runs.loggers.base import VALIDATION, NoLog
from sdpet.runs.record import FILE, factors

if TYPE_CHECKING:
    import numpy as np
    import wandb

    from sdpet.runs.record import Record

LOG = logging.getLogger("sdpet")
SHOWN = 16  # number of samples in the table of a run
INTERRUPTED = 255  # the exit code that W&B's own hooks use for Ctrl-C


class WandbLog(NoLog):
    """Sends losses and images during training, and scores, samples and the adapter at the end.

    Unless the run finishes, W&B shows it as failed. If the process is killed, it cannot report its end; so the status
    in the summary is more reliable than W&B's state.
    """

    is_kept = True

    def __init__(self, config: RunConfig, folder: Path) -> None:
        self._run = _open(config, folder)
        # A resumed run logs its first steps again; those that W&B has already are skipped. W&B's step is the next one.
        self._next = self._run.step if self._run.resumed else 0
        self._status = "training"
        self._run.summary.update({"status": self._status})

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        if step >= self._next:
            self._run.log(dict(values), step=step)

    def images(self, step: int, images: Sequence[np.ndarray]) -> None:
        import wandb

        if step >= self._next:
            self._run.log({VALIDATION: [wandb.Image(image) for image in images]}, step=step)

    def summarize(self, record: Record, folder: Path) -> None:
        self._status = record.status
        # If the width was derived from `params`, it is known only now.
        self._run.config.update(record.factors, allow_val_change=True)
        self._log_samples(folder / "samples")
        content = record.content()
        del content["loss"]
        self._run.summary.update({"status": record.status, "reason": record.reason, **content["metrics"]})
        self._run.summary.update({"record": content})
        if record.factors["method"] != "full":  # one full model per run would take too much storage
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

        metadata = {**record.factors, **record.metrics, "study": record.study, "run_id": record.run_id}
        artifact = wandb.Artifact(f"adapter-{record.run_id}", type="adapter", metadata=metadata)
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            return
        for file in [*files, *sorted(set(folder.glob("*.json")) - {folder / FILE, folder / IDENTITY})]:
            artifact.add_file(str(file), policy="immutable")  # W&B then makes no second copy of the file
        self._run.log_artifact(artifact)


def wandb_id(study: str, run_id: str) -> str:
    """The id of a run at W&B. It depends only on the study and the run, so a resumed run has the same id."""
    return f"{run_id}-{hashlib.blake2b(study.encode(), digest_size=4).hexdigest()}"


def tell_failure(config: RunConfig, folder: Path, record: Record) -> None:
    """Send the record of a run to W&B when the run itself could not; no other log may be open in this process."""
    import wandb

    log = WandbLog(config, folder)
    log.summarize(record, folder)
    log.close()
    wandb.teardown()


def tell_race(config: RunConfig, folder: Path, content: Mapping[str, Any]) -> None:
    """Send where a study's race stands to W&B, as a run of its own whose summary has the content of `.race.json`.

    Parameters
    ----------
    config : RunConfig
        Of any run of the study.
    folder : Path
        The study's folder.
    content : mapping
        Plain values.

    Notes
    -----
    No other log may be open in this process.
    """
    import wandb

    run = wandb.init(
        project=config.logger.project,
        entity=config.logger.entity,
        mode=_mode(config),  # type: ignore[arg-type]
        group=config.study,
        name=f"race of {config.study}",
        id=wandb_id(config.study, "race"),
        resume="allow",
        reinit="create_new",
        job_type="race",
        config={"report_of": config.study, "study": config.study},  # so marked, it is not read as a run with scores
        dir=str(folder.resolve()),
        settings=wandb.Settings(silent=True, console="off"),
    )
    run.summary.update({"race": dict(content)})
    run.finish(exit_code=0)
    wandb.teardown()


def shown_name(config: RunConfig, run_id: str) -> str:
    """The name of a run in lists: placement and seed, or as logger.run_name says."""
    if config.logger.run_name is None:
        return name_of(config)
    known = {"name": name_of(config), "study": config.study, "run_id": run_id}
    known |= {"task": config.task.name, "data": config.data.name, **factors(config)}
    return config.logger.run_name.format(**known)


def _mode(config: RunConfig) -> str:
    mode = os.environ.get("WANDB_MODE") or str(config.logger.mode)
    if mode == "auto":
        return "online" if has_account() else "offline"
    return mode


def _open(config: RunConfig, folder: Path) -> wandb.Run:
    import wandb

    logger, run_id = config.logger, folder.name
    mode = _mode(config)

    def init(mode: str) -> wandb.Run:
        return wandb.init(
            project=logger.project,
            entity=logger.entity,
            mode=mode,  # type: ignore[arg-type]
            group=config.study,
            name=shown_name(config, run_id),
            tags=[*logger.tags],
            notes=logger.notes,
            id=wandb_id(config.study, run_id),
            resume="allow",
            reinit="create_new",  # the runs of a fleet are open at the same time in this process
            job_type="train",
            config={
                **named_settings(config),
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
