"""The launchers `local` and `fleet`: do a study in worker processes of this machine, one run or a fleet at a time.

Hydra finds them because they are in the namespace package hydra_plugins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict


class LocalLauncher(Launcher):
    """Trains one run at a time in each worker process.

    Parameters
    ----------
    workers : int or str
        Number of processes; with 1 the runs are done in this process. "auto" is one per GPU if trainer.device is cuda,
        else one per usable core.
    """

    def __init__(self, workers: int | str = "auto") -> None:
        self.workers = workers

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config, self.task_function = hydra_context, config, task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Do all jobs; returns one JobReturn for each, in order, with the run's record or the reason of its failure."""
        from sdpet.commands.study_progress import StudyProgressBar
        from sdpet.study.launcher import launch
        from sdpet.study.plan import make_plan
        from sdpet.study.sweep.composer import Composer
        from sdpet.study.worker_pool import gpus_for, how_many, require_device

        size = self.fleet_size()
        composer = getattr(self, "composer", None) or Composer(self.hydra_context.config_loader, self.config)
        jobs = make_plan(composer, job_overrides).jobs
        for job in jobs:
            require_device(job.config)
        gpus = gpus_for(jobs)
        progress: Any = StudyProgressBar(len(jobs), self.config.quiet)
        if getattr(getattr(self.hydra_context, "callbacks", None), "callbacks", None):
            progress = CallbackProgress(progress, self, jobs, initial_job_idx)
        launch(jobs, how_many(self.workers, gpus), progress, size=size, gpus=gpus)
        return [_job_return(job.overrides, job.record()) for job in jobs]

    def fleet_size(self) -> int | str:
        """The largest number of runs in a fleet, or "auto" to measure it."""
        return 1


class FleetLauncher(LocalLauncher):
    """Trains runs that share model, task, trainer, sampler and evaluation together, as fleets.

    If memory runs out, a fleet is tried again in halves.

    Parameters
    ----------
    workers : int or str
        See `LocalLauncher`.
    size : int or str
        Largest number of runs in a fleet. "auto" measures which size that fits into memory is the fastest.
    """

    def __init__(self, workers: int | str = "auto", size: int | str = "auto") -> None:
        super().__init__(workers)
        self.size = size

    def fleet_size(self) -> int | str:
        size = self.size
        if size != "auto" and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
            raise ValueError(f"hydra.launcher.size must be auto or a whole number of at least 1, not {size!r}.")
        return size


class CallbackProgress:
    """Calls the job callbacks of hydra.callbacks: at the start of a launch for all jobs, and when each has ended.

    Parameters
    ----------
    inner : StudyProgress
        Shows the progress.
    launcher : LocalLauncher
        Has the callbacks and the config of the sweep.
    jobs : sequence of Job
        The jobs of the launch.
    first : int
        Number of the first one.
    """

    def __init__(self, inner: Any, launcher: LocalLauncher, jobs: Sequence[Any], first: int) -> None:
        self._inner, self._callbacks = inner, launcher.hydra_context.callbacks
        self._waiting: dict[str, list[tuple[Any, DictConfig]]] = {}
        for number, job in enumerate(jobs, first):
            config = launcher.hydra_context.config_loader.load_sweep_config(launcher.config, list(job.overrides))
            with open_dict(config):
                config.hydra.job.num, config.hydra.job.id = number, str(number)
            self._waiting.setdefault(job.name, []).append((job, config))
            self._callbacks.on_job_start(config=config, task_function=launcher.task_function)

    def moved(self, timeline: Any) -> None:
        """See `StudyProgress.moved`."""
        self._inner.moved(timeline)

    def done(self, name: str, record: Any) -> None:
        """See `StudyProgress.done`; the job's callbacks get its record as the value returned."""
        self._inner.done(name, record)
        if self._waiting.get(name):
            job, config = self._waiting[name].pop(0)
            result = _job_return(job.overrides, record)
            result.cfg = config
            self._callbacks.on_job_end(config=config, job_return=result)

    def close(self) -> None:
        """See `StudyProgress.close`."""
        self._inner.close()


def _job_return(overrides: Sequence[str], record: object) -> JobReturn:
    result = JobReturn(overrides=list(overrides))
    failed = record is None or getattr(record, "status", None) == "failed"
    result.status = JobStatus.FAILED if failed else JobStatus.COMPLETED
    result.return_value = RuntimeError(getattr(record, "reason", "no record")) if failed else record
    return result
