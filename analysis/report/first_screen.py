"""What the page opens with: one sentence, and three facts as figures that one can read from afar."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from analysis.conclusions.claims import Claim, Conclusion
from analysis.conclusions.floor import own_floors, shares_of_way
from analysis.conclusions.words import name_of
from analysis.report.study import Study
from analysis.report.words import listing, number, placement_words, readable

NAMED = 3  # designs that a fact names
LEAST, MOST = 24, 90  # characters of a headline: beyond the second, what follows a colon after the first is left out
_BRACKETS = re.compile(r"\s*(\([^()]*(\([^()]*\)[^()]*)*\)|\[[^\[\]]*\])")


@dataclass(frozen=True)
class Fact:
    """A figure with its unit, what it is of, and in smaller print how sure it is.

    marks: places from 0 to 1 on a line below it, as designs between floor and ceiling; the first is the best.
    """

    value: str
    unit: str
    of: str
    more: str = ""
    marks: tuple[float, ...] = field(default_factory=tuple)


_QUESTIONS = ("where", "when", "how", "what", "which", "who", "why")


def headline(study: Study, claimed: Conclusion, means: pd.DataFrame) -> str:
    """One sentence without numbers of tests: what matters, and among how many designs the best is.

    It says no more than the claims do: what no test tells is called open. Where there are no claims that fit, it is the
    first sentence of the conclusion without what stands in brackets.
    """
    tested = _primary(study, claimed)
    if not tested or study.raced is not None:
        first = re.split(r"(?<=\.)\s+(?=[A-Z\d])", str(claimed), maxsplit=1)[0]
        said = _plain(first, study)
        head, colon, _ = said.partition(": ")
        return _under_way(study) + (f"{head}." if colon and len(head) > LEAST and len(said) > MOST else said)
    found = [_factor(c.subject) for c in tested if c.verdict == "yes"]
    open_ = [_factor(c.subject) for c in tested if c.verdict != "yes"]
    label = study.words.label
    if found:
        said = f"{listing(found)} {'matters' if len(found) == 1 else 'matter'} for {label}"
        pairs = [c for c in claimed.claims if c.kind == "acts together" and c.verdict == "yes"]
        if pairs:
            said += f", and {listing(_factor(part) for part in pairs[0].subject.split(':'))} act together"
    else:
        said = f"Whether {listing(open_, 'or')} {'matters' if len(open_) == 1 else 'matter'} for {label} is open"
    return _under_way(study) + said[0].upper() + said[1:] + _best_words(study, claimed, means) + "."


def _primary(study: Study, claimed: Conclusion) -> list[Claim]:
    """The claims on what was varied: those of the joint model, or the one on the factor that levels are compared of."""
    tested = [claim for claim in claimed.claims if claim.kind == "matters"]
    parts = ("din", "dout") if "placement" in study.factors else ()
    one = len([f for f in study.factors if f not in parts]) == 1 and not study.model
    return tested[:1] if one else tested


def _best_words(study: Study, claimed: Conclusion, means: pd.DataFrame) -> str:
    claim = next((c for c in claimed.claims if c.kind == "best set"), None)
    if claim is None:
        return ""
    total, what = _of(study, claim, means)
    k = int(claim.estimate)
    if k >= total:
        return f"; none of the {total} {what} can be excluded as the best"
    if k == 1:
        return f"; the best of the {total} {what} is {study.label(claim.levels[0])}"
    return f"; the best of the {total} {what} is among {k}"


def _of(study: Study, claim: Claim, means: pd.DataFrame) -> tuple[int, str]:
    """How many levels a set of the best is taken from, and what they are called."""
    if claim.subject in study.done and claim.subject != study.design:
        return int(study.done[claim.subject].dropna().nunique()), f"levels of {claim.subject}"
    beside = len(study.references)
    return len(means) - beside, "placements" if study.design == "placement" else "designs"


def facts(study: Study, claimed: Conclusion, means: pd.DataFrame, digits: int) -> list[Fact]:
    """The effect with its interval, the set of the best, and how far from the floor to the ceiling; what is known."""
    if study.raced is not None:
        return _of_race(study, claimed, digits)
    found = [_effect(study, claimed), _set(study, claimed, means), _reach(study, claimed, means, digits)]
    return [fact for fact in found if fact is not None]


def _of_race(study: Study, claimed: Conclusion, digits: int) -> list[Fact]:
    """Of a race: how far the leader may be behind, which designs are not out, and the leader's mean on fresh seeds.

    Means on the seeds that all designs have are no such facts: designs left the race by what they show.
    """
    found, label = [], study.words.label
    claim = next((c for c in claimed.claims if c.kind == "best within d"), None)
    if claim is not None and math.isfinite(claim.estimate):
        of = f"{label} that {study.label(claim.subject)} is behind the best at most"
        sure = f"with {claim.level:.0%} confidence, wherever the race stops; n = {claim.units} runs"
        found.append(Fact(number(claim.estimate, digits), "", of, sure))
    if claim is not None and study.raced is not None:
        total, names = len(study.raced.result.bounds), [study.label(level) for level in claim.levels]
        some = "; ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
        found.append(
            Fact(
                f"{len(names)}",
                f"of {total}",
                f"designs are not out; with {claim.level:.0%} confidence the best is one of them",
                some,
            )
        )
    again = next((c for c in claimed.claims if c.kind == "confirmed mean"), None)
    if again is not None:
        of = f"{label} of {study.label(again.subject)} on fresh seeds"
        ends = f"{number(again.low, digits)} to {number(again.high, digits)}"
        found.append(Fact(number(again.estimate, digits), "", of, f"95% interval {ends}, n = {again.units}"))
    return found


def _effect(study: Study, claimed: Conclusion) -> Fact | None:
    """The largest share among the factors that matter; where none is found to, the largest one, called so."""
    known = [c for c in _primary(study, claimed) if math.isfinite(c.estimate)]
    known = [c for c in known if c.verdict == "yes"] or known
    if not known:
        return None
    claim = max(known, key=lambda c: c.estimate)
    of = f"of the variance in {study.words.label} goes with {_factor(claim.subject)}"
    sure = f"{100 * max(claim.low, 0):.0f} to {100 * claim.high:.0f}%, 90% interval of omega squared, n = {claim.units}"
    if claim.verdict != "yes":
        sure += "; not shown to matter"
    return Fact(f"{100 * max(claim.estimate, 0):.0f}", "%", of, sure if math.isfinite(claim.low) else "")


def _set(study: Study, claimed: Conclusion, means: pd.DataFrame) -> Fact | None:
    if len(means) < 2:
        return None
    claim = next((c for c in claimed.claims if c.kind == "best set"), None)
    what = "placements" if study.design == "placement" else "designs"
    if claim is None:
        why = "no test tells them apart" if (means["n"] > 1).any() else "there is one run of each"
        return Fact(
            f"{len(means)}", f"of {len(means)}", f"{what} may be the best", f"{why}, so their order may be chance"
        )
    total, what = _of(study, claim, means)
    names = [study.label(level) for level in claim.levels]
    comma = "; " if any(", " in name for name in names) else ", "  # names of several factors have commas inside
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    some = comma.join(names[:NAMED]) + more if more or comma == "; " else listing(names)
    return Fact(f"{int(claim.estimate)}", f"of {total}", f"{what} may be the best, with 95% confidence", some)


def _reach(study: Study, claimed: Conclusion, means: pd.DataFrame, digits: int) -> Fact | None:
    """How far the best went from floor to ceiling, else what was gained over the floor, else worst to best."""
    label, floor, ceiling = study.words.label, study.mean_anchor("floor"), study.mean_anchor("ceiling")
    if not len(means):
        return None
    shares = shares_of_way(study.done, study.metric, study.design, study.block)
    best = means["design"].iloc[0]
    mean, name = float(means["mean"].iloc[0]), study.label(best)
    picked = _picked(claimed, mean, digits) if len(means) > 1 else ""
    if len(shares):
        own = own_floors(study.done, study.metric, study.design, study.block)
        best = shares.idxmax() if own else best
        way = "its own floor to its own ceiling" if own else \
            f"the floor ({number(floor, digits)}, untuned) to the ceiling ({number(ceiling, digits)})"  # fmt: skip
        of = f"of the way from {way}: {study.label(best)}"
        order = [best, *(d for d in shares.index if d != best)]
        marks = tuple(min(max(float(shares[d]), 0.0), 1.0) for d in order)
        return Fact(f"{100 * shares[best]:.0f}", "%", of, picked, marks)
    if floor == floor:
        gain = mean - floor
        sign = "+" if gain >= 0 else ""
        of = f"{label} of {name} over the floor ({number(floor, digits)}, untuned)"
        return Fact(f"{sign}{number(gain, digits)}", "", of, picked)
    if len(means) < 2:
        return Fact(number(mean, digits), "", f"{label} of {name}")
    worst = float(means["mean"].iloc[-1])
    of = f"{label}, from the worst to the best of {len(means)} designs"
    return Fact(number(worst, digits), f"to {number(mean, digits)}", of, picked)


def _picked(claimed: Sequence[str] | Conclusion, mean: float, digits: int) -> str:
    """What the mean of the winner is worth: the first mean is too high, as it was picked for being first."""
    claims = claimed.claims if isinstance(claimed, Conclusion) else ()
    again = next((c for c in claims if c.kind == "confirmed mean"), None)
    if again is not None:
        return f"mean {number(again.estimate, digits)} on fresh seeds"
    shrunk = next((c for c in claims if c.kind == "best mean"), None)
    if shrunk is None:
        return f"mean {number(mean, digits)}, picked as the best, so too high on average"
    return f"mean {number(mean, digits)}; as it was picked for that, expect {number(shrunk.estimate, digits)}"


def _factor(subject: str) -> str:
    """A factor in a sentence for people, without its column's name; in quotes where it reads as another word."""
    name = _BRACKETS.sub("", name_of(subject))
    return f'"{name}"' if name in _QUESTIONS else name


def _plain(sentence: str, study: Study) -> str:
    text = _BRACKETS.sub("", re.sub(rf"\b{re.escape(study.metric)}\b", study.words.label, sentence))
    return readable(re.sub(r"\b\w+-\w+\b", lambda found: placement_words(found[0]), text))


def _under_way(study: Study) -> str:
    """A study whose planned runs have not all ended has no last word yet."""
    return "So far: " if any(" is under way: " in note for note in study.notes) else ""
