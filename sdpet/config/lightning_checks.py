"""Check what of a config is handed to Lightning: callbacks, profiler, strategy, and loggers."""

from __future__ import annotations

import importlib.util
import string
from collections.abc import Callable, Mapping
from typing import Any

from sdpet.config.factors import FACTORS
from sdpet.config.groups import LoggerSettings, TrainerSettings
from sdpet.config.own_parts import check_arguments, load_named

IN_PLACE_OF = {  # what sdpet does itself, and what some callbacks cannot do here
    "StochasticWeightAveraging": "trainer.ema=0.999",
    "WeightAveraging": "trainer.ema=0.999",
    "EMAWeightAveraging": "trainer.ema=0.999",
    "GradientAccumulationScheduler": "trainer.accumulate=N",
    "LearningRateFinder": "a study over trainer.lr",
    "BatchSizeFinder": "sdpet doctor, which estimates memory",
}

OF_LIGHTNING = ("lightning.", "pytorch_lightning.")
PACKAGES = {  # which of Lightning's loggers need any one of which packages
    "MLFlowLogger": ("mlflow", "mlflow_skinny"),
    "CometLogger": ("comet_ml",),
    "NeptuneLogger": ("neptune",),
    "WandbLogger": ("wandb",),
    "TensorBoardLogger": ("tensorboard", "tensorboardX"),
}
RUN_NAME_PARTS = ("name", "study", "run_id", "task", "data", *FACTORS)


def check_lightning_parts(trainer: TrainerSettings) -> None:
    """Check trainer.callbacks, trainer.profiler, trainer.strategy and trainer.tf32.

    Raises
    ------
    ValueError
        One sentence: a class cannot be imported, is not of its kind, does not know an option, or does not go with how
        sdpet trains.
    """
    for name, given in (trainer.callbacks or {}).items():
        short = given["_target_"].rpartition(".")[2]
        if short in IN_PLACE_OF:
            raise ValueError(
                f"trainer.callbacks.{name}: {short} needs Lightning's own optimisation loop, which sdpet does not use; "
                f"use {IN_PLACE_OF[short]}."
            )
        check_own_part(given, "callback", f"trainer.callbacks.{name}")
    if isinstance(trainer.profiler, Mapping):
        check_own_part(trainer.profiler, "profiler", "trainer.profiler")
    if trainer.strategy != "auto" and trainer.world_size == 1:
        raise ValueError("trainer.strategy is for a run on several devices; give trainer.devices=N, or leave it auto.")
    if isinstance(trainer.strategy, Mapping):
        _check_strategy(trainer.strategy)
    if trainer.tf32 is not None and trainer.device == "cpu":
        raise ValueError("trainer.tf32 is for CUDA devices; with trainer.device=cpu leave it null.")


def check_own_part(given: Mapping[str, Any], kind: str, group: str) -> Callable[..., Any]:
    """Check a mapping with `_target_` and options.

    Parameters
    ----------
    given : mapping
    kind : str
        A key of PART_KINDS.
    group : str
        Where the mapping stands in the config.

    Returns
    -------
    callable
        What it names.

    Raises
    ------
    ValueError
        See `sdpet.config.own_parts`.
    """
    target, key = given["_target_"], f"{group}._target_"
    make = load_named(target, kind, key)
    check_arguments(make, target, kind, key, [name for name in given if name != "_target_"])
    return make


def check_own_logger(logger: LoggerSettings) -> None:
    """Check a logger of Lightning's or the user's own; its package must be there.

    Raises
    ------
    ValueError
        See `check_own_part`, or the package that a logger of Lightning needs is missing.
    """
    assert logger.target is not None
    needed = PACKAGES.get(logger.target.rpartition(".")[2], ()) if logger.target.startswith(OF_LIGHTNING) else ()
    if needed and not any(map(importlib.util.find_spec, needed)):
        raise ValueError(f"{logger.target} needs the package {needed[0]}: pip install {needed[0]}.")
    check_own_part({"_target_": logger.target, **logger.options}, "logger", "logger")


def check_run_name(logger: LoggerSettings) -> None:
    """Check the names in braces in logger.run_name.

    Raises
    ------
    ValueError
        A name is not that of a factor of every run.
    """
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(logger.run_name or "") if name is not None]
    except ValueError as error:
        raise ValueError(f"logger.run_name {logger.run_name!r} cannot be read: {error}.") from None
    unknown = [name for name in names if name not in RUN_NAME_PARTS]
    if unknown:
        raise ValueError(f"logger.run_name has {{{unknown[0]}}}; its names are {', '.join(RUN_NAME_PARTS)}.")


def _check_strategy(given: Mapping[str, Any]) -> None:
    make = load_named(given["_target_"], "strategy", "trainer.strategy._target_")
    from lightning.pytorch.strategies import DDPStrategy

    if not (isinstance(make, type) and issubclass(make, DDPStrategy)):
        raise ValueError(
            f"trainer.strategy._target_ {given['_target_']} is not a DDPStrategy of Lightning; others share a model's "
            "layers out among devices, but an adapter needs the whole frozen model beside it."
        )
    check_own_part(given, "strategy", "trainer.strategy")
