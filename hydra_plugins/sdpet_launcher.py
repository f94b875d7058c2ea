"""The launchers `local` and `fleet`: do a study in worker processes of this machine, one run or a fleet at a time.

Hydra finds them because they are in the namespace package hydra_plugins.
"""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


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
        self.hydra_context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Do all jobs; returns one JobReturn for each, in order, with the run's record or the reason of its failure."""
        from sdpet.commands.study_progress import StudyProgressBar
        from sdpet.study.launcher import launch
        from sdpet.study.plan import Composer, make_plan
        from sdpet.study.worker_pool import gpus_for, how_many, require_device

        size = self.fleet_size()
        composer = getattr(self, "composer", None) or Composer(self.hydra_context.config_loader, self.config)
        jobs = make_plan(composer, job_overrides).jobs
        for job in jobs:
            require_device(job.config)
        gpus = gpus_for(jobs)
        progress = StudyProgressBar(len(jobs), self.config.quiet)
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


def _job_return(overrides: Sequence[str], record: object) -> JobReturn:
    result = JobReturn(overrides=list(overrides))
    failed = record is None or getattr(record, "status", None) == "failed"
    result.status = JobStatus.FAILED if failed else JobStatus.COMPLETED
    result.return_value = RuntimeError(getattr(record, "reason", "no record")) if failed else record
    return result
