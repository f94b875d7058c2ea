"""The sweeper `grid`: all combinations of the listed values, checked before any work; works with every launcher."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class GridSweeper(Sweeper):
    """params: sweeps that the config itself asks for (sweeps/*.yaml); the command line goes before them."""

    def __init__(self, params: dict[str, Any] | None = None) -> None:
        self.params = dict(params or {})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Plan, do what is not done yet, sum up. Exits 1 when not all that was asked for is there."""
        from sdpet.study.plan import Composer, make_plan
        from sdpet.study.show import study_report

        assert self.hydra_context is not None and self.config is not None
        composer = Composer(self.hydra_context.config_loader, self.config)
        plan = make_plan(composer, self.combinations(arguments))
        if not plan.jobs:
            raise ValueError(f"this sweep has no run; cells that cannot exist: {', '.join(plan.dropped) or 'none'}.")
        folder = plan.jobs[0].folder.parent
        folder.mkdir(parents=True, exist_ok=True)  # an unwritable place is found here, before any work
        before = {job.folder for job in plan.jobs if job.complete}
        todo = [job for job in plan.jobs if job.folder not in before]
        quiet = self.config.quiet
        if not quiet:
            cells = f", {len(plan.dropped)} cells that cannot exist left out" if plan.dropped else ""
            there = f", {len(before)} of them there already" if before else ""
            print(f"{folder}: {len(plan.jobs)} runs{there}{cells}", flush=True)
        started = time.monotonic()
        results: Sequence[Any] = []
        if todo:
            self.launcher.composer = composer  # type: ignore[attr-defined]
            results = self.launcher.launch([list(job.overrides) for job in todo], initial_job_idx=0)
        text, complete = study_report(plan.jobs, before, plan.dropped, plan.doubled, folder, time.monotonic() - started)
        print(text, flush=True)
        if not complete:
            sys.exit(1)
        return results

    def combinations(self, arguments: list[str]) -> list[list[str]]:
        """One list of overrides a job; the first sweep varies slowest, the last one given for a key counts."""
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        levels: dict[str, list[str]] = {}
        for override in parser.parse_overrides([f"{key}={value}" for key, value in self.params.items()] + arguments):
            key = override.get_key_element()
            if not override.is_sweep_override():
                levels[key] = [override.input_line or ""]
            elif override.is_discrete_sweep():
                levels[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
            else:
                raise ValueError(f"{override.input_line}: give the values one by one, {key}=A,B,C, or as range(A,B).")
            if not levels[key]:
                raise ValueError(f"{override.input_line} stands for no value at all.")
        return [list(job) for job in itertools.product(*levels.values())]
