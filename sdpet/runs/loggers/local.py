"""Loggers that write into the run's folder: CSV and TensorBoard."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sdpet.runs.loggers.base import VALIDATION, NoLog

if TYPE_CHECKING:
    import numpy as np

    from sdpet.runs.record import Record


class CsvLog(NoLog):
    """Writes loss.csv (step, loss) into the run's folder, and images as validation/<step>_<number>.png."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = (folder / "loss.csv").open("w", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file)
        self._writer.writerow(["step", "loss"])

    def step(self, step: int, loss: float) -> None:
        self._writer.writerow([step, loss])

    def images(self, step: int, images: Sequence[np.ndarray]) -> None:
        from PIL import Image

        folder = self._folder / VALIDATION
        folder.mkdir(exist_ok=True)
        for i, image in enumerate(images):
            Image.fromarray(image).save(folder / f"{step:06d}_{i}.png")

    def close(self, error: BaseException | None = None) -> None:
        self._file.close()


class TensorBoardLog(NoLog):
    """Writes event files into the run's folder; `tensorboard --logdir outputs/<study>` shows a study by its factors."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"))
        self._last = 0

    def step(self, step: int, loss: float) -> None:
        self._writer.add_scalar("loss", loss, step)
        self._last = step

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
