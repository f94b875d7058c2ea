"""`python train.py`: what is printed before, during and after one run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig

from sdpet.commands.progress_bar import Bar
from sdpet.config import name_of, run_folder, say_unused, validate
from sdpet.runs.copies import different_way
from sdpet.runs.distributed import external_rank
from sdpet.runs.known_runs import KnownRuns
from sdpet.runs.record import Record
from sdpet.study.progress import work_of
from sdpet.study.report import outcome, run_report
from sdpet.study.worker_pool import require_device

if TYPE_CHECKING:
    from sdpet.runs import Resources


class TrainCommand:
    """One run as the command does it. Of several ranks, only rank 0 prints.

    Parameters
    ----------
    config : DictConfig
        What Hydra composed. ValueError for a config that cannot be run.
    """

    def __init__(self, config: Any) -> None:
        self.config = validate(config)
        self.bar = Bar(self.config.quiet, work=work_of(self.config))
        rank = external_rank(self.config)
        own = run_folder(self.config)
        self.folder = own if rank is not None else KnownRuns(own.parent).folder(self.config, own)
        self._is_first = rank is None or rank.rank == 0
        if self._is_first and HydraConfig.initialized():
            say_unused(self.config, HydraConfig.get().overrides.task)
        before = Record.find(self.folder)
        self.already = before is not None and before.status != "failed"
        # the record of the same run that was computed in another way, on another device, say
        self.copy = before if self.folder != own else None

    @contextmanager
    def shown(self) -> Iterator[Resources]:
        """Announce the run and show its progress inside the block; yields what the run is made with."""
        from sdpet.runs import Resources

        config, resources = self.config, Resources()
        if self._is_first and not self.already:
            require_device(config)
            if not config.quiet:
                steps = f"{config.trainer.steps} steps"
                print(f"{name_of(config)}: {config.task.name} on {config.data.name}, {steps}", flush=True)
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self.bar.prepare("preparing model, data and scores of the untuned model")
            resources.scorers(config)  # a missing scorer is an error before any training
        try:
            yield resources
        finally:
            self.bar.close()

    def report(self, record: Record | None) -> bool:
        """Print the result; returns whether the run finished."""
        if self._is_first and record is not None:
            print(run_report(name_of(self.config), record, self.folder, self.already))
            if self.copy is not None:
                way = different_way(self.config, self.folder)
                print(f"  computed  with {way}; again=true does it in this way as well")
        return record is not None and record.status == "finished"


def require_single_run(sweep: str | None) -> None:
    """Refuse a study, `sweep`, in a command for one run; the ValueError says that -m is missing."""
    if sweep is not None:
        study = f"+sweeps={sweep}"
        raise ValueError(f"{study} is a study of many runs, so it needs -m: python train.py -m {study}.")


def fleet_job(file: str) -> dict[str, str]:
    """Do the runs of one fleet as a job of a cluster; print a line for each to the job's log."""
    from sdpet.study.other_launchers import run_fleet_job

    def report(name: str, record: Record | None) -> None:
        print(f"{name}: {outcome(record) if record else 'another process is working on it'}", flush=True)

    return run_fleet_job(file, report)
