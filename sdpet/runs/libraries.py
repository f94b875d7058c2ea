"""Third-party libraries: import them quickly, silence their warnings, and set the number of torch's threads."""

from __future__ import annotations

import gc
import importlib.metadata
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module

_ENVIRONMENT = {  # the libraries read these when they are imported
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
_EVERY_RUN_NEEDS = (
    ("lightning.pytorch", "Trainer"),
    ("transformers", "CLIPTextModel"),
    ("diffusers", "AutoencoderKL"),
    ("diffusers", "UNet2DConditionModel"),  # which imports the transformers as well
)
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
def quick_imports() -> Iterator[None]:
    """Import libraries inside the block with about two thirds of the CPU time, and restore all settings afterwards.

    Modules are made of many small objects that stay, so collecting garbage between them only costs time. diffusers and
    transformers each read what every installed package contains; it is read once.
    """
    collects, read = gc.isenabled(), importlib.metadata.packages_distributions
    gc.disable()
    importlib.metadata.packages_distributions = cache(read)
    try:
        yield
    finally:
        importlib.metadata.packages_distributions = read
        if gc.get_freeze_count() == 0:  # the modules count as old, so that the next collection does not look at them
            gc.freeze()
            gc.unfreeze()
        if collects:
            gc.enable()


def import_libraries() -> None:
    """Import at once, see `quick_imports`, what nearly every run needs."""
    with quick_imports(), quiet_libraries():
        for module, name in _EVERY_RUN_NEEDS:
            getattr(import_module(module), name)  # diffusers and transformers import a class when it is asked for


def library_bytes() -> int:
    """Bytes that this process has in memory with what nearly every run needs; ask before there is a model."""
    import psutil

    import_libraries()
    return int(psutil.Process().memory_info().rss)


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
