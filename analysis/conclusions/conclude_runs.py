"""The first paragraph of a report: what the study says, with numbers, and what it cannot say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.conclusions.best import best, leader
from analysis.conclusions.claims import Conclusion, Part
from analysis.conclusions.floor import anchors
from analysis.conclusions.joint import (
    aliased,
    claim_of,
    default_terms,
    designs,
    explained,
    factors_of,
    leaves_residual,
    mostly_repeated,
    own_factors,
)
from analysis.conclusions.positions import positions
from analysis.conclusions.trends import is_numeric, trend
from analysis.conclusions.words import DESIGN, f_words, figure, name_of, objection, omega_words, plural, start
from analysis.linear_model.blocks import block_of
from analysis.linear_model.design import parse_terms
from analysis.linear_model.units import UNIT, observations, strata_of, with_units
from analysis.planning.sample_size import detectable
from analysis.runs.load import factor_columns, metric_columns
from analysis.runs.names import inner, outer
from analysis.runs.roles import is_of_records
from analysis.variance.table import oneway
from analysis.variance.verdict import ALPHA, verdicts


def conclude(
    frame: pd.DataFrame,
    metric: str,
    factor: str | None = None,
    terms: Sequence[str] | None = None,
    within: float | None = None,
    fresh: pd.DataFrame | None = None,
    type: int = 2,
) -> Conclusion:
    """What the runs say about a metric, in a few plain sentences with numbers.

    Parameters
    ----------
    factor
        What is compared, if it is to be one factor.
    terms
        Those of a joint model, as in `anova`. Default: all factors that vary and do not only follow another one, and
        the pairs of them that replicates show to act together.
    within
        A margin in units of the metric: then it is said which levels are within it of the best.
    fresh
        Runs of the best levels on seeds that had no part in choosing them (`load_results(..., confirm=True)`). They are
        in no test; where the winner has some, its mean is said by them alone.
    type
        Of the sums of squares that the tests of a joint model rest on, 1, 2 or 3, as in `anova`.

    Returns
    -------
    Conclusion
        A str, with the claims one by one in `.claims` and as a frame in `.table()`. Each claim names its method, which
        docs/explanation/statistics.md describes with its measured error rate. Whether a factor matters is said by F and
        the tests beside it (`verdicts`); which level is best (Hsu) only of a factor that matters; what no test can tell
        is called undecided. The seed is a block where most runs have a shared one; rows of one training are one unit.
        Several tasks get a paragraph each.

    Raises
    ------
    ValueError
        Where the frame has no such metric.

    >>> import analysis
    >>> print(conclude(analysis.load_paper_heatmap(), "clip_similarity").split(". ")[0])
    There is one run for each of the 20 placements, so the placement itself cannot be tested
    """
    if metric not in frame:
        raise ValueError(f"The frame has no column {metric!r}; it has {', '.join(map(str, frame.columns))}.")
    if odd := {c: inner(str(c)) for c in frame.columns if inner(str(c)) != c}:
        terms = terms and [":".join(map(inner, term)) for term in parse_terms(terms, frame.columns)]
        plain = conclude(frame.rename(columns=odd), inner(metric), factor and inner(factor), terms, within, fresh, type)
        claims = [replace(c, subject=outer(c.subject), text=outer(c.text)) for c in plain.claims]
        return Conclusion(outer(plain), claims)
    by = ["task"] if is_of_records(frame) and "task" in frame and frame["task"].nunique() > 1 else []
    by = [c for c in by if c not in {factor, *factors_of(terms or [])}]
    if by:
        parts = [
            (name, conclude(part, metric, factor, terms, within, fresh, type))
            for name, part in frame.dropna(subset=[metric]).groupby(by, sort=True)
        ]
        text = "\n".join(f"{'/'.join(map(str, name))}: {said}" for name, said in parts)
        return Conclusion(text, [claim for _, said in parts for claim in said.claims])
    used = frame[np.isfinite(pd.to_numeric(frame[metric], errors="coerce"))]
    asked = terms is not None
    if terms is None and factor is None:
        terms = [name for name in own_factors(used) if name != metric]
    if (
        terms is not None
        and len(factors_of(terms)) > 1
        and (said := _together(used, metric, terms, asked, within, fresh, type))
    ):
        return Conclusion.of(said)
    factor = factor or _main_factor(used, metric)
    return _alone(used, metric, factor, within, fresh, type)


def _alone(
    used: pd.DataFrame, metric: str, factor: str | None, within: float | None, fresh: pd.DataFrame | None, type: int
) -> Conclusion:
    if factor is None:
        return Conclusion(f"No factor varies in these runs ({len(used)}), so there is nothing to compare.")
    used = used[used[factor].notna()] if factor in used else used
    if factor not in used or used[factor].nunique() < 2:
        return Conclusion(
            f"{start(name_of(factor))} has fewer than two levels in these runs, so there is nothing to compare."
        )
    if used[metric].nunique() == 1:
        return Conclusion(f"{metric} is the same in all {len(used)} runs, so there is nothing to explain.")
    used, units = with_units(used, [factor], [metric, *metric_columns(used)])
    blocking = block_of(used, factor)
    runs, block = blocking.frame, blocking.block
    row = verdicts(runs, metric, [factor], block).loc[factor]
    matters = bool(row["p_claim"] < ALPHA)
    parts = [_explained(runs, metric, factor, block, row)]
    if matters and is_numeric(runs, factor):
        parts.append(trend(runs, metric, factor, [factor], block))
    if matters:
        parts.append(best(runs, metric, factor, block, float(row["F"]), within, fresh))
    else:
        parts.append(leader(runs, metric, factor, block, fresh=fresh))
    if factor == "placement" and (matters or not row["F"] >= 0):
        parts.append(positions(runs, metric, block, type))
    parts.append(Part([_ignored(runs, factor)]))
    parts += [anchors(runs, metric, factor, block), Part([blocking.said, units])]
    return Conclusion.of(parts)


def _together(
    frame: pd.DataFrame,
    metric: str,
    terms: Sequence[str],
    asked: bool,
    within: float | None,
    fresh: pd.DataFrame | None = None,
    type: int = 2,
) -> list[Part] | None:
    """What several factors say together; None where they leave no residual to test them with."""
    names = factors_of(terms)
    used = frame.dropna(subset=names)
    used = used.assign(**{DESIGN: designs(used, names)})
    if len(used) < 2 or used[metric].nunique() < 2 or min(used[name].nunique() for name in names) < 2:
        return None
    if fresh is not None and set(names) <= set(fresh):
        fresh = fresh.assign(**{DESIGN: designs(fresh, names)})
    used, units = with_units(used, names, [metric, *metric_columns(used)])
    blocking = block_of(used, DESIGN)
    runs, block = blocking.frame, blocking.block
    if not leaves_residual(runs, metric, terms, block):
        return None
    terms = list(terms) if asked else default_terms(runs, metric, names, block)
    said = explained(runs, metric, terms, block, type)
    parts = [said, Part(aliased(runs, names))]
    found = [claim.subject for claim in said.claims if claim.verdict == "yes"]
    parts += [trend(runs, metric, t, terms, block) for t in found if is_numeric(runs, t)]
    strata = strata_of(runs, metric, terms, block)
    if len(strata) > 1 or strata[0].frame is not runs:
        # Designs that share trainings have no common error: the best level of each factor is told in its own stratum.
        single = [
            term for term in found if ":" not in term and not any(term in t.split(":") for t in found if ":" in t)
        ]
        for term in single:
            F = float(oneway(runs, metric, term, block=block)["F"].iloc[0])
            parts.append(best(runs, metric, term, block, F, within, among=len(single) > 1))
    elif mostly_repeated(runs, DESIGN):
        table = verdicts(runs, metric, [DESIGN], block).loc[DESIGN]
        if found and table["p_claim"] < ALPHA:
            parts.append(best(runs, metric, DESIGN, block, float(table["F"]), within, fresh))
        else:
            parts.append(leader(runs, metric, DESIGN, block, fresh=fresh))
    else:
        once = runs.groupby(DESIGN).size().max() == 1
        parts.append(
            leader(
                runs, metric, DESIGN, None if once else block, f"one run of {'each' if once else 'most'} does not say"
            )
        )
    parts += [anchors(runs, metric, DESIGN, block), Part([blocking.said, units])]
    return parts


def _main_factor(frame: pd.DataFrame, metric: str) -> str | None:
    if "placement" in frame and frame["placement"].nunique() > 1:
        return "placement"
    names = [c for c in factor_columns(frame) if c != metric]
    return str(oneway(frame, metric, names).index[0]) if names else None


def _ignored(frame: pd.DataFrame, factor: str) -> str:
    """Names the factors that vary beside the one compared and are not fixed by it."""
    others = [c for c in factor_columns(frame) if c not in (factor, "placement", UNIT, DESIGN)]
    others = [c for c in others if c not in observations(frame, [factor, *others])]
    others = [c for c in others if frame.groupby(factor)[c].nunique().max() > 1]
    if not others:
        return ""
    return f"Not adjusted for: {', '.join(others)} {'vary' if len(others) > 1 else 'varies'} as well."


def _explained(frame: pd.DataFrame, metric: str, factor: str, block: str | None, row: pd.Series) -> Part:
    name, levels, units = name_of(factor), frame[factor].nunique(), int(row["units"])
    if not row["F"] >= 0:
        if units == levels:
            return Part(
                [f"There is one run for each of the {levels} {plural(factor)}, so {name} itself cannot be tested."]
            )
        return Part([f"{start(name)} cannot be tested: {row['note'] or 'nothing is left to estimate the noise with.'}"])
    after = f", with {block} taken out as a block" if block else ""
    claim = claim_of(factor, row, metric)
    if row["p_claim"] < ALPHA:
        left = f"that the {block} leaves " if block else ""
        said = (
            f"{start(name)} matters for {metric} ({f_words(row)}{after}): it accounts for an estimated "
            f"{omega_words(row)} of the variance {left}in runs like these {units} (omega squared, 90 % interval)."
        )
        return Part([said], [claim])
    if row["p"] < ALPHA:
        said = f"Whether {name} matters for {metric} is undecided: {f_words(row)}{after}, but {objection(row, 1)}."
        return Part([said], [claim])
    limit = detectable(frame, metric, factor, block=block)
    said = (
        f"These {units} runs cannot tell whether {name} matters for {metric} ({f_words(row)}{after}): "
        f"a study of this size finds, four times out of five, only differences of about {figure(limit['range'], 2)} "
        f"between the extreme levels, and the level means lie within {figure(_spread(frame, metric, factor), 2)}."
    )
    return Part([said], [claim])


def _spread(frame: pd.DataFrame, metric: str, factor: str) -> float:
    return float(np.ptp(frame.groupby(factor)[metric].mean()))
