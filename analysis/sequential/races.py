"""Races over a frame of scores, or run by run: who is the best, with as few runs as its error rate allows."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.runs.load import higher_is_better
from analysis.runs.statuses import FINISHED, has_status
from analysis.sequential.decisions import decide
from analysis.sequential.result import RaceResult, named_result
from analysis.sequential.schedule import MOST, looks_up_to

ENDED_WITHOUT = ("diverged", "failed")


def race(
    frame: pd.DataFrame,
    metric: str,
    d: float,
    design: str = "placement",
    block: str = "seed",
    *,
    alpha: float = 0.05,
    most: int = MOST,
    maximize: bool | None = None,
) -> RaceResult:
    """Which level is the best within d, judged at fixed looks by the scores that are there.

    Looks are at 2, 3, 4, 6, 8, 12, 16, 24, 32 and 48 seeds, each at level alpha / 10. At a look a level is out if it is
    worse than some other, and parked if it cannot beat the leader by more than d; the others go on. Two promises hold
    with probability 1 - alpha, wherever the race stops: the best level is never out, and the leader of a decided race
    is worse than the best by d at most.

    Parameters
    ----------
    frame
        One row for each level and seed, in the order in which they were run: seeds count in the order of their first
        appearance. A row without a finite score, or with status diverged or failed, puts its level out.
    metric
        The column of the score.
    d
        The difference that matters, in the unit of the score; above 0.
    design, block
        The columns of the levels and of the seeds.
    alpha
        The error rate of both promises together.
    most
        The last look, in seeds.
    maximize
        Whether larger scores are better; default: by the metric's name.

    Returns
    -------
    RaceResult
        leader, out, parked, undecided, looks, bounds, runs_used. Scores of a level after it is out, or while it is
        parked, are not used. A look is made only where all levels that are still in the race have its seeds.

    Raises
    ------
    ValueError
        A column is missing, there are fewer than two levels, a level has two scores of one seed, or a rule is invalid.

    References
    ----------
    Hsu, Multiple Comparisons (1996), chapter 4; Paulson, Ann. Math. Stat. 35 (1964) 174; Edwards, J. Stat. Plan.
    Inference 15 (1987) 321; Liu, Sequential Analysis 14 (1995) 119.

    >>> scores = {"a": [0.9, 0.8, 0.9], "b": [0.1, 0.2, 0.1], "c": [0.2, 0.1, 0.2]}
    >>> rows = [(level, seed, score[seed]) for seed in range(3) for level, score in scores.items()]
    >>> r = race(pd.DataFrame(rows, columns=["placement", "seed", "clip_i"]), "clip_i", d=0.05)
    >>> r.leader, r.out, r.decided, r.runs_used
    ('a', ['b', 'c'], True, 9)
    """
    if missing := [name for name in (metric, design, block) if name not in frame]:
        raise ValueError(
            f"the frame has no column {missing[0]!r}; it has {', '.join(map(str, frame.columns))}. Name the columns of "
            "the levels and seeds with design= and block=."
        )
    known = frame[frame[design].notna() & frame[block].notna()]
    if known.duplicated([design, block]).any():
        twice = known[known.duplicated([design, block])].iloc[0]
        raise ValueError(
            f"{twice[design]} has two rows of {block} {twice[block]}; a race takes one score for each level and "
            f"{block}, so average images of one run first, and race one task at a time."
        )
    upward = higher_is_better(metric) if maximize is None else maximize
    held = Race(
        known[design].unique().tolist(),
        d,
        alpha=alpha,
        most=most,
        maximize=upward,
        seeds=known[block].unique().tolist(),
    )
    status = known["status"] if has_status(known) else pd.Series(FINISHED, index=known.index)
    value = pd.to_numeric(known[metric], errors="coerce")
    for level, seed, score, end in zip(known[design], known[block], value, status, strict=True):
        if end == FINISHED or end in ENDED_WITHOUT:
            held.tell({(level, seed): float(score) if end == FINISHED else math.nan})
    notes = [f"{len(frame) - len(known)} rows without {design} or {block} are left out."] * (len(known) < len(frame))
    result = held.result(notes)
    if result.looks.empty and (known[block].value_counts() == known[design].nunique()).sum() > 1:
        first = " and ".join(map(str, known[block].unique()[:2]))
        notes.append(
            f"No look could be made: the first two of {block}, {first}, lack some of the levels. They count in the "
            f'order of their first rows, so give these in the order of the runs: frame.sort_values("{block}").'
        )
        result = held.result(notes)
    return result


class Race:
    """A race that says which runs it needs next.

    Parameters
    ----------
    designs : iterable
        The levels to compare; at least two.
    d : float
        The difference that matters, in the unit of the score; above 0.
    alpha : float
        The error rate of the promises, see `race`.
    most : int
        The last look, in seeds.
    maximize : bool
        Whether larger scores are better.
    seeds : sequence, optional
        The seeds in the order in which they are used; 0, 1, 2, ... by default.

    Raises
    ------
    ValueError
        There are fewer than two designs, or a rule is invalid.

    >>> quality = {"a": 0.8, "b": 0.3, "c": 0.2}
    >>> def score(design, seed):
    ...     return quality[design] + 0.01 * (seed % 2) * (design == "b")
    >>> held = Race(quality, d=0.05)
    >>> while runs := held.ask():
    ...     held.tell({run: score(*run) for run in runs})
    >>> held.result().leader
    'a'
    """

    def __init__(
        self,
        designs: Iterable[Hashable],
        d: float,
        *,
        alpha: float = 0.05,
        most: int = MOST,
        maximize: bool = True,
        seeds: Sequence[Hashable] | None = None,
    ) -> None:
        self.designs = list(dict.fromkeys(designs))
        self.seeds: list[Hashable] = list(dict.fromkeys(range(MOST) if seeds is None else seeds))
        if len(self.designs) < 2:
            raise ValueError(f"a race needs two designs at least, not {len(self.designs)}.")
        if not (isinstance(d, int | float) and 0 < d < math.inf):
            raise ValueError(f"d must be a difference of scores above 0, not {d!r}.")
        if not 0 < alpha < 0.5:
            raise ValueError(f"alpha must be a number between 0 and 0.5, not {alpha!r}.")
        looks_up_to(most)
        self._rules: dict[str, Any] = {"d": float(d), "alpha": alpha, "most": most, "higher_is_better": maximize}
        self._row = {seed: j for j, seed in enumerate(self.seeds)}
        self._column = {level: i for i, level in enumerate(self.designs)}
        self._scores = np.full((len(self.seeds), len(self.designs)), np.nan)
        self._lost = np.zeros(self._scores.shape, bool)

    def ask(self) -> list[tuple[Any, Any]]:
        """(design, seed) of the runs that the next look needs, seed by seed; empty once the race is over."""
        return self.result().wanted

    def tell(self, scores: Mapping[tuple[Any, Any], float | None]) -> None:
        """Add scores by (design, seed); None or what is not finite says that the run diverged or failed.

        Raises
        ------
        ValueError
            A design or seed is not of this race.
        """
        for (level, seed), score in scores.items():
            if level not in self._column or seed not in self._row:
                raise ValueError(f"{level!r} with seed {seed!r} is no run of this race.")
            j, i = self._row[seed], self._column[level]
            self._lost[j, i] = score is None or not math.isfinite(score)
            self._scores[j, i] = math.nan if score is None or self._lost[j, i] else score

    def result(self, notes: Sequence[str] = ()) -> RaceResult:
        """Where the race stands, by the scores told so far."""
        sign = 1.0 if self._rules["higher_is_better"] else -1.0
        found = decide(sign * self._scores, self._lost, self._rules["d"], self._rules["alpha"], self._rules["most"])
        return named_result(found, self.designs, self.seeds, self._scores, self._rules, notes)
