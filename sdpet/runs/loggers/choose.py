"""Choose the logger that the config names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpet.config import RunConfig
from sdpet.runs.loggers.base import NoLog, read_validation
from sdpet.runs.loggers.local import CsvLog, TensorBoardLog

if TYPE_CHECKING:
    from sdpet.runs.record import Record
    from sdpet.training import TrainConfig


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


def tell_state(log: NoLog, config: TrainConfig, state: Mapping[str, Any], folder: Path) -> None:
    """Tell a log what an interrupted run did before its checkpoint, so that its history has no holes.

    Parameters
    ----------
    log : NoLog
    config : TrainConfig
        Training options of the run.
    state : mapping
        The checkpoint.
    folder : Path
        The run's folder, in which validation images are.
    """
    from sdpet.training import told_again

    if not log.is_kept:
        return
    for step, values in told_again(config, state):
        log.metrics(step, values)
        if images := read_validation(folder, step):
            log.images(step, images)


def tell_failure(config: RunConfig, folder: Path, record: Record) -> None:
    """Report a run that failed, or whose process died, to a log outside the run's folder (W&B)."""
    if _is_wandb(config):
        from sdpet.runs.loggers import wandb as log_wandb

        with suppress(Exception):  # the record has the failure too, and the other runs of a study must continue
            log_wandb.tell_failure(config, folder, record)


def tell_race(config: RunConfig, folder: Path, content: Mapping[str, Any]) -> None:
    """Report where the race of a study stands to a log outside the study's folder (W&B)."""
    if _is_wandb(config):
        from sdpet.runs.loggers import wandb as log_wandb

        with suppress(Exception):  # the file beside the plan has it too
            log_wandb.tell_race(config, folder, content)


def _make(config: RunConfig, folder: Path) -> NoLog:
    if config.logger.target is not None:
        from sdpet.runs.loggers.lightning import LightningLog

        return LightningLog(config, folder)
    match config.logger.name:
        case "csv":
            return CsvLog(folder)
        case "tensorboard":
            return TensorBoardLog(folder)
        case "wandb":
            from sdpet.runs.loggers.wandb import WandbLog

            return WandbLog(config, folder)
    return NoLog()


def _is_wandb(config: RunConfig) -> bool:
    return config.logger.name == "wandb" and config.logger.target is None
