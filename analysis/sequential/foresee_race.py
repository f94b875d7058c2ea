"""What a race may take, before it runs: simulated with the spread of a pilot, or with stated standard deviations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from analysis.conclusions.joint import designs
from analysis.runs.direction import higher_is_better
from analysis.runs.load import factor_columns, load_results
from analysis.sequential.expected import Expected, World, simulate, world_of

RACES = 300  # simulated; the share that stays undecided is known to about 3 percentage points


def expectation(
    count: int, race: float | str, score: str, alpha: float, most: int, sds: Sequence[float] | None, pilot: Path | None
) -> tuple[list[str], float | None]:
    """Lines on what a race takes, and its median number of runs; None where nothing is known of the scores.

    Parameters
    ----------
    count
        The number of designs.
    race
        The difference that matters, or a share of floor to ceiling such as "3%".
    score
        The score that decides.
    alpha, most
        The other rules, see `analysis.race`.
    sds
        Standard deviations of the designs' means and of a run beside what its seed shares, where they are stated.
    pilot
        A folder with runs of a study, from which they are taken otherwise.
    """
    try:
        world, d, source = _stated(count, race, sds) if sds else _from_pilot(count, race, score, pilot)
    except ValueError as error:
        return [f"  race      how many runs it takes is unknown: {error}"], None
    found = simulate(world, d, alpha=alpha, most=most, races=RACES)
    nothing = simulate(replace(world, means=(0.0,) * count), d, alpha=alpha, most=most, races=RACES)
    return [
        f"  race      {_words(found)} ({RACES} races simulated with {source})",
        f"            where all {count} designs are equal: {_words(nothing)}",
    ], float(np.median(found.runs))


def _words(found: Expected) -> str:
    half, nine = np.percentile(found.runs, [50, 90])
    return f"{half:.0f} runs in the middle, {nine:.0f} at 90%, undecided in {1 - found.decided.mean():.0%}"


def _stated(count: int, race: float | str, sds: Sequence[float]) -> tuple[World, float, str]:
    if isinstance(race, str):
        raise ValueError("with hydra.sweeper.sds, give hydra.sweeper.race in the unit of the score.")
    return _spread(count, *sds), race, f"SDs of {sds[0]:g} between designs and {sds[1]:g} of a run, as stated"


def _from_pilot(count: int, race: float | str, score: str, pilot: Path | None) -> tuple[World, float, str]:
    hint = "hydra.sweeper.pilot=FOLDER takes the spread of another study, hydra.sweeper.sds=[BETWEEN,RUN] states it."
    try:
        frame = load_results(pilot) if pilot else None
    except ValueError:
        frame = None
    if frame is None or score not in frame:
        raise ValueError(f"there is no run with {score} in {pilot}; {hint}" if pilot else hint)
    names = [name for name in factor_columns(frame) if name != "seed"]
    frame = frame.assign(design=designs(frame, names) if names else "one")
    upward = higher_is_better(score)
    try:
        world = world_of(frame, score, "design", "seed", upward)
    except ValueError as error:
        raise ValueError(f"{str(error)[:-1]}; {hint}") from None
    if len(world.means) != count:
        residual = world.residual_sd if isinstance(world.residual_sd, float) else float(np.mean(world.residual_sd))
        world = _spread(count, float(np.std(world.means, ddof=1)), residual)
    d = race if isinstance(race, float) else _share(race, score, frame)
    return world, d, f"the spread of the {len(frame)} runs in {pilot}"


def _share(race: str, score: str, frame: pd.DataFrame) -> float:
    columns = [f"{score}_ceiling", f"{score}_floor"]
    known = set(columns) <= set(frame)
    distance = abs(float(frame[columns[0]].mean() - frame[columns[1]].mean())) if known else 0.0
    if not distance > 0:
        raise ValueError(f"the runs have no floor and ceiling of {score}, of which {race} is a share.")
    return float(race.rstrip("%")) / 100 * distance


def _spread(count: int, between: float, residual: float) -> World:
    """A world whose means are the quantiles of a normal distribution."""
    points = stats.norm.ppf((np.arange(count) + 0.5) / count)
    return World(tuple(between * points), residual)
