"""The sweeper `grid`: studies over all combinations of listed values, checked before any work, with any launcher.

conf/hydra/sweeper/grid.yaml explains its options. Like train.py, it is a top-level entry point: it may import sdpet and
analysis. What it does is in sdpet/study/sweep.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from sdpet.study.options import SweepOptions
    from sdpet.study.plan import Job, Plan
    from sdpet.study.sweep.composer import Composer


class GridSweeper(Sweeper):
    """Does all runs of a sweep.

    Parameters
    ----------
    params : dict, optional
        Sweeps that the config asks for (sweeps/*.yaml); the command line overrides them.
    fleet_size : int
        Largest number of runs that one job of a third-party launcher (Slurm, Ray, ...) trains together.
    **options
        See `sdpet.study.options.SweepOptions`.
    """

    def __init__(self, params: dict[str, Any] | None = None, fleet_size: int = 16, **options: Any) -> None:
        self.params = dict(params or {})
        self.fleet_size = fleet_size
        self.options = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Plan the study, do the missing runs, and print a summary. Exits with status 1 if runs are still missing."""
        from sdpet.files.project import as_typed
        from sdpet.runs.checkpoint import remove_stale_files
        from sdpet.study.options import SweepOptions
        from sdpet.study.report import study_report
        from sdpet.study.sweep.composer import Composer
        from sdpet.study.sweep.ongoing import Ongoing
        from sdpet.study.warm import one_warm_parent

        if isinstance(self.fleet_size, bool) or not isinstance(self.fleet_size, int) or self.fleet_size < 1:
            raise ValueError(f"hydra.sweeper.fleet_size must be a whole number of at least 1, not {self.fleet_size!r}.")
        assert self.hydra_context is not None and self.config is not None
        options = SweepOptions.checked(self.options)
        composer = Composer(self.hydra_context.config_loader, self.config)
        plan, summary = self.planned(composer, arguments, options)
        folder = plan.jobs[0].folder.parent
        self._check(plan, options)
        if options.dry_run:
            print("\n".join([*summary, *self._forecast(plan, folder, options)]), flush=True)
            return []
        folder.mkdir(parents=True, exist_ok=True)  # fails before any work if the folder cannot be written
        started, results = time.monotonic(), []

        def launch(jobs: Sequence[Job]) -> None:
            results.extend(self._launch(composer, jobs))

        ongoing = Ongoing(composer, plan, folder, options, launch, self._say, as_typed(sys.argv))
        if options.race is None:
            self._say(summary)
        with one_warm_parent():
            fresh, before = self._do(ongoing)
        remove_stale_files(folder)
        plan.save_index()
        jobs, seconds = [*ongoing.plan.jobs, *fresh], time.monotonic() - started
        text, complete = study_report(jobs, before, plan.dropped, plan.doubled, folder, seconds)
        print(text, flush=True)
        if not complete:
            sys.exit(1)
        return results

    def planned(self, composer: Composer, arguments: list[str], options: SweepOptions) -> tuple[Plan, list[str]]:
        """The plan with its runs in order, and lines that report their number and the quality of a chosen fraction."""
        from sdpet.study.sweep.before import planned

        return planned(composer, self.combinations(arguments, options.replicates), options)

    def combinations(self, arguments: list[str], replicates: int | None = None) -> list[list[str]]:
        """The overrides of each job. The first sweep varies slowest; a later value of a key replaces an earlier one."""
        from sdpet.study.sweep.combinations import combinations

        assert self.hydra_context is not None
        return combinations(self.hydra_context.config_loader, self.params, arguments, replicates)

    def _check(self, plan: Plan, options: SweepOptions) -> None:
        """Refuse what these designs do not allow, before any work."""
        from sdpet.study.plan import training_first
        from sdpet.study.sweep.racing import check_race
        from sdpet.study.sweep.scores import check_score

        check_score(plan, options)
        if options.race is not None:
            check_race(plan, options)
        elif options.confirm and training_first(plan.jobs)[1]:
            raise ValueError("hydra.sweeper.confirm needs designs that are trained apart; some here share a training.")

    def _do(self, sweep: Any) -> tuple[list[Job], dict[Path, Any]]:
        """Do the runs; returns those on fresh seeds, and the records that were there before."""
        from sdpet.study.sweep.before import register_question
        from sdpet.study.sweep.more_seeds import add_seeds, confirm
        from sdpet.study.sweep.racing import run_race

        plan, options = sweep.plan, sweep.options
        if options.register:
            question = register_question(plan, sweep.folder, options)
        if options.race is not None:
            if options.register:
                self._say([question])
            return run_race(sweep)
        records = {job.folder: plan.record(job) for job in plan.jobs}
        before = {path: record for path, record in records.items() if record and record.status != "failed"}
        failed = {path for path, record in records.items() if record and record.status == "failed"}
        left = set() if options.retry else failed
        self._say(_counts(len(before), len(failed), options.retry))
        if options.register:
            self._say([question])
        sweep.note()
        sweep.launch([job for job in plan.jobs if job.folder not in before and job.folder not in left])
        if options.until is not None:
            add_seeds(sweep)
        return (confirm(sweep, before) if options.confirm else []), before

    def _launch(self, composer: Composer, todo: Sequence[Job]) -> list[Any]:
        """Do the jobs: first those that train, then those that only score weights of another job.

        sdpet's own launchers take single jobs and form fleets themselves; third-party launchers get fleets.
        """
        from sdpet.commands.study_progress import StudyProgressBar
        from sdpet.study.other_launchers import launch_in_fleets
        from sdpet.study.plan import training_first

        assert self.config is not None
        ours = hasattr(self.launcher, "fleet_size")
        if ours:
            self.launcher.composer = composer  # type: ignore[attr-defined]
        results: list[Any] = []
        for wave in training_first(todo):
            if wave and not ours:
                progress = StudyProgressBar(len(wave), self.config.quiet)
                results += launch_in_fleets(self.launcher, wave, self.fleet_size, progress)
            elif wave:
                results += self.launcher.launch([list(job.overrides) for job in wave], initial_job_idx=len(results))
        return results

    def _forecast(self, plan: Plan, folder: Path, options: SweepOptions) -> list[str]:
        """The lines of a dry run: what the plan can estimate, what a race may take, expected time and disk space."""
        from sdpet.study.sweep.before import forecast_of

        assert self.config is not None
        return forecast_of(plan, folder, options, self.config.hydra.launcher.get("workers"))

    def _say(self, lines: Iterable[str]) -> None:
        assert self.config is not None
        if not self.config.quiet and (text := "\n".join(lines)):
            print(text, flush=True)


def _counts(complete: int, failed: int, retry: bool) -> list[str]:
    lines = [f"  {complete} of them already complete"] if complete else []
    if failed:
        what = "are done again (hydra.sweeper.retry=false leaves them)" if retry else "are left as they are"
        lines.append(f"  {failed} that failed before {what}")
    return lines
