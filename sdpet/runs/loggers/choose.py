"""Choose the logger that the config names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpet.config import RunConfig
from sdpet.runs.loggers.base import NoLog
from sdpet.runs.loggers.local import CsvLog, TensorBoardLog

if TYPE_CHECKING:
    from sdpet.runs.record import Record


@contextmanager
def open_log(config: RunConfig, folder: Path) -> Iterator[NoLog]:
    """Open the log that the config names; it is closed at the end of the block, also after an error."""
    log = _make(config, folder)
    try:
        yield log
    except BaseException as error:
        log.close(error)
        raise
    log.close()


def tell_failure(config: RunConfig, folder: Path, record: Record) -> None:
    """Report a run that failed, or whose process died, to a log outside the run's folder (W&B)."""
    if config.logger.name == "wandb":
        from sdpet.runs.loggers import wandb as log_wandb

        with suppress(Exception):  # the record has the failure too, and the other runs of a study must continue
            log_wandb.tell_failure(config, folder, record)


def tell_race(config: RunConfig, folder: Path, content: Mapping[str, Any]) -> None:
    """Report where the race of a study stands to a log outside the study's folder (W&B)."""
    if config.logger.name == "wandb":
        from sdpet.runs.loggers import wandb as log_wandb

        with suppress(Exception):  # the file beside the plan has it too
            log_wandb.tell_race(config, folder, content)


def _make(config: RunConfig, folder: Path) -> NoLog:
    match config.logger.name:
        case "csv":
            return CsvLog(folder)
        case "tensorboard":
            return TensorBoardLog(folder)
        case "wandb":
            from sdpet.runs.loggers.wandb import WandbLog

            return WandbLog(config, folder)
    return NoLog()
