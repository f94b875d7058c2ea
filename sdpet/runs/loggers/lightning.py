"""Loggers of Lightning, such as MLFlowLogger, and loggers of the user's own with the same interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpet.config import RunConfig, accepted, load_named, name_of, named_settings
from sdpet.runs.loggers.base import NoLog
from sdpet.runs.record import factors

if TYPE_CHECKING:
    import numpy as np

    from sdpet.runs.record import Record

FOLDER = "logs"  # in the run's folder
SCALARS = (str, int, float, bool)


class LightningLog(NoLog):
    """Gives a logger of Lightning what the other loggers get: metrics, settings, scores and how the run ended.

    Where its class names these arguments and the config does not set them, it gets ``save_dir`` (``logs`` in the run's
    folder), ``experiment_name`` or ``project`` (the study), and ``run_name`` (placement and seed). Images are not sent,
    since Lightning has no common interface for them; they are in the run's folder.
    """

    is_kept = True

    def __init__(self, config: RunConfig, folder: Path) -> None:
        assert config.logger.target is not None
        make = load_named(config.logger.target, "logger", "logger._target_")
        filled = {"save_dir": str(folder / FOLDER), "run_name": name_of(config)}
        service = accepted(make, {"experiment_name": config.study, "project": config.study}, by_name=True)
        filled |= service or {"name": "", "version": ""}  # of loggers that write files: no folders in the folder
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        self._logger = make(**{**accepted(make, filled, by_name=True), **config.logger.options})
        self._last = 0
        known = {**named_settings(config), **factors(config), "study": config.study, "run_id": folder.name}
        self._logger.log_hyperparams({key: _scalar(value) for key, value in known.items()})

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self._logger.log_metrics(dict(values), step)
        self._last = max(step, self._last)

    def images(self, step: int, images: Sequence[np.ndarray]) -> None:
        """Nothing: Lightning has no common interface for images."""

    def summarize(self, record: Record, folder: Path) -> None:
        scores = {f"scores/{name}": value for name, value in record.metrics.items() if value is not None}
        if scores:
            self._logger.log_metrics(scores, self._last)
        self._status = record.status

    def close(self, error: BaseException | None = None) -> None:
        finished = error is None and getattr(self, "_status", None) == "finished"
        self._logger.save()
        self._logger.finalize("success" if finished else "failed")


def _scalar(value: Any) -> Any:
    return value if isinstance(value, SCALARS) else str(value)
