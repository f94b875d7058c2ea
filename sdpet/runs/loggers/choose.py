"""The logger that a config asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdpet.runs.record import Record
from sdpet.runs.loggers.base import NoLog
from sdpet.runs.loggers.local import CsvLog, TensorBoardLog


@contextmanager
def open_log(config: Mapping[str, Any], folder: Path) -> Iterator[NoLog]:
    """The log that a validated config["logger"] asks for; closed whatever happens inside the block."""
    log = _make(config, folder)
    try:
        yield log
    except BaseException as error:
        log.close(error)
        raise
    log.close()


def tell_failure(config: Mapping[str, Any], folder: Path, record: Record) -> None:
    """Let a log that is kept elsewhere than in the run's folder know of a run that failed, or whose process died."""
    if config["logger"]["name"] == "wandb":
        from sdpet.runs.loggers import wandb as log_wandb

        with suppress(Exception):  # the record tells it too, and the other runs of a study go on
            log_wandb.tell_failure(config, folder, record)


def _make(config: Mapping[str, Any], folder: Path) -> NoLog:
    match config["logger"]["name"]:
        case "csv":
            return CsvLog(folder)
        case "tensorboard":
            return TensorBoardLog(folder)
        case "wandb":
            from sdpet.runs.loggers.wandb import WandbLog

            return WandbLog(config, folder)
    return NoLog()
