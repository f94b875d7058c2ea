"""A sweep while its runs are done: its plan, its folder, its options, and the way to do more runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sdpet.config import design_id
from sdpet.study.forecast import factors_of
from sdpet.study.manifest import write_manifest
from sdpet.study.options import SweepOptions
from sdpet.study.plan import Job, Plan, make_plan
from sdpet.study.sweep.composer import Composer


@dataclass
class Ongoing:
    """A sweep while its runs are done.

    Attributes
    ----------
    composer : Composer
        Composes the configs of further runs.
    plan : Plan
        The runs asked for so far.
    folder : Path
        The study's folder.
    options : SweepOptions
        The options of the sweep.
    launch : callable
        Does jobs with the launcher of the sweep, and returns when they have ended.
    say : callable
        Shows lines to the user, unless the user wants none.
    command : list of str
        The command line.
    """

    composer: Composer
    plan: Plan
    folder: Path
    options: SweepOptions
    launch: Callable[[Sequence[Job]], Any]
    say: Callable[[Iterable[str]], None]
    command: list[str]

    def designs(self) -> dict[str, list[Job]]:
        """The jobs of each design, by its id, in the order of the plan."""
        found: dict[str, list[Job]] = {}
        for job in self.plan.jobs:
            found.setdefault(design_id(job.config), []).append(job)
        return found

    def note(self) -> None:
        """Write the runs asked for so far, and what varies in them, to the plan in the study's folder."""
        factors = factors_of(self.plan.jobs)
        write_manifest(self.folder, self.plan.jobs, self.command, ways=self.plan.asked, factors=factors)

    def with_seeds(self, seeds_of: Iterable[tuple[Job, int]]) -> list[Job]:
        """Jobs like these with other seeds."""
        sweep = [
            [*(text for text in job.overrides if not text.startswith("seed=")), f"seed={seed}"]
            for job, seed in seeds_of
        ]
        return replace(make_plan(self.composer, sweep), asked=self.plan.asked).with_known_runs().jobs
