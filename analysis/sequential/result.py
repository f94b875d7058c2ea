"""The result of a race, with the names of its designs and seeds."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from analysis.sequential.decisions import Decisions
from analysis.sequential.schedule import LOOKS, spent

STATES = ("leader", "undecided", "parked", "out")


@dataclass(frozen=True)
class RaceResult:
    """Where a race stands.

    Parameters
    ----------
    leader
        The level with the best mean at the last look; None before the first look.
    out
        Levels that are not the best, or that diverged or failed, in the order in which they left.
    parked
        Levels that are better than the leader by d at most, or not at all.
    undecided
        The other levels; without any the race is decided.
    looks
        One row a look, indexed by the number of seeds: spent (of alpha so far), compared (number of levels), leader,
        out, parked, back (lists of levels), undecided (number), sd and df (of the residual), critical, regret (by how
        much the leader can at most be worse than the best; the race is decided where that is d at most).
    bounds
        One row a level: state, mean (of the seeds used), n, to_leader (by how much it can at most be better than the
        leader), low and high (of how much better it is than the best of the others), look and by (when it left, and
        worse than which; by is "diverged" where it has no score), bound (against that one, or the leader). low and high
        hold together with probability 1 - alpha, wherever the race stopped.
    runs_used
        Number of runs that the looks have used.
    wanted
        (level, seed) of the runs that the next look needs; empty where the race is decided or has had its last look, or
        where the seeds have no names yet.
    d, alpha, most, higher_is_better
        The rules of this race.
    notes
        What a reader must know: runs that were left out, looks that could not be made.
    """

    leader: Any
    out: list[Any]
    parked: list[Any]
    undecided: list[Any]
    looks: pd.DataFrame
    bounds: pd.DataFrame
    runs_used: int
    wanted: list[tuple[Any, Any]]
    d: float
    alpha: float
    most: int
    higher_is_better: bool
    notes: list[str] = field(default_factory=list)

    @property
    def decided(self) -> bool:
        """Whether every other level is out or parked."""
        return self.leader is not None and not self.undecided

    @property
    def over(self) -> bool:
        """Whether no look is left: the race is decided, or has had its last look."""
        return self.decided or (len(self.looks) > 0 and self.looks.index[-1] == self.most) or self._all_lost

    @property
    def _all_lost(self) -> bool:
        return len(self.out) == len(self.bounds)

    def __str__(self) -> str:
        return " ".join(sentences(self))


def named_result(
    race: Decisions,
    levels: Sequence[Hashable],
    seeds: Sequence[Hashable],
    scores: np.ndarray,
    rules: dict[str, Any],
    notes: Sequence[str] = (),
) -> RaceResult:
    """Decisions with the names of levels and seeds.

    Parameters
    ----------
    scores
        As they are, without a turned sign (seeds, levels).
    rules
        d, alpha, most, higher_is_better.
    """

    def names(which: Sequence[int]) -> list[Hashable]:
        return [levels[i] for i in which]

    looks = pd.DataFrame(
        [
            {
                "seeds": look.seeds, "spent": spent(rules["alpha"], look.seeds), "compared": len(look.compared),
                "leader": levels[look.leader], "out": names(look.out), "parked": names(look.parked),
                "back": names(look.back), "undecided": len(look.undecided), "sd": look.sd, "df": look.df,
                "critical": look.critical, "regret": look.regret,
            }
            for look in race.looks
        ],
        columns=["seeds", "spent", "compared", "leader", "out", "parked", "back", "undecided", "sd", "df", "critical",
                 "regret"],
    ).set_index("seeds")  # fmt: skip
    return RaceResult(
        None if race.leader is None else levels[race.leader],
        names(list(race.exits)),
        names(race.parked),
        names(race.undecided),
        looks,
        _bounds_frame(race, levels, scores),
        int(race.used.sum()),
        [(levels[i], seeds[j]) for j, i in race.wanted if j < len(seeds)],
        rules["d"],
        rules["alpha"],
        rules["most"],
        rules["higher_is_better"],
        list(notes),
    )


def _bounds_frame(race: Decisions, levels: Sequence[Hashable], scores: np.ndarray) -> pd.DataFrame:
    low, high = with_the_best(race)
    rows = []
    for i, level in enumerate(levels):
        exit_, n = race.exits.get(i), int(race.used[i])
        state = "out" if exit_ else "leader" if i == race.leader else "parked" if i in race.parked else "undecided"
        to_leader = float(race.bounds[i, race.leader]) if race.leader is not None else float("inf")
        by = None if exit_ is None else "diverged" if exit_.by is None else levels[exit_.by]
        rows.append({
            "level": level, "state": state, "mean": float(scores[:n, i].mean()) if n else float("nan"), "n": n,
            "to_leader": to_leader, "low": low[i], "high": high[i],
            "look": exit_.seeds if exit_ else pd.NA, "by": by,
            "bound": exit_.bound if exit_ else to_leader,
        })  # fmt: skip
    frame = pd.DataFrame(rows).set_index("level")
    frame["look"] = frame["look"].astype("Int64")
    rank = frame["state"].map(STATES.index)
    return frame.iloc[np.lexsort((frame["to_leader"].mul(-1), rank))]


def with_the_best(race: Decisions) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of how much better each design is than the best of the others, all together at 1 - alpha.

    Hsu's constrained intervals from the bounds of all pairs: on the event that the best design's own bounds hold, the
    upper bound is the least bound against any other design, and 0 at least; the lower one is what the designs that
    may be the best can be better by, and 0 at most.
    """
    designs = len(race.bounds)
    others = ~np.eye(designs, dtype=bool)
    high = np.maximum(np.where(others, race.bounds, np.inf).min(axis=1), 0.0)
    lost = {i for i, exit_ in race.exits.items() if exit_.by is None}
    may_be_best = np.array([i not in race.exits or i in lost for i in range(designs)])
    low = np.zeros(designs)
    for i in range(designs):
        rivals = race.bounds[may_be_best & others[i], i]
        low[i] = -max(float(rivals.max()), 0.0) if len(rivals) else 0.0
    return low, high


def sentences(result: RaceResult) -> list[str]:
    """What the race says, for people."""
    total, better = len(result.bounds), "better" if result.higher_is_better else "smaller, which is better,"
    if result.leader is None:
        if result._all_lost:
            return ["Every design diverged or failed, so there is no best one."]
        return [f"No look was made yet: the first one needs {LOOKS[0]} seeds of each of the {total} designs."]
    sure = f"{1 - result.alpha:.0%}"
    at = int(result.looks.index[-1])
    lost = [level for level in result.out if result.bounds.loc[[level], "by"].eq("diverged").any()]
    worse, said = [level for level in result.out if level not in lost], []
    if result.decided:
        said.append(
            f"{result.leader} is the best of {total} designs or worse than the best by {result.d:g} at most, with "
            f"{sure} confidence, after {result.runs_used} runs and {_looks(result)}."
        )
    else:
        kept = ", ".join(map(str, [result.leader, *result.undecided]))
        end = f"the last look, at {at} seeds," if at == result.most else f"the look at {at} seeds"
        said.append(
            f"Undecided after {end} and {result.runs_used} runs: the leader {result.leader} is among {kept}. It can "
            f"be worse than the best by {_regret(result)} at most, with {sure} confidence; d is {result.d:g}."
        )
    if worse:
        said.append(f"{len(worse)} {'is' if len(worse) == 1 else 'are'} not the best, with {sure} confidence.")
    if result.parked:
        said.append(
            f"{len(result.parked)} can be {better} than {result.leader} by {result.d:g} at most: "
            f"{', '.join(map(str, result.parked))}."
        )
    if lost:
        said.append(f"Out because a run diverged or failed: {', '.join(map(str, lost))}.")
    return said


def _regret(result: RaceResult) -> str:
    """By how much the leader can be worse than the best, with as many digits as tell it from d."""
    regret = float(result.looks["regret"].iloc[-1])
    return next(text for digits in range(3, 18) if float(text := f"{regret:.{digits}g}") > result.d)


def _looks(result: RaceResult) -> str:
    count = len(result.looks)
    return f"{count} {'look' if count == 1 else 'looks'}"
