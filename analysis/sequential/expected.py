"""Races simulated in worlds whose truth is known: how many runs they take, and how often they are wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.sequential.bounds import pooled_variance
from analysis.sequential.decisions import decide
from analysis.sequential.schedule import MOST


@dataclass(frozen=True)
class World:
    """True means of designs, larger is better, and the standard deviations of their scores.

    Parameters
    ----------
    means
        One for each design.
    residual_sd
        Of a run, beside what all designs of its seed share: one for all designs, or one for each.
    seed_sd
        Of what all designs of a seed share; no decision of a race depends on it.
    """

    means: tuple[float, ...]
    residual_sd: float | tuple[float, ...]
    seed_sd: float = 0.0

    def draw(self, rng: np.random.Generator, seeds: int = MOST) -> np.ndarray:
        """Scores of a study (seeds, designs)."""
        noise = rng.normal(size=(seeds, len(self.means))) * np.asarray(self.residual_sd)
        return np.asarray(self.means) + noise + self.seed_sd * rng.normal(size=(seeds, 1))


@dataclass(frozen=True)
class Expected:
    """What races in a world take and say.

    Parameters
    ----------
    runs
        Runs of each simulated race.
    decided
        Whether each was decided.
    lost_best
        Whether the best design (where several are best, the first) was put out.
    leader_wrong
        Whether the race was decided for a leader that is worse than the best by more than d.
    """

    runs: np.ndarray
    decided: np.ndarray
    lost_best: np.ndarray
    leader_wrong: np.ndarray

    @property
    def false(self) -> float:
        """The share of races with either error."""
        return float((self.lost_best | self.leader_wrong).mean())


def simulate(
    world: World, d: float, *, alpha: float = 0.05, most: int = MOST, races: int = 500, seed: int = 0
) -> Expected:
    """Race in a world again and again.

    Parameters
    ----------
    world
        The truth.
    d, alpha, most
        The rules, see `analysis.race`.
    races
        How many.
    seed
        Of the random numbers.
    """
    rng = np.random.default_rng(seed)
    return summary(world.means, (world.draw(rng, most) for _ in range(races)), d, alpha, most)


def summary(
    means: Sequence[float], studies: Iterator[np.ndarray], d: float, alpha: float = 0.05, most: int = MOST
) -> Expected:
    """Races over studies (seeds, designs) of designs with these true means."""
    truth, rows = np.asarray(means), []
    best = int(np.argmax(truth))
    for scores in studies:
        race = decide(scores, np.zeros(scores.shape, bool), d, alpha, most)
        decided = race.leader is not None and not race.undecided
        wrong = decided and bool(truth[race.leader] < truth[best] - d)
        rows.append((int(race.used.sum()), decided, best in race.exits, wrong))
    runs, decided_, lost, wrong_ = zip(*rows, strict=True)
    return Expected(np.array(runs), np.array(decided_), np.array(lost), np.array(wrong_))


def world_of(frame: pd.DataFrame, metric: str, design: str, block: str, maximize: bool) -> World:
    """The world that a pilot suggests: its means shrunk towards their mean, and its residual spread.

    The means of a pilot lie further apart than the true ones, as noise is added; they are shrunk by 1 - 1 / F
    (Robinson, Stat. Sci. 6 (1991) 15).

    Raises
    ------
    ValueError
        No two seeds are shared by two designs at least.
    """
    table = frame.pivot_table(index=block, columns=design, values=metric, aggfunc="mean").dropna(axis=1, how="all")
    whole = table.dropna()
    if len(whole) < 2 or whole.shape[1] < 2:
        raise ValueError("a pilot needs two seeds that two designs share.")
    scores = whole.to_numpy(float) * (1 if maximize else -1)
    n, designs = scores.shape
    variance, _ = pooled_variance(scores, np.full(designs, n))
    means = scores.mean(axis=0)
    signal = n * float(means.var(ddof=1))
    keep = max(0.0, 1 - variance / signal) if signal > 0 else 0.0
    shrunk = means.mean() + keep * (means - means.mean())
    return World(tuple(shrunk), float(np.sqrt(variance)), float(np.sqrt(max(scores.mean(axis=1).var(ddof=1), 0.0))))
