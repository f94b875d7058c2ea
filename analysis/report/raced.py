"""A study that was a race, for its report: where the race stands, and which runs the rest of the page is about."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from analysis.conclusions.claims import Claim, Conclusion, Part
from analysis.report.words import listing
from analysis.sequential.factors import complete_seeds
from analysis.sequential.result import RaceResult
from analysis.sequential.stored import StoredRace, read_race
from sdpet.files.terminal import counted

METHOD = "The race"


@dataclass(frozen=True)
class Raced:
    """The race of a study.

    Parameters
    ----------
    stored
        Its rules and scores.
    result
        Where it stands.
    seeds
        The seeds that every design has, in the order of the race.
    notes
        What a reader must know.
    """

    stored: StoredRace
    result: RaceResult
    seeds: list[int]
    notes: list[str] = field(default_factory=list)


def raced(folder: Path, runs: pd.DataFrame) -> tuple[Raced | None, pd.DataFrame]:
    """The race in a study's folder, and the runs that the rest of its page is about: those of complete seeds.

    Parameters
    ----------
    folder
        The study's folder.
    runs
        All its runs, with the column run_id.

    Returns
    -------
    race : Raced or None
        None where the study was no race.
    runs : pandas.DataFrame
        As they are, or those on the first two seeds, which every design has.
    """
    stored = read_race(folder) if folder.is_dir() else None
    if stored is None:
        return None, runs
    result = stored.race().result()
    racing = result.bounds.loc[result.bounds["by"].ne("diverged"), "n"]
    seeds = stored.seeds[: complete_seeds(racing)]
    first = [str(seed) for seed in stored.seeds[:2]]
    ids = {by_seed[seed] for by_seed in stored.runs.values() for seed in first if seed in by_seed}
    kept = runs[runs["run_id"].astype(str).isin(ids)]
    notes = [
        f"This study was a race. Only the section on the race is about all its runs ({result.runs_used}); the rest of "
        f"the page is about the {len(kept)} runs on its first {counted(len(first), 'seed')}, which every design has: "
        "designs that leave a race early would bias it."
    ]
    if stored.before:
        notes.append(
            f"{counted(stored.before, 'run')} of the study had ended when the race was set up; if d or the score was "
            "chosen by looking at them, its error rate is not that of its rules."
        )
    if stored.outside:
        notes.append(
            f"{counted(len(stored.outside), 'run')} in the folder {'is' if len(stored.outside) == 1 else 'are'} not of "
            "the race (seeds added by hand, or other designs) and left out everywhere."
        )
    kept.attrs = dict(runs.attrs)
    return Raced(stored, result, seeds, notes), kept


def race_conclusion(race: Raced, fresh: pd.DataFrame | None, tests: pd.DataFrame) -> Conclusion:
    """What a race says: the best within d, the winner's mean on fresh seeds, and which factors matter.

    Parameters
    ----------
    fresh
        Runs on seeds that had no part in the race.
    tests
        See `analysis.sequential.factors.factor_tests`.
    """
    result = race.result
    verdict = "yes" if result.decided else "undecided"
    kept = [level for level in [result.leader, *result.undecided, *result.parked] if level is not None]
    short = float(-result.bounds.loc[result.leader, "low"]) if result.leader is not None else float("nan")
    claim = Claim("best within d", str(result.leader), verdict, str(result), short, 0.0, short, 1 - result.alpha,
                  units=result.runs_used, method=METHOD, levels=tuple(map(str, kept)))  # fmt: skip
    parts = [Part([str(result)], [claim])]
    parts += [_winner(race, fresh), _factors(race, tests)]
    return Conclusion.of([part for part in parts if part.sentences])


def _winner(race: Raced, fresh: pd.DataFrame | None) -> Part:
    """The leader's mean on fresh seeds alone; its spread is that of the race, its interval is about these seeds."""
    result, stored = race.result, race.stored
    if fresh is None or result.leader is None or stored.score not in fresh or not len(result.looks):
        return Part()
    ids = stored.fresh_runs.get(str(result.leader), [])
    scores = fresh[fresh["run_id"].astype(str).isin(ids) & np.isfinite(fresh[stored.score].astype(float))]
    if not len(scores):
        return Part()
    last = result.looks.iloc[-1]
    mean, n = float(scores[stored.score].mean()), len(scores)
    half = float(stats.t.ppf(0.975, last["df"]) * last["sd"] / np.sqrt(n))
    seeds = listing(map(str, sorted(scores["seed"])))
    said = (
        f"On {n} fresh {'seed' if n == 1 else 'seeds'} ({seeds}), which had no part in the race, the mean of "
        f"{result.leader} is {mean:.3g}, with 95 % confidence between {mean - half:.3g} and {mean + half:.3g} for "
        "these seeds."
    )
    return Part([said], [Claim("confirmed mean", str(result.leader), "yes", said, mean, mean - half, mean + half, 0.95,
                               units=n, method=METHOD)])  # fmt: skip


def _factors(race: Raced, tests: pd.DataFrame) -> Part:
    """Each factor by F on complete seeds, at the level of its look."""
    said, claims = [], []
    for term, rows in tests.groupby("term", sort=False):
        row = rows[rows["matters"]].iloc[0] if rows["matters"].any() else rows.iloc[-1]
        does = "matters" if row["matters"] else "is not shown to matter"
        text = (
            f"{term} {does} for {race.stored.score} (F({row['df']:.0f}, {row['df_residual']:.0f}) = {row['F']:.1f}, "
            f"p = {row['p_holm']:.2g} on {row['look']:.0f} complete seeds, tested at {row['level']:g})."
        )
        said.append(text[0].upper() + text[1:])
        claims.append(Claim("matters", str(term), "yes" if row["matters"] else "undecided", text, p=row["p_holm"],
                            units=int((row["df"] + 1) * row["look"]), method=METHOD))  # fmt: skip
    return Part(said, claims)
