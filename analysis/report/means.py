"""The sentences that open the page, and one mean a design for everything that shows it."""

from __future__ import annotations

import math
import re

import pandas as pd

from analysis.report.study import Study
from analysis.report.words import METRICS, digits_for, number, readable


def conclusion(study: Study) -> list[str]:
    """What is best and what matters, with numbers; or plainly that nothing can be said."""
    label = study.words.label
    if len(study.done) == 0:
        return [f"Nothing can be said: none of the {len(study.runs)} runs has a {label} score."]
    if len(study.done) == 1:
        score = number(float(study.done[study.metric].iloc[0]))
        floor, ceiling = study.mean_anchor("floor"), study.mean_anchor("ceiling")
        between = ""
        if floor == floor and ceiling == ceiling:
            between = f", between a floor of {number(floor)} and a ceiling of {number(ceiling)}"
        design = study.label(study.done[study.design].iloc[0]) if study.design in study.done else ""
        design = design or "the run"
        return [
            f"Nothing can be said about factors from one run: {design} reached {label} {score}{between}.",
            "Which factor matters takes runs that differ in it, and several seeds to know how sure that is.",
        ]
    from analysis import conclude

    parts = ("din", "dout") if "placement" in study.factors else ()
    terms = study.model or [factor for factor in study.factors if factor not in parts]
    said = conclude(study.done, study.metric, terms[0] if len(terms) == 1 else None, terms or None)
    if study.metric not in METRICS:  # readable() knows the others
        said = re.sub(rf"\b{re.escape(study.metric)}\b", label, said)
    sentences = re.split(r"(?<=\.)\s+(?=[A-Z])", readable(said))
    # The first two say what matters and what is best; the rest is set smaller.
    return [" ".join(part) for part in (sentences[:2], sentences[2:]) if part]


def design_means(study: Study) -> pd.DataFrame:
    """Designs from best to worst: columns design, mean, low, high, n, among_best (True where nothing is known)."""
    from analysis import best_set, marginal_means

    done, metric = study.done, study.metric
    if len(done) == 0 or study.design not in done:
        return pd.DataFrame(columns=["design", "mean", "low", "high", "n", "among_best"])
    names = done[study.design].unique()
    if len(names) == 1:
        row = {"design": names[0], "mean": done[metric].mean(), "low": math.nan, "high": math.nan, "n": len(done)}
        return pd.DataFrame([row]).assign(among_best=True)
    frame = marginal_means(done, metric, study.design, block=study.block).reset_index(names="design")
    frame["among_best"], notes = True, list(frame.attrs.get("notes", []))
    if len(done) > len(names):
        try:
            best = best_set(done, metric, study.design, study.higher_is_better, block=study.block)
            notes += [note for note in best.attrs["notes"] if note not in notes]
            frame["among_best"] = frame["design"].map(best["in_set"]).fillna(False).astype(bool)
        except ValueError as error:
            notes.append(str(error))
    frame = frame.sort_values("mean", ascending=not study.higher_is_better, kind="stable").reset_index(drop=True)
    frame.attrs["notes"] = notes
    return frame


def placement_means(study: Study, means: pd.DataFrame) -> pd.Series:
    """Mean score by placement: that of the ranking where designs are placements, else the mean over all forms."""
    plain = study.done.groupby("placement")[study.metric].mean()
    of_design = means.set_index("design")["mean"]
    return of_design[plain.index] if set(plain.index) <= set(of_design.index) else plain


def score_digits(study: Study) -> int:
    """Decimals for scores of this study."""
    return digits_for(study.done[study.metric]) if len(study.done) else 3
