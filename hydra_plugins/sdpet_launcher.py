"""The launchers `local` and `fleet`: a study's runs in worker processes of this machine, one by one or many at once.

Registered with Hydra by their folder.
"""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class LocalLauncher(Launcher):
    """workers: number of processes, or "auto" for one a GPU where trainer.device is cuda, else one a usable core;
    1 does the runs in this process."""

    def __init__(self, workers: int | str = "auto") -> None:
        self.workers = workers

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Do all jobs; one JobReturn each, in order, whose value is the run's record (or why there is none)."""
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
        """Runs that are trained together at most, or "auto" to have it measured."""
        return 1


class FleetLauncher(LocalLauncher):
    """Runs that share model, task, trainer, sampler and evaluation are trained together, up to `size` of them.

    size: a whole number, or "auto" for what is quickest of what fits into memory, as measured in the beginning; where
    memory is too little all the same, halves of a fleet are tried. workers: as in `local`.
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
