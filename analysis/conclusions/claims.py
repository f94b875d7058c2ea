"""What a conclusion claims, one by one, beside the text that says it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

import pandas as pd

NAN = float("nan")


@dataclass(frozen=True)
class Claim:
    """One claim of a conclusion.

    Parameters
    ----------
    kind
        matters, acts together, best set, best mean, confirmed mean, equivalent, trend, above floor.
    subject
        The factor, term or levels it is about.
    verdict
        yes, no or undecided: "no" only where a test supports it, "undecided" where the runs cannot tell.
    text
        The sentence.
    estimate, low, high, level
        The estimate and the confidence interval at this level, in the unit that `method` names.
    p
        The p value the verdict rests on, adjusted where several are claimed together.
    units
        On how many runs, or trainings, it rests.
    method
        How it was found: a heading of docs/explanation/statistics.md.
    levels
        The levels of a set.

    Examples
    --------
    >>> import analysis
    >>> said = analysis.conclude(analysis.load_paper_heatmap(), "clip_similarity")
    >>> all(isinstance(claim, analysis.Claim) for claim in said.claims)
    True
    """

    kind: str
    subject: str
    verdict: str
    text: str
    estimate: float = NAN
    low: float = NAN
    high: float = NAN
    level: float = NAN
    p: float = NAN
    units: int = 0
    method: str = ""
    levels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """Sentences of a conclusion with the claims they make."""

    sentences: list[str] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)


class Conclusion(str):
    """The text of a conclusion, which is a str, with its claims.

    >>> said = Conclusion("a matters.", [Claim("matters", "a", "yes", "a matters.", p=0.01)])
    >>> said.startswith("a"), said.claims[0].p
    (True, 0.01)
    """

    claims: tuple[Claim, ...]

    def __new__(cls, text: str, claims: Iterable[Claim] = ()) -> Conclusion:
        made = super().__new__(cls, text)
        made.claims = tuple(claims)
        return made

    @classmethod
    def of(cls, parts: Sequence[Part]) -> Conclusion:
        """The parts as one text."""
        text = " ".join(s for part in parts for s in part.sentences if s)
        return cls(text, [claim for part in parts for claim in part.claims])

    def table(self) -> pd.DataFrame:
        """One row a claim."""
        return pd.DataFrame([asdict(claim) for claim in self.claims])
