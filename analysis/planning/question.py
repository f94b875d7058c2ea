"""The question of a study before it runs, as `--register` stores it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analysis.linear_model.design import parse_terms
from analysis.planning.registered import Question
from analysis.runs.direction import higher_is_better

_FIRST = {"dreambooth": "clip_i"}  # the score a report takes where none is named


def question(
    rows: Sequence[Mapping[str, Any]],
    factors: Sequence[str],
    score: str | None,
    maximize: bool | None,
    model: str | None,
    alpha: float,
    looks: int,
) -> Question:
    """What these runs are to decide; what is not given is what a report would take.

    Parameters
    ----------
    rows
        The factors of each run, with its task.
    factors
        Those that vary.
    score, maximize, model, alpha, looks
        See `Question`; None: the task's first score, the direction by its name, the main effects.

    Raises
    ------
    ValueError
        Where nothing varies, the score cannot be guessed, or the model names what does not vary.
    """
    varying = tuple(name for name in factors if name not in ("seed", "task"))
    if not varying:
        raise ValueError("nothing varies in this sweep but the seed, so there is no question to register.")
    tasks = {str(row.get("task")) for row in rows}
    if score is None:
        firsts = {_FIRST.get(task) for task in tasks}
        if len(firsts) > 1 or None in firsts:
            raise ValueError(
                f"the runs of {', '.join(sorted(tasks))} have several scores; hydra.sweeper.metric names one."
            )
        score = str(firsts.pop())
    terms = [":".join(term) for term in parse_terms(model)] if model else []
    if unknown := sorted({name for term in terms for name in term.split(":")} - set(factors)):
        raise ValueError(
            f"hydra.sweeper.effects names {', '.join(unknown)}, which this sweep does not vary; "
            f"it varies {', '.join(factors)}."
        )
    upward = higher_is_better(score) if maximize is None else maximize
    return Question(score, upward, varying, " + ".join(t for t in terms if t != "seed"), alpha, looks)
