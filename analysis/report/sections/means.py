"""The sentences that open the page, and one mean a design for everything that shows it."""

from __future__ import annotations

import math
import re

import pandas as pd

from analysis.conclusions.claims import Conclusion
from analysis.conclusions.joint import mostly_repeated
from analysis.report.study import Study
from analysis.report.words import METRICS, digits_for, number, readable
from analysis.variance.verdict import ALPHA


def concluded(study: Study, type: int = 2) -> Conclusion:
    """What is best and what matters, with numbers; or plainly that nothing can be said."""
    label = study.words.label
    if len(study.done) == 0:
        return Conclusion(f"Nothing can be said: none of the {len(study.runs)} runs has the score {label}.")
    if len(study.done) == 1:
        score = number(float(study.done[study.metric].iloc[0]))
        floor, ceiling = study.mean_anchor("floor"), study.mean_anchor("ceiling")
        between = ""
        if floor == floor and ceiling == ceiling:
            between = f", between a floor of {number(floor)} and a ceiling of {number(ceiling)}"
        design = study.label(study.done[study.design].iloc[0]) if study.design in study.done else ""
        return Conclusion(
            f"Nothing can be said about factors from one run: {design or 'the run'} reached {label} {score}{between}. "
            "Which factor matters takes runs that differ in it, and several seeds to know how sure that is."
        )
    from analysis import conclude

    parts = ("din", "dout") if "placement" in study.factors else ()
    names = [factor for factor in study.factors if factor not in parts]
    one = names[0] if len(names) == 1 and not study.model else None
    return conclude(
        study.done, study.metric, one, None if one else study.model_terms or None, study.within, study.fresh, type
    )


def conclusion(study: Study, said: str) -> list[str]:
    """The text of a conclusion with the words of the page: first what matters and what is best, then the rest."""
    label = study.words.label
    if study.metric not in METRICS:  # readable() knows the others
        said = re.sub(rf"\b{re.escape(study.metric)}\b", label, said)
    said = " ".join(filter(None, [said, study.aside]))
    sentences = re.split(r"(?<=\.)\s+(?=[A-Z])", readable(said))
    # The first two say what matters and what is best; the rest is set smaller.
    return [" ".join(part) for part in (sentences[:2], sentences[2:]) if part]


def design_means(study: Study) -> pd.DataFrame:
    """Designs from best to worst: columns design, mean, low, high, n, among_best (True where nothing is known).

    attrs: notes; tested, whether a test says that designs differ, so that among_best is its set of the best.
    """
    from analysis import marginal_means

    done, metric = study.done, study.metric
    if len(done) == 0 or study.design not in done:
        return pd.DataFrame(columns=["design", "mean", "low", "high", "n", "among_best"])
    names = done[study.design].unique()
    if len(names) == 1:
        row = {"design": names[0], "mean": done[metric].mean(), "low": math.nan, "high": math.nan, "n": len(done)}
        return pd.DataFrame([row]).assign(among_best=True)
    # A design of shared trainings has one row a training, so its rows are independent, if not those of other designs.
    units = not study.shares_trainings
    frame = marginal_means(done, metric, study.design, block=study.block, units=units).reset_index(names="design")
    if not frame["estimable"].all():  # one run a design, each on one seed
        frame = marginal_means(done, metric, study.design, units=units).reset_index(names="design")
    notes = list(frame.attrs.get("notes", []))
    best, more = _set_of_best(study) if units and mostly_repeated(done, study.design) else (None, [])
    frame["among_best"] = True if best is None else frame["design"].map(best).fillna(False).astype(bool)
    frame = frame.sort_values("mean", ascending=not study.higher_is_better, kind="stable").reset_index(drop=True)
    frame.attrs = {"notes": notes + [n for n in more if n not in notes], "tested": best is not None}
    return frame


def _set_of_best(study: Study) -> tuple[pd.Series | None, list[str]]:
    """Whether each design is in the set that holds the best; None where no test says that designs differ."""
    from analysis import best_set, verdicts

    try:
        if not verdicts(study.done, study.metric, [study.design], study.block)["p_claim"].iloc[0] < ALPHA:
            return None, []
        best = best_set(
            study.done, study.metric, study.design, study.higher_is_better, block=study.block, variances="moderated"
        )
    except ValueError as error:
        return None, [str(error)]
    return (best["in_set"], best.attrs["notes"]) if best["p"].notna().any() else (None, best.attrs["notes"])


def placement_means(study: Study, means: pd.DataFrame) -> pd.Series:
    """Mean score by placement: that of the ranking where designs are placements, else the mean over all forms."""
    plain = study.done.groupby("placement")[study.metric].mean()
    of_design = means.set_index("design")["mean"]
    return of_design[plain.index] if set(plain.index) <= set(of_design.index) else plain


def score_digits(study: Study) -> int:
    """Decimals for scores of this study."""
    return digits_for(study.done[study.metric]) if len(study.done) else 3
