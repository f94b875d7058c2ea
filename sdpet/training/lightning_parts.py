"""What users of Lightning set on its Trainer: callbacks, profiler and strategy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback, Checkpoint, ModelSummary, ProgressBar
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import DDPStrategy


@dataclass(frozen=True)
class LightningParts:
    """What users of Lightning set on its Trainer; `fit_together` takes it.

    Parameters
    ----------
    callbacks : sequence of Callback
        They see ``loss``, ``lr`` and ``grad_norm``, in a fleet ``loss/0`` and so on by the member's number. An epoch is
        `validate_every` steps, or the whole training without it.
    profiler : Profiler, optional
    strategy : callable, optional
        Makes the DDPStrategy of a run on several devices.
    folder : Path, optional
        Where callbacks and profilers write that are not told another place.
    """

    callbacks: Sequence[Callback] = ()
    profiler: Profiler | None = None
    strategy: Callable[..., DDPStrategy] = DDPStrategy
    folder: Path | None = None

    def arguments(self, logger: Logger) -> dict[str, Any]:
        """The arguments of Lightning's Trainer; `logger` is for callbacks that log by themselves."""
        kinds = {
            "enable_checkpointing": Checkpoint,
            "enable_progress_bar": ProgressBar,
            "enable_model_summary": ModelSummary,
        }
        return {
            "callbacks": list(self.callbacks),
            "logger": logger if self.callbacks else False,
            "log_every_n_steps": 1,
            "profiler": self.profiler,
            "default_root_dir": self.folder,
            **{key: any(isinstance(one, kind) for one in self.callbacks) for key, kind in kinds.items()},
        }


class ForwardedMetrics(Logger):
    """Passes what Lightning's callbacks log, such as LearningRateMonitor, on to the logs of the runs.

    Parameters
    ----------
    tell : callable
        Called as ``tell(step, metrics)``; steps count from 1.
    done : int
        Steps that were done before this training, where a run is resumed.
    """

    def __init__(self, tell: Callable[[int, Mapping[str, float]], None], done: int) -> None:
        super().__init__()
        self._tell, self._done = tell, done

    @property
    def name(self) -> str:
        return "sdpet"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The records of the runs have them already."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Pass metrics on; Lightning counts the steps of this training from 0."""
        values = {name: float(value) for name, value in metrics.items() if name != "epoch"}
        if values:
            self._tell(self._done + (step or 0) + 1, values)


def kept_states(callbacks: Sequence[Callback]) -> dict[str, Any]:
    """The states of callbacks, for the checkpoint of a run: those that hold tensors and plain values only."""
    states = {callback.state_key: callback.state_dict() for callback in callbacks}
    return {key: state for key, state in states.items() if state and _is_plain(state)}


def restore_states(callbacks: Sequence[Callback], states: Mapping[str, Any]) -> None:
    """Give callbacks the states that `kept_states` returned."""
    for callback in callbacks:
        if callback.state_key in states:
            callback.load_state_dict(dict(states[callback.state_key]))


def _is_plain(value: Any) -> bool:
    """Whether `torch.load` reads the value with weights_only=True."""
    import torch

    if isinstance(value, dict):
        return all(isinstance(key, str | int) and _is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str | torch.Tensor)
