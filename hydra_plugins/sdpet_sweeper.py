"""The sweeper `grid`: studies over all combinations of listed values, checked before any work, with any launcher.

conf/hydra/sweeper/grid.yaml explains its options. Like train.py, it is a top-level entry point: it may import sdpet and
analysis.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

if TYPE_CHECKING:
    from sdpet.study.options import SweepOptions
    from sdpet.study.plan import Composer, Job, Plan


ONE_VALUE = ("study", "output_root")  # where all runs of a sweep lie


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
        from sdpet.runs.checkpoint import remove_stale_files
        from sdpet.study.manifest import write_manifest
        from sdpet.study.options import SweepOptions
        from sdpet.study.plan import Composer, training_first
        from sdpet.study.report import study_report

        if isinstance(self.fleet_size, bool) or not isinstance(self.fleet_size, int) or self.fleet_size < 1:
            raise ValueError(f"hydra.sweeper.fleet_size must be a whole number of at least 1, not {self.fleet_size!r}.")
        assert self.hydra_context is not None and self.config is not None
        options = SweepOptions.checked(self.options)
        composer = Composer(self.hydra_context.config_loader, self.config)
        plan, summary = self.planned(composer, arguments, options)
        folder = plan.jobs[0].folder.parent
        if options.dry_run:
            print("\n".join([*summary, *self._forecast(plan, folder, options)]), flush=True)
            return []
        if options.confirm and training_first(plan.jobs)[1]:
            raise ValueError("hydra.sweeper.confirm needs designs that are trained apart; some here share a training.")
        folder.mkdir(parents=True, exist_ok=True)  # fails before any work if the folder cannot be written
        records = {job.folder: job.record() for job in plan.jobs}
        before = {path: record for path, record in records.items() if record and record.status != "failed"}
        failed = {path for path, record in records.items() if record and record.status == "failed"}
        left = set() if options.retry else failed
        todo = [job for job in plan.jobs if job.folder not in before and job.folder not in left]
        if not self.config.quiet:
            print("\n".join([*summary, *_counts(len(before), len(failed), options.retry)]), flush=True)
        if options.register:
            self._register(plan, folder, options)
        write_manifest(folder, plan.jobs, sys.argv, ways=plan.asked)
        started = time.monotonic()
        results = self._launch(composer, todo)
        if options.until is not None:
            plan = self._add_seeds(composer, plan, folder, options)
        fresh = self._confirm(composer, plan, folder, options) if options.confirm else []
        remove_stale_files(folder)
        jobs, seconds = [*plan.jobs, *fresh], time.monotonic() - started
        text, complete = study_report(jobs, before, plan.dropped, plan.doubled, folder, seconds)
        print(text, flush=True)
        if not complete:
            sys.exit(1)
        return results

    def planned(self, composer: Composer, arguments: list[str], options: SweepOptions) -> tuple[Plan, list[str]]:
        """The plan with its runs in order, and lines that report their number and the quality of a chosen fraction."""
        from sdpet.study.forecast import levels_of
        from sdpet.study.plan import in_random_order, make_plan

        sweep = self.combinations(arguments, options.replicates)
        try:
            plan = make_plan(composer, sweep)
        except ValueError as error:
            raise ValueError(f"{error}{_split_by_commas(str(error), sweep)}") from None
        if not plan.jobs:
            raise ValueError(f"this sweep has no run; cells that cannot exist: {', '.join(plan.dropped) or 'none'}.")
        lines: list[str] = []
        total = len(plan.jobs)
        size = options.runs or (round(options.fraction * total) if options.fraction else total)
        if size < total:
            import pandas as pd

            from analysis.planning.dry_run import choose_runs

            rows, names = levels_of(plan.jobs)
            chosen, sentence = choose_runs(pd.DataFrame(rows), names, max(size, 1), options.effects)
            plan, lines = replace(plan, jobs=[plan.jobs[i] for i in chosen]), [sentence]
        if options.order is not None:
            plan = replace(plan, jobs=in_random_order(plan.jobs, options.order))
        plan = plan.with_known_runs()
        cells = f", {len(plan.dropped)} cells that cannot exist left out" if plan.dropped else ""
        part = f" of {total}" if size < total else ""
        return plan, [
            f"{plan.jobs[0].folder.parent}: {len(plan.jobs)}{part} runs{cells}",
            *lines,
            *_copies(plan.copies),
        ]

    def combinations(self, arguments: list[str], replicates: int | None = None) -> list[list[str]]:
        """The overrides of each job. The first sweep varies slowest; a later value of a key replaces an earlier one."""
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        levels: dict[str, list[str]] = {}
        given = [f"{key}={value}" for key, value in self.params.items()]
        if replicates is not None:
            if any(argument.startswith("seed=") for argument in arguments):
                raise ValueError("give hydra.sweeper.replicates (a number of seeds) or seed=..., not both.")
            given = [f"seed=range(0,{replicates})", *(text for text in given if not text.startswith("seed="))]
        asked: dict[str, Override] = {}  # on the command line
        for number, override in enumerate(parser.parse_overrides(given + arguments)):
            key = override.get_key_element()
            if number >= len(given):
                before = asked.setdefault(key, override)
                if before is not override and before.is_sweep_override():  # its levels would be lost
                    raise ValueError(
                        f"{key} is given twice, {before.input_line} and {override.input_line}; list its values once."
                    )
            if not override.is_sweep_override():
                levels[key] = [override.input_line or ""]
            elif override.is_discrete_sweep():
                levels[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
            else:
                raise ValueError(f"{override.input_line}: list the values, {key}=A,B,C, or give range(A,B).")
            if key in ONE_VALUE and len(levels[key]) > 1:
                raise ValueError(f"{override.input_line}: a sweep is one study in one folder; give {key} one value.")
            if not levels[key]:
                raise ValueError(f"{override.input_line} gives no value; list at least one.")
        return [list(job) for job in itertools.product(*levels.values())]

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

    def _register(self, plan: Plan, folder: Path, options: SweepOptions) -> None:
        """Store the question of the study, before it runs."""
        from analysis.planning.question import question
        from analysis.planning.registered import register
        from sdpet.study.forecast import levels_of

        assert self.config is not None
        rows, names = levels_of(plan.jobs)
        asked = question(
            rows, names, options.metric, options.maximize, options.effects, options.alpha, options.looks
        )  # fmt: skip
        ended = sum(1 for _ in folder.glob("*/record.json"))
        there = register(folder, asked, (job.folder.name for job in plan.jobs), ended)
        if not self.config.quiet:
            after = "" if there.in_time else f", after {there.ended} runs had ended, which the report will say"
            print(f"  registered  {asked.score} by {asked.model or ', '.join(asked.factors)}{after}", flush=True)

    def _add_seeds(self, composer: Composer, plan: Plan, folder: Path, options: SweepOptions) -> Plan:
        """Replicate the leading designs until their intervals are narrow enough, or they have `most` seeds."""
        from analysis.planning.dry_run import seeds_to_add
        from sdpet.config import design_id
        from sdpet.study.manifest import write_manifest
        from sdpet.study.plan import make_plan

        assert options.until is not None and self.config is not None
        while True:
            jobs: dict[str, list[Job]] = {}
            for job in plan.jobs:
                jobs.setdefault(design_id(job.config), []).append(job)
            design_of = {job.folder.name: design for design, group in jobs.items() for job in group}
            more, sentences = seeds_to_add(folder, design_of, options.metric, options.until, options.most)
            if not self.config.quiet:
                print("\n".join(sentences), flush=True)
            sweep = []
            for design, count in more.items():
                group = jobs[design]
                first = 1 + max(job.config.seed for job in group)
                kept = [text for text in group[0].overrides if not text.startswith("seed=")]
                sweep += [[*kept, f"seed={seed}"] for seed in range(first, first + count)]
            if not sweep:
                return plan
            added = replace(make_plan(composer, sweep), asked=plan.asked).with_known_runs().jobs
            plan = replace(plan, jobs=[*plan.jobs, *added])
            write_manifest(folder, plan.jobs, sys.argv, ways=plan.asked)
            self._launch(composer, [job for job in added if not job.complete])

    def _confirm(self, composer: Composer, plan: Plan, folder: Path, options: SweepOptions) -> list[Job]:
        """Train the designs that may be the best on fresh seeds; they are noted in the plan as no part of the study."""
        from analysis.planning.dry_run import designs_to_confirm
        from sdpet.config import design_id
        from sdpet.study.manifest import write_manifest
        from sdpet.study.plan import make_plan

        assert options.confirm is not None and self.config is not None
        if not all(job.complete for job in plan.jobs):
            print("  runs are missing, so the best is not confirmed yet", flush=True)
            return []
        designs: dict[str, Job] = {}
        for job in plan.jobs:
            designs.setdefault(design_id(job.config), job)
        design_of = {job.folder.name: design_id(job.config) for job in plan.jobs}
        best, sentences = designs_to_confirm(folder, design_of, options.metric)
        if not self.config.quiet:
            print("\n".join(sentences), flush=True)
        first = 1 + max(job.config.seed for job in plan.jobs)
        sweep = [
            [*(text for text in designs[design].overrides if not text.startswith("seed=")), f"seed={seed}"]
            for design in best
            for seed in range(first, first + options.confirm)
        ]
        fresh = replace(make_plan(composer, sweep), asked=plan.asked).with_known_runs().jobs
        write_manifest(folder, plan.jobs, sys.argv, fresh, plan.asked)
        self._launch(composer, [job for job in fresh if not job.complete])
        return fresh

    def _forecast(self, plan: Plan, folder: Path, options: SweepOptions) -> list[str]:
        """The lines of a dry run: what the plan can estimate, and its expected time and disk space."""
        import pandas as pd

        from analysis.planning.dry_run import foresee
        from sdpet.study.forecast import forecast_lines, levels_of, make_forecast, measured_in, short_pilot
        from sdpet.study.plan import training_first

        assert self.config is not None
        lines = [f"  left out  {', '.join(plan.dropped)}"] if plan.dropped else []
        lines += [f"  doubled   {plan.doubled} jobs that are the same as another one"] if plan.doubled else []
        done = sum(job.complete for job in plan.jobs)
        lines += [f"  done      {done} of these runs are already complete"] if done else []
        rows, names = levels_of(plan.jobs)
        lines += foresee(pd.DataFrame(rows), names)
        if options.pilot == "run":
            measured, where = short_pilot(plan.jobs), "a short pilot"
        else:
            place = Path(options.pilot).expanduser() if options.pilot else folder
            if options.pilot and not place.is_dir():
                raise ValueError(f"hydra.sweeper.pilot: there is no folder {place}; give a study's folder, or run.")
            measured, where = measured_in(place), str(place)
        train, score = training_first([job for job in plan.jobs if not job.complete])
        workers = self.config.hydra.launcher.get("workers")
        return lines + forecast_lines(
            make_forecast(train, score, measured, where), len(train), len(score), workers, folder
        )


def _split_by_commas(said: str, sweep: Sequence[Sequence[str]]) -> str:
    """How one text with commas is given, where the error is about texts that commas separate."""
    values: dict[str, set[str]] = {}
    for key, _, value in (override.lstrip("+").partition("=") for job in sweep for override in job):
        values.setdefault(key, set()).add(value)
    for key, texts in values.items():
        if len(texts) > 1 and key in said and " " in "".join(texts):
            return (
                f" ({key} has {len(texts)} values here, as commas separate them; "
                f"one text with commas is '{key}=\"A, B\"'.)"
            )
    return ""


def _copies(found: Mapping[Path, str]) -> list[str]:
    """A line on the runs that the study has already, computed in another way."""
    if not found:
        return []
    ways = ", or ".join(sorted(set(found.values())))
    were = "was" if len(found) == 1 else "were"
    return [f"  {len(found)} of them {were} computed with {ways}; again=true does them in this way as well"]


def _counts(complete: int, failed: int, retry: bool) -> list[str]:
    lines = [f"  {complete} of them already complete"] if complete else []
    if failed:
        what = "are done again (hydra.sweeper.retry=false leaves them)" if retry else "are left as they are"
        lines.append(f"  {failed} that failed before {what}")
    return lines
