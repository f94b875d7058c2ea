"""Third-party libraries: import them quickly, silence their warnings, and set the number of torch's threads."""

from __future__ import annotations

import gc
import importlib.metadata
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

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
_FEW = {"Metric": "torchmetrics.metric", "MetricCollection": "torchmetrics.collections"}  # what Lightning needs
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
    transformers each read what every installed package contains; it is read once. Lightning needs two classes of
    torchmetrics, not the packages that torchmetrics imports for all of its metrics.
    """
    _defer_torchmetrics()
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


class _Deferred(ModuleType):
    """The package torchmetrics, whose own code runs when something is asked for that is not in `_FEW`."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)  # such as __wrapped__, which inspection asks every module for
        if name not in _FEW:
            self.__class__ = ModuleType  # type: ignore[assignment]
            assert self.__spec__ is not None and self.__spec__.loader is not None
            self.__spec__.loader.exec_module(self)
            return getattr(self, name)
        import_module("torchmetrics.utilities")  # before its classes, which import each other
        return getattr(import_module(_FEW[name]), name)


def _defer_torchmetrics() -> None:
    """Let an import of torchmetrics import only what is asked for."""
    if "torchmetrics" in sys.modules or (spec := find_spec("torchmetrics")) is None:
        return
    package = module_from_spec(spec)
    package.__class__ = _Deferred
    with suppress(importlib.metadata.PackageNotFoundError):
        package.__version__ = importlib.metadata.version("torchmetrics")  # type: ignore[attr-defined]
        package._logger = logging.getLogger("torchmetrics")  # type: ignore[attr-defined]
        sys.modules["torchmetrics"] = package


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
