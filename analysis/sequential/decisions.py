"""What a race decides, from scores alone: who is out, who is parked, and which runs the next look needs.

Nothing is kept between calls. The looks are gone through again from the first, so a race that was interrupted decides
as one that was not.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from analysis.sequential.bounds import pair_bounds, pooled_variance
from analysis.sequential.schedule import level_of_a_look, looks_up_to


@dataclass(frozen=True)
class Exit:
    """How a design left the race: at which look, worse than which other design, and its bound against that one.

    by is None where the design diverged or failed: it has no score then.
    """

    seeds: int
    by: int | None
    bound: float


@dataclass(frozen=True)
class Look:
    """One look: the designs compared, the leader among them, and what was decided.

    Parameters
    ----------
    seeds
        The number of seeds of the designs compared.
    compared
        The designs with all these seeds.
    leader
        The one of them with the best mean.
    out
        Those that left at this look.
    parked
        All that cannot beat this leader by more than d, whenever they were parked.
    back
        Those that were parked before and can beat this leader by more than d.
    undecided
        The others, without the leader: they go on.
    sd, df, critical
        The pooled residual standard deviation and its degrees of freedom, and the critical value of the bounds.
    regret
        By how much the leader can at most be worse than the best.
    """

    seeds: int
    compared: tuple[int, ...]
    leader: int
    out: tuple[int, ...]
    parked: tuple[int, ...]
    back: tuple[int, ...]
    undecided: tuple[int, ...]
    sd: float
    df: int
    critical: float
    regret: float


@dataclass
class Decisions:
    """Where a race stands. Designs and seeds are numbered from 0.

    Parameters
    ----------
    bounds
        bounds[i, k]: by how much i can at most be better than k, the least over all looks (designs, designs).
    used
        How many seeds of each design have counted (designs,).
    exits
        How each design that is out left the race.
    looks
        The looks that were made.
    wanted
        (seed, design) of the runs that the next look still needs; empty once the race is over.
    """

    bounds: np.ndarray
    used: np.ndarray
    exits: dict[int, Exit] = field(default_factory=dict)
    looks: list[Look] = field(default_factory=list)
    wanted: list[tuple[int, int]] = field(default_factory=list)
    _racing: list[int] = field(default_factory=list)
    _parked: list[int] = field(default_factory=list)

    @property
    def leader(self) -> int | None:
        """The best mean at the last look; None before the first one, or where that design has diverged since."""
        last = self.looks[-1].leader if self.looks else None
        return None if last in self.exits else last

    @property
    def parked(self) -> list[int]:
        return list(self._parked)

    @property
    def undecided(self) -> list[int]:
        """Designs that are neither out nor parked, without the leader."""
        return [i for i in self._racing if i != self.leader]


def decide(scores: np.ndarray, lost: np.ndarray, d: float, alpha: float, most: int) -> Decisions:
    """Go through the looks of a race as far as its scores reach.

    Parameters
    ----------
    scores
        Larger is better (seeds, designs); NaN where there is none.
    lost
        True for runs that ended without a score, because they diverged or failed (seeds, designs).
    d
        The difference that matters, in the unit of the score.
    alpha
        The error rate of the whole race.
    most
        The last look, in seeds.

    Returns
    -------
    Decisions
        Scores that no look asked for play no part: those of a design after it is out, or while it is parked.

    References
    ----------
    Hsu, Multiple Comparisons (1996), chapter 4; Paulson, Ann. Math. Stat. 35 (1964) 174 (elimination at stages).
    """
    designs = scores.shape[1]
    race = Decisions(np.full((designs, designs), np.inf), np.zeros(designs, int), _racing=list(range(designs)))
    np.fill_diagonal(race.bounds, 0.0)
    for seeds in looks_up_to(most):
        _drop_lost(race, lost, seeds)
        if not race.undecided:
            return race
        race.wanted = _missing(race, scores, seeds)
        if race.wanted:
            return race
        _look(race, scores, seeds, d, alpha)
        if not race.undecided:
            return race
    return race


def _drop_lost(race: Decisions, lost: np.ndarray, seeds: int) -> None:
    """Put designs out that have a run without a score; where nothing else is racing, the parked ones are again."""
    while True:
        gone = [i for i in race._racing if lost[:seeds, i].any()]
        race.exits |= {i: Exit(seeds, None, float("nan")) for i in gone}
        race._racing = [i for i in race._racing if i not in gone]
        if race._racing or not race._parked:
            return
        race._racing, race._parked = race._parked, []


def _missing(race: Decisions, scores: np.ndarray, seeds: int) -> list[tuple[int, int]]:
    there = len(scores)
    return [(j, i) for j in range(seeds) for i in race._racing if j >= there or np.isnan(scores[j, i])]


def _look(race: Decisions, scores: np.ndarray, seeds: int, d: float, alpha: float) -> None:
    designs, here = scores.shape[1], np.array(race._racing)
    race.used[here] = seeds
    variance, df = pooled_variance(scores, race.used)
    critical = float("nan")
    if len(here) > 1:
        now, critical = pair_bounds(scores[:seeds, here], variance, df, designs, level_of_a_look(alpha))
        race.bounds[np.ix_(here, here)] = np.minimum(race.bounds[np.ix_(here, here)], now)
    leader = int(here[np.argmax(scores[:seeds, here].mean(axis=0))])
    out = [int(i) for i in here if race.bounds[i].min() < 0]
    for i in out:
        by = int(np.argmin(race.bounds[i]))
        race.exits[i] = Exit(seeds, by, float(race.bounds[i, by]))
    left = sorted({*race._racing, *race._parked} - set(out))
    parked = [i for i in left if i != leader and race.bounds[i, leader] <= d]
    racing = [i for i in left if i not in parked]
    back = [i for i in race._parked if i in racing]
    regret = float(race.bounds[left, leader].max())
    race._racing, race._parked = racing, parked
    race.looks.append(
        Look(seeds, tuple(map(int, here)), leader, tuple(out), tuple(parked), tuple(back),
             tuple(i for i in racing if i != leader), float(np.sqrt(variance)), df, critical, regret)
    )  # fmt: skip
