"""Where the loss of a run goes while it trains, besides its record: nowhere, a CSV file, or Weights & Biases."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdpet.record import Record


class NoLog:
    """Keeps nothing; the loss is in the record anyway."""

    def step(self, step: int, loss: float) -> None: ...

    def summarize(self, record: Record, folder: Path) -> None: ...


class CsvLog(NoLog):
    """loss.csv in the run's folder: step, loss."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file)
        self._writer.writerow(["step", "loss"])

    def step(self, step: int, loss: float) -> None:
        self._writer.writerow([step, loss])

    def close(self) -> None:
        self._file.close()


class WandbLog(NoLog):
    """One W&B run per run: losses as they come; scores, anchors and some samples at the end."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def step(self, step: int, loss: float) -> None:
        self._run.log({"loss": loss}, step=step)

    def summarize(self, record: Record, folder: Path) -> None:
        import wandb

        pictures = sorted((folder / "samples").glob("*.png"))[:8]
        if pictures:
            self._run.log({"samples": [wandb.Image(str(picture)) for picture in pictures]})
        self._run.summary.update({"status": record.status, **record.metrics})
        self._run.summary.update({"anchors": record.anchors, "sizes": record.sizes, "seconds": record.seconds})


@contextmanager
def open_log(config: Mapping[str, Any], folder: Path) -> Iterator[NoLog]:
    """The log that config["logger"] asks for; closed whatever happens inside the block."""
    logger = config["logger"]
    if logger["name"] == "csv":
        log = CsvLog(folder / "loss.csv")
        try:
            yield log
        finally:
            log.close()
    elif logger["name"] == "wandb":
        import wandb

        from sdpet.record import factors
        from sdpet.study.plan import name_of

        run = wandb.init(
            project=logger["project"],
            entity=logger["entity"],
            mode=logger["mode"],
            group=config["study"],
            name=name_of(dict(config)),
            config={**factors(config), "run_id": folder.name, "config": dict(config)},
            dir=str(folder.parent.resolve()),
            settings=wandb.Settings(silent=True, console="off"),
        )
        failed = True
        try:
            yield WandbLog(run)
            failed = False
        finally:  # one process does several runs: each must be closed, or the next one is merged into it
            run.finish(exit_code=int(failed))
    else:
        yield NoLog()
