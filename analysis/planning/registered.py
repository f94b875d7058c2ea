"""The question a study is to answer, in `.registered.json` beside its runs, written before they start."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from sdpet.files.atomic import write_atomic

FILE = ".registered.json"


@dataclass(frozen=True)
class Question:
    """What is to be decided, and how.

    Parameters
    ----------
    score
        The score that decides.
    maximize
        Whether larger values of it are better.
    factors
        The factors that the study varies, without the seed.
    model
        Terms of the model, such as "placement + activation*scale"; empty: the main effects.
    alpha
        The error rate of the decision, over all looks together.
    looks
        How often the results will be looked at, the last time included.
    """

    score: str
    maximize: bool
    factors: tuple[str, ...]
    model: str = ""
    alpha: float = 0.05
    looks: int = 1


@dataclass(frozen=True)
class Registration:
    """question, and when it was stored.

    Parameters
    ----------
    question
        What was registered.
    at
        Seconds since the epoch.
    runs
        Run ids of the plan at that time.
    ended
        How many runs of the study had ended by then; 0 where the question came first.
    digest
        SHA-256 of all the above, in hexadecimal digits, to be published elsewhere.
    """

    question: Question
    at: float
    runs: frozenset[str]
    ended: int
    digest: str

    @property
    def in_time(self) -> bool:
        return self.ended == 0


def register(folder: Path, question: Question, runs: Iterable[str], ended: int) -> Registration:
    """Store the question in the study's folder; one that is there already and is the same stays as it is.

    Raises
    ------
    ValueError
        Where another question is registered, or the file is damaged: a question is never replaced.
    """
    if (folder / FILE).exists():
        there = read_registration(folder)
        if there is None:
            raise ValueError(f"{folder / FILE} is damaged; mend it, or give the study another name (study=NAME).")
        if there.question != question:
            differ = [k for k, v in asdict(question).items() if v != asdict(there.question)[k]]
            raise ValueError(
                f"{folder} has a registered question with another {', '.join(differ)}; leave --register out, ask the "
                "same question, or give the study another name (study=NAME)."
            )
        return there
    content = {"question": asdict(question), "at": time.time(), "runs": sorted(runs), "ended": ended}
    content["digest"] = _digest(content)
    write_atomic(folder / FILE, lambda file: file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8"))
    there = read_registration(folder)
    assert there is not None
    return there


def read_registration(folder: Path) -> Registration | None:
    """None where nothing is registered, or the file is damaged or was changed."""
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        digest = content.pop("digest")
        if digest != _digest(content):
            return None
        asked = content["question"]
        question = Question(**{**asked, "factors": tuple(asked["factors"])})
        return Registration(question, float(content["at"]), frozenset(content["runs"]), int(content["ended"]), digest)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _digest(content: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
