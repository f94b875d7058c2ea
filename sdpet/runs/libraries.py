"""Settings of third-party libraries: silence their warnings, and set the number of torch's threads."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_ENVIRONMENT = {  # the libraries read these when they are imported
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
_LOGGERS = ("lightning", "lightning.pytorch", "lightning.fabric", "torch.distributed", "transformers", "diffusers")
_SILENT_MODULES = r"(lightning|torch|diffusers|transformers|open_clip|torchmetrics)\..*"


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence developer warnings of third-party libraries inside the block, and restore all settings afterwards."""
    added = [name for name in _ENVIRONMENT if name not in os.environ]
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            _silence()
            yield
    finally:
        for name in added:
            os.environ.pop(name, None)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def silence_libraries() -> None:
    """Silence developer warnings of third-party libraries (process-wide). Only the commands may call this."""
    _silence()
    warnings.formatwarning = lambda message, *place, **more: f"note: {message}\n"


def _silence() -> None:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=_SILENT_MODULES)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Set the number of torch's threads inside the block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
