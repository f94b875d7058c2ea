"""A study as a race: runs look by look, with what each look decided kept beside the plan."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpet.config import design_id
from sdpet.files.terminal import counted
from sdpet.runs.loggers.choose import tell_race
from sdpet.runs.record import Record
from sdpet.study.options import SweepOptions
from sdpet.study.plan import Job, Plan, in_random_order, training_first
from sdpet.study.report import NO_LIKENESS
from sdpet.study.sweep.more_seeds import run_fresh
from sdpet.study.sweep.ongoing import Ongoing

if TYPE_CHECKING:
    from analysis.sequential.stored import StoredRace

FIRST_SCORE = {"dreambooth": "clip_i"}  # the score a report takes where none is named
NAMED = 5  # runs that a line names


def check_race(plan: Plan, options: SweepOptions) -> None:
    """Refuse what cannot be raced, before any work.

    Raises
    ------
    ValueError
        Runs share a training, there are several tasks or fewer than two designs, or no score is named.
    """
    from analysis.sequential.schedule import looks_up_to

    if training_first(plan.jobs)[1]:
        raise ValueError(
            "hydra.sweeper.race needs designs that are trained apart: some here share a training, so their scores are "
            "not independent; race the designs, and vary sampler and eval in another study."
        )
    tasks = sorted({f"{job.config.task.name} on {job.config.data.name}" for job in plan.jobs})
    if len(tasks) > 1:
        raise ValueError(f"hydra.sweeper.race is about one task, and this sweep has {', '.join(tasks)}; choose one.")
    if len({design_id(job.config) for job in plan.jobs}) < 2:
        raise ValueError("hydra.sweeper.race compares designs, and this sweep has one.")
    looks_up_to(options.most_seeds)
    score = score_of(plan, options)
    if isinstance(options.race, str) and score in NO_LIKENESS:
        raise ValueError(
            f"hydra.sweeper.race={options.race} is a share of floor to ceiling, and real images are not the best "
            f"value of {score}; give the difference in its own unit, such as hydra.sweeper.race=0.03."
        )


def score_of(plan: Plan, options: SweepOptions) -> str:
    """The score that decides.

    Raises
    ------
    ValueError
        None is named and the task has several.
    """
    task = plan.jobs[0].config.task.name
    if options.metric is None and task not in FIRST_SCORE:
        raise ValueError(f"the runs of {task} have several scores; hydra.sweeper.metric names the one to race for.")
    return options.metric or FIRST_SCORE[task]


def run_race(sweep: Ongoing) -> tuple[list[Job], dict[Path, Record]]:
    """Do the runs of a race look by look, then train its winner on fresh seeds.

    Decisions rest on the scores kept in `.race.json` alone, so a race that was interrupted decides as one that was not.

    Returns
    -------
    fresh : list of Job
        Runs of the winner on fresh seeds.
    before : dict of Path to Record
        Records of the runs of this race that were complete already.

    Raises
    ------
    ValueError
        The race in the folder has other rules, or no run has the score.
    """
    designs = {name: group[0] for name, group in _by_name(sweep).items()}
    stored = _set_up(sweep, designs)
    sweep.say([f"{sweep.folder}: a race of {counted(len(designs), 'design')}, {counted(stored.most, 'seed')} at most"])
    before: dict[Path, Record] = {}
    asked: dict[tuple[str, int], Job] = {}
    held = stored.race()
    seen = [(design, int(seed)) for design, by_seed in stored.scores.items() for seed in by_seed]
    for job in _ask(sweep, designs, seen, asked).values():
        if (record := job.record()) is not None:
            before[job.folder] = record
    sweep.launch([job for job in asked.values() if job.folder not in before])  # records that were lost since
    while wanted := held.ask():
        jobs = _ask(sweep, designs, wanted, asked)
        sweep.plan = replace(sweep.plan, jobs=list(asked.values()))
        sweep.note()
        before |= _do(sweep, [jobs[key] for key in wanted])
        records = {key: jobs[key].record() for key in wanted}
        if any(record is None for record in records.values()):
            sweep.say(["  race      runs of its next look are missing; the same command goes on with them"])
            return [], before
        _take(stored, {key: record for key, record in records.items() if record is not None})
        held = stored.race()
        result = held.result()
        stored.keep(result)
        stored.outside = _outside(sweep, asked.values())
        stored.write(sweep.folder)
        sweep.say(stored.said[len(stored.said) - 2 : -1])
    sweep.plan = replace(sweep.plan, jobs=list(asked.values()))
    sweep.note()
    fresh = _fresh(sweep, stored, designs, before)
    _say_end(sweep, stored, asked, fresh)
    return fresh, before


def _by_name(sweep: Ongoing) -> dict[str, list[Job]]:
    """The jobs of each design by its name, which says all in which designs differ."""
    found: dict[str, list[Job]] = {}
    for design, group in sweep.designs().items():
        name = group[0].name.replace(f" seed {group[0].config.seed}", "", 1)
        found[name if name not in found else f"{name} [{design}]"] = group
    return found


def _set_up(sweep: Ongoing, designs: Mapping[str, Job]) -> StoredRace:
    """The race in the folder, or a new one. Only `most` may differ once a look was made."""
    from analysis.runs.direction import higher_is_better
    from analysis.sequential.schedule import MOST
    from analysis.sequential.stored import StoredRace, read_race

    options, score = sweep.options, score_of(sweep.plan, sweep.options)
    assert options.race is not None
    listed = sorted({job.config.seed for job in sweep.plan.jobs})[:MOST]
    new = StoredRace(
        score=score,
        maximize=higher_is_better(score) if options.maximize is None else options.maximize,
        asked=options.race,
        d=None if isinstance(options.race, str) else options.race,
        alpha=options.alpha,
        most=options.most_seeds,
        seeds=[*listed, *range(listed[-1] + 1, listed[-1] + 1 + MOST - len(listed))],
        designs={name: design_id(job.config) for name, job in designs.items()},
        before=sum(1 for _ in sweep.folder.glob("*/record.json")),
    )
    there = read_race(sweep.folder)
    if there is None or not there.looks:
        return new if there is None else replace(new, before=there.before)
    words = {"score": "score", "maximize": "direction", "asked": "race (d)", "alpha": "alpha"}
    differ = [word for name, word in words.items() if getattr(there, name) != getattr(new, name)]
    differ += ["designs"] if set(there.designs.values()) != set(new.designs.values()) else []
    differ += ["seeds"] if len(listed) > 1 and there.seeds[: len(listed)] != listed else []
    if differ:
        raise ValueError(
            f"{sweep.folder} holds a race that has made {len(there.looks)} looks with another {', '.join(differ)}; ask "
            "with the same (only hydra.sweeper.most may change), or give the study another name (study=NAME)."
        )
    names = {design: name for name, design in there.designs.items()}
    for name, design in new.designs.items():  # names can change with the sweep; those of the first request stay
        if names[design] != name:
            raise ValueError(f"{sweep.folder} holds a race in which {name} is called {names[design]}; ask as before.")
    if there.looks[-1]["seeds"] > options.most_seeds:
        raise ValueError(
            f"hydra.sweeper.most={options.most_seeds} is less than the {there.looks[-1]['seeds']} seeds at which the "
            f"race in {sweep.folder} has looked; give as many at least."
        )
    return replace(there, most=options.most_seeds)


def _ask(
    sweep: Ongoing, designs: Mapping[str, Job], wanted: Sequence[tuple[str, int]], asked: dict[tuple[str, int], Job]
) -> dict[tuple[str, int], Job]:
    """The jobs of runs; they become part of what was asked for."""
    jobs = sweep.with_seeds([(designs[design], seed) for design, seed in wanted])
    found = dict(zip(wanted, jobs, strict=True))
    asked |= found
    return found


def _do(sweep: Ongoing, jobs: Sequence[Job]) -> dict[Path, Record]:
    """Do what is not complete; what failed in this attempt is tried once more. Returns what was complete before."""
    options = sweep.options
    records = {job.folder: job.record() for job in jobs}
    before = {path: record for path, record in records.items() if record and record.status != "failed"}
    left = set() if options.retry else {path for path, r in records.items() if r and r.status == "failed"}
    todo = [job for job in jobs if job.folder not in before and job.folder not in left]
    if options.order is not None:
        todo = in_random_order(todo, options.order)
    if todo:
        sweep.launch(todo)
    again = [job for job in todo if (record := job.record()) is not None and record.status == "failed"]
    if again and options.retry:
        sweep.launch(again)
    return before


def _take(stored: StoredRace, records: Mapping[tuple[str, int], Record]) -> None:
    """Keep the scores of a look's runs, and settle d where it is a share of floor to ceiling."""
    finished = [record for record in records.values() if record.status == "finished"]
    if finished and not any(stored.score in record.metrics for record in finished):
        raise ValueError(f"hydra.sweeper.metric must be one of {', '.join(finished[0].metrics)}, not {stored.score!r}.")
    for (design, seed), record in records.items():
        value = record.metrics.get(stored.score) if record.status == "finished" else None
        score = None if value is None or not math.isfinite(value) else float(value)
        stored.scores.setdefault(design, {})[str(seed)] = score
        stored.runs.setdefault(design, {})[str(seed)] = record.run_id
    if stored.d is None:
        assert isinstance(stored.asked, str)
        stored.d = share_of_range(stored.asked, stored.score, finished)


def share_of_range(asked: str, score: str, records: Sequence[Record]) -> float:
    """A share such as "3%" of the mean distance from floor to ceiling, in the unit of the score.

    Raises
    ------
    ValueError
        No run has both.
    """
    distances = []
    for record in records:
        ends = record.anchors.get(score, {})
        floor, ceiling = ends.get("floor"), ends.get("ceiling")
        distances += [ceiling - floor] if floor is not None and ceiling is not None else []
    distance = abs(sum(distances) / len(distances)) if distances else 0.0
    if not distance > 0:
        raise ValueError(
            f"hydra.sweeper.race={asked} is a share of floor to ceiling, which {score} does not have here; give the "
            "difference in its own unit, such as hydra.sweeper.race=0.03."
        )
    return float(asked.rstrip("%")) / 100 * distance


def _fresh(sweep: Ongoing, stored: StoredRace, designs: Mapping[str, Job], before: dict[Path, Record]) -> list[Job]:
    """Train the leader, and those that a race without a decision leaves beside it, on fresh seeds."""
    count = 3 if sweep.options.confirm is None else sweep.options.confirm
    result = stored.race().result()
    if result.leader is None or not count:
        return []
    stored.fresh = list(range(max(stored.seeds) + 1, max(stored.seeds) + 1 + count))
    stored.write(sweep.folder)
    chosen = [result.leader, *result.undecided]
    jobs = run_fresh(sweep, [(designs[name], seed) for name in chosen for seed in stored.fresh], before)
    stored.fresh_runs = {
        name: [job.folder.name for job in jobs[count * i : count * (i + 1)]] for i, name in enumerate(chosen)
    }
    return jobs


def _outside(sweep: Ongoing, asked: Any, fresh: Sequence[Job] = ()) -> list[str]:
    """Ids of the runs in the folder that the race did not ask for."""
    ours = {job.folder.name for job in [*asked, *fresh]}
    return sorted(path.parent.name for path in sweep.folder.glob("*/record.json") if path.parent.name not in ours)


def _say_end(sweep: Ongoing, stored: StoredRace, asked: Mapping[tuple[str, int], Job], fresh: Sequence[Job]) -> None:
    """What the race says, which runs it left out, and whose score has changed since it looked."""
    result = stored.race().result()
    stored.keep(result)
    stored.outside = _outside(sweep, asked.values(), fresh)
    lines = []
    if stored.outside:
        found = [Record.find(sweep.folder / run) for run in stored.outside[:NAMED]]
        names = ", ".join(
            f"{r.factors.get('placement') or r.factors.get('method')} seed {r.factors.get('seed')}" for r in found if r
        )
        more = ", ..." if len(stored.outside) > NAMED else ""
        lines.append(f"  left out  {counted(len(stored.outside), 'run')} that the race did not ask for ({names}{more})")
    changed = []
    for (design, seed), job in asked.items():
        record = job.record()
        kept = stored.scores.get(design, {}).get(str(seed))
        now = record.metrics.get(stored.score) if record else None
        if record is not None and kept is not None and now is not None and now != kept:
            changed.append(job.name)
    if changed:
        lines.append(
            f"  changed   {len(changed)} runs have another score now ({changed[0]}, ...); the race keeps what it saw"
        )
    stored.said += lines
    stored.write(sweep.folder)
    told = {key: value for key, value in asdict(stored).items() if key not in ("scores", "runs")}
    tell_race(next(iter(asked.values())).config, sweep.folder, told)
    sweep.say([stored.said[len(stored.said) - len(lines) - 1], *lines])
