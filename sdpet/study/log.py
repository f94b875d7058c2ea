"""Where the loss and the images of a run go while it trains, besides its record: nowhere, CSV, TensorBoard or W&B."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from sdpet.record import Record

VALIDATION = "validation"  # the name of the images drawn during training: a folder, a tag, a key


class NoLog:
    """Keeps nothing; the loss is in the record anyway."""

    def step(self, step: int, loss: float) -> None:
        """The loss of a step; steps count from 1. A run that goes on where it stopped tells its first steps again."""

    def images(self, step: int, images: Sequence[np.ndarray]) -> None:
        """Images drawn after a step: uint8, (H, W, 3) each."""

    def summarize(self, record: Record, folder: Path) -> None:
        """The run is trained and scored, and its samples and weights lie in `folder`."""

    def close(self, error: BaseException | None = None) -> None:
        """Nothing more comes; `error` is what ended the run before its time."""


class CsvLog(NoLog):
    """loss.csv in the run's folder: step, loss; images as validation/<step>_<number>.png."""

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
    """Event files in the run's folder; `tensorboard --logdir outputs/<study>` shows a study with its factors."""

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
        # TensorBoard takes texts, numbers and truth values; full tuning, say, has no din.
        factors = {key: value for key, value in record.factors.items() if value is not None}
        self._writer.add_hparams(factors, {f"scores/{name}": v for name, v in record.metrics.items()}, run_name=".")

    def close(self, error: BaseException | None = None) -> None:
        self._writer.close()

    def _add_images(self, tag: str, step: int, images: Sequence[np.ndarray]) -> None:
        import numpy as np

        if len(images):
            self._writer.add_images(tag, np.stack(images), step, dataformats="NHWC")


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
        from sdpet.study import log_wandb

        with suppress(Exception):  # the record tells it too, and the other runs of a study go on
            log_wandb.tell_failure(config, folder, record)


def _make(config: Mapping[str, Any], folder: Path) -> NoLog:
    match config["logger"]["name"]:
        case "csv":
            return CsvLog(folder)
        case "tensorboard":
            return TensorBoardLog(folder)
        case "wandb":
            from sdpet.study.log_wandb import WandbLog

            return WandbLog(config, folder)
    return NoLog()
