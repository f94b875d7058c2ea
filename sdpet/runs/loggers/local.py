"""Loggers that write into the run's folder: CSV and TensorBoard."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from sdpet.runs.loggers.base import VALIDATION, NoLog

if TYPE_CHECKING:
    import numpy as np

    from sdpet.runs.record import Record

COLUMNS = ("loss", "lr", "grad_norm")  # of loss.csv


class CsvLog(NoLog):
    """Writes loss.csv (step, loss, lr, grad_norm) into the run's folder, and metrics.csv with what callbacks log.

    Validation images are in the run's folder in any case.
    """

    is_kept = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = (folder / "loss.csv").open("w", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file)
        self._writer.writerow(["step", *COLUMNS])
        self._others: TextIO | None = None

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        if "loss" in values:
            self._writer.writerow([step, *(values.get(name, "") for name in COLUMNS)])
        others = [[step, name, value] for name, value in values.items() if name not in COLUMNS]
        if others:
            if self._others is None:
                self._others = (self._folder / "metrics.csv").open("w", newline="", encoding="utf-8")
                csv.writer(self._others).writerow(["step", "metric", "value"])
            csv.writer(self._others).writerows(others)

    def close(self, error: BaseException | None = None) -> None:
        self._file.close()
        if self._others is not None:
            self._others.close()


class TensorBoardLog(NoLog):
    """Writes event files into the run's folder; `tensorboard --logdir outputs/<study>` shows a study by its factors."""

    is_kept = True

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"))
        self._last = 0

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._last = max(step, self._last)

    def images(self, step: int, images: Sequence[np.ndarray]) -> None:
        self._add_images(VALIDATION, step, images)

    def summarize(self, record: Record, folder: Path) -> None:
        import numpy as np
        from PIL import Image

        pictures = [np.asarray(Image.open(path).convert("RGB")) for path in sorted((folder / "samples").glob("*.png"))]
        self._add_images("samples", self._last, pictures[:16])
        # TensorBoard takes only str, numbers and bool, but some factors are None (full fine-tuning has no din).
        factors = {key: value for key, value in record.factors.items() if value is not None}
        self._writer.add_hparams(factors, {f"scores/{name}": v for name, v in record.metrics.items()}, run_name=".")

    def close(self, error: BaseException | None = None) -> None:
        self._writer.close()

    def _add_images(self, tag: str, step: int, images: Sequence[np.ndarray]) -> None:
        import numpy as np

        if len(images):
            self._writer.add_images(tag, np.stack(images), step, dataformats="NHWC")
