"""Before the runs of a sweep: a chosen part of them, the question that is registered, and what a dry run says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sdpet.config import design_id
from sdpet.files.terminal import counted
from sdpet.study.forecast import forecast_lines, levels_of, make_forecast, measured_in, short_pilot
from sdpet.study.options import SweepOptions
from sdpet.study.plan import Plan, in_random_order, make_plan, training_first
from sdpet.study.sweep.beside import measured_beside
from sdpet.study.sweep.combinations import split_by_commas
from sdpet.study.sweep.composer import Composer
from sdpet.study.sweep.racing import score_of


def planned(composer: Composer, sweep: Sequence[Sequence[str]], options: SweepOptions) -> tuple[Plan, list[str]]:
    """The plan of a sweep.

    Returns
    -------
    plan : Plan
        With its runs in order.
    lines : list of str
        Their number, and the quality of a chosen fraction.
    """
    try:
        plan = make_plan(composer, sweep)
    except ValueError as error:
        raise ValueError(f"{error}{split_by_commas(str(error), sweep)}") from None
    if not plan.jobs:
        raise ValueError(f"this sweep has no run; cells that cannot exist: {', '.join(plan.dropped) or 'none'}.")
    lines: list[str] = []
    total = len(plan.jobs)
    if options.runs or options.fraction:
        import pandas as pd

        from analysis.planning.dry_run import choose_runs, units_to_choose_from

        rows, names = levels_of(plan.jobs)
        frame = pd.DataFrame(rows)
        units = units_to_choose_from(frame, names)
        size = options.runs or max(1, round((options.fraction or 1.0) * units))
        if size < units:
            chosen, sentence = choose_runs(frame, names, size, options.effects)
            plan, lines = replace(plan, jobs=[plan.jobs[i] for i in chosen]), [sentence]
    if options.order is not None:
        plan = replace(plan, jobs=in_random_order(plan.jobs, options.order))
    plan = plan.with_known_runs()
    if options.race is not None:
        count = len({design_id(job.config) for job in plan.jobs})
        size_of_race = f"{counted(count, 'design')}, {counted(options.most_seeds, 'seed')} at most"
        return plan, [f"{plan.jobs[0].folder.parent}: a race of {size_of_race}"]
    cells = f", {counted(len(plan.dropped), 'cell')} that cannot exist left out" if plan.dropped else ""
    runs_words = f"{len(plan.jobs)} of {counted(total, 'run')}" if lines else counted(len(plan.jobs), "run")
    runs = f"{plan.jobs[0].folder.parent}: {runs_words}{cells}"
    return plan, [runs, *lines, *_copies(plan.copies)]


def _copies(found: Mapping[Path, str]) -> list[str]:
    """A line on the runs that the study has already, computed in another way."""
    if not found:
        return []
    ways = ", or ".join(sorted(set(found.values())))
    were = "was" if len(found) == 1 else "were"
    return [f"  {len(found)} of them {were} computed with {ways}; again=true does them in this way as well"]


def register_question(plan: Plan, folder: Path, options: SweepOptions) -> str:
    """Store the question of a study before it runs; returns a line on it."""
    from analysis.planning.question import question
    from analysis.planning.registered import register

    rows, names = levels_of(plan.jobs)
    asked = question(
        rows, names, options.metric, options.maximize, options.effects, options.alpha, options.looks
    )  # fmt: skip
    ended = sum(1 for _ in folder.glob("*/record.json"))
    there = register(folder, asked, (job.folder.name for job in plan.jobs), ended)
    after = "" if there.in_time else f", after {counted(there.ended, 'run')} had ended, which the report will say"
    return f"  registered  {asked.score} by {asked.model or ', '.join(asked.factors)}{after}"


def forecast_of(plan: Plan, folder: Path, options: SweepOptions, workers: Any) -> list[str]:
    """The lines of a dry run: what the plan can estimate, and its expected time and disk space."""
    import pandas as pd

    from analysis.planning.dry_run import foresee

    lines = [f"  left out  {', '.join(plan.dropped)}"] if plan.dropped else []
    lines += [f"  doubled   {plan.doubled} jobs that are the same as another one"] if plan.doubled else []
    done = 0 if options.race is not None else sum(job.complete for job in plan.jobs)
    lines += [f"  done      {done} of these runs are already complete"] if done else []
    rows, names = levels_of(plan.jobs)
    frame = pd.DataFrame(rows)
    if options.race is not None and "seed" not in names:  # its factors are tested on two seeds
        frame = pd.concat([frame.assign(seed=frame["seed"] + n) for n in (0, 1)])
        names = [*names, "seed"]
    lines += foresee(frame, names, options.effects)
    if options.pilot == "run":
        measured, where = short_pilot(plan.jobs), "a short pilot"
    else:
        place = Path(options.pilot).expanduser() if options.pilot else folder
        if options.pilot and not place.is_dir():
            raise ValueError(f"hydra.sweeper.pilot: there is no folder {place}; give a study's folder, or run.")
        measured, where = measured_in(place), str(place)
        if not measured and not options.pilot:
            measured, where = measured_beside(folder, plan.jobs)
    train, score = training_first([job for job in plan.jobs if not job.complete])
    if options.race is None:
        forecast, count = make_forecast(train, score, measured, where), len(train)
        return lines + forecast_lines(forecast, count, len(score), workers, folder)
    said, runs = _race_expectation(plan, folder, options)
    train = list({design_id(job.config): job for job in plan.jobs}.values())  # one run of each design
    forecast, count = make_forecast(train, [], measured, where), len(train)
    if runs is not None:
        share = runs / count
        forecast = replace(
            forecast,
            seconds=None if forecast.seconds is None else share * forecast.seconds,
            size=None if forecast.size is None else round(share * forecast.size),
        )
        count = round(runs)
    return lines + said + forecast_lines(forecast, count, 0, workers, folder)


def _race_expectation(plan: Plan, folder: Path, options: SweepOptions) -> tuple[list[str], float | None]:
    """Lines on how many runs a race takes, and that number."""
    from analysis.sequential.foresee_race import expectation

    assert options.race is not None
    place = Path(options.pilot).expanduser() if options.pilot and options.pilot != "run" else folder
    return expectation(
        len({design_id(job.config) for job in plan.jobs}), options.race, score_of(plan, options), options.alpha,
        options.most_seeds, options.sds, place if place.is_dir() else None,
    )  # fmt: skip
