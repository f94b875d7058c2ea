"""Units: what was trained once. Rows that share a training, or are images of one run, are one unit of what it decides.

A factor that is the same in all rows of every unit is tested between units, each of which counts once; a factor that
varies inside units (the guidance of a run's samples, say) is tested within them. This is a split plot.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.linear_model.design import build, parse_terms
from analysis.linear_model.solve import Coefficients, Reduced

TRAINED_IN = "trained_in"  # of a record: the run whose training this run shares
UNIT = "(unit)"  # the column of units in the frames made here
# Columns that name a unit, where they do: a column "run" that counts 0, 1, 2 in every cell names replicates instead.
_NAMES = ("run_id", "run", "unit", "unit_id", "training")
# Columns that tell apart what one run gave: its images, prompts or points of its curve.
_OBSERVATIONS = frozenset("image images img prompt sample step epoch iteration file filename noise_seed".split())
# These words name settings as well, so they count only with a number or an id in the name, or with many values.
_THINGS = (
    frozenset(
        """caption example question item document doc sentence utterance clip frame photo picture video query instance
    observation patch text word patient participant volume scan slice problem
    puzzle scene molecule protein speaker episode""".split()
    )
    | _OBSERVATIONS
)
_NUMBERED = frozenset("id idx index no nr num number name path file".split())
_NUMBERS = ("run", "rep", "replicate", "repetition", "repeat", "trial", "fold", "cv_fold")  # of the runs of a design
_MOST_LEVELS = 20  # of a setting; a column that has more and is no factor may count what each run gave
_MANY = 6  # values from which a caption or a question is taken to tell rows apart


def tells_rows_apart(name: str, levels: int) -> bool:
    """Whether a column, by its name and its number of values, only tells apart what one run gave.

    >>> tells_rows_apart("img_idx", 40), tells_rows_apart("caption", 30), tells_rows_apart("image_size", 3)
    (True, True, False)
    """
    words = re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower().replace("-", "_").replace(" ", "_").replace(".", "_")
    head, _, last = words.rpartition("_")
    if words in _OBSERVATIONS or (head in _THINGS | {"noise", "eval"} and last in _NUMBERED):
        return True
    return words.rstrip("s") in _THINGS and levels >= _MANY


@dataclass(frozen=True)
class Stratum:
    """The part of a study in which some of its terms are tested.

    frame: one row a unit (between) or the rows as they are, with the column UNIT (within). units: how many.
    """

    frame: pd.DataFrame
    terms: list[str]
    block: str | None
    units: int
    within: bool


def unit_ids(frame: pd.DataFrame, factors: Sequence[str]) -> pd.Series | None:
    """The unit of each row by the columns that name one; None where every row is a unit of its own.

    Parameters
    ----------
    frame
        One row a run, or several.
    factors
        The factors of the model. A column names a unit only where some factor, or the seed, is the same in all rows of
        each of its values.
    """
    if TRAINED_IN in frame and frame[TRAINED_IN].notna().any():
        own = frame["run_id"].astype(str) if "run_id" in frame else pd.Series(frame.index.map(str), index=frame.index)
        return frame[TRAINED_IN].where(frame[TRAINED_IN].notna(), own).astype(str)
    if UNIT in frame:
        return frame[UNIT].astype(str)
    varying = [name for name in dict.fromkeys([*factors, "seed"]) if name in frame and frame[name].nunique() > 1]
    for name in _NAMES:
        if name not in frame or name in factors or frame[name].isna().any() or not frame[name].duplicated().any():
            continue
        ids = frame[name].astype(str)
        if "task" in frame and frame["task"].nunique() > 1:
            ids = ids + "/" + frame["task"].astype(str)
        if any((frame.groupby(ids)[factor].nunique() <= 1).all() for factor in varying):
            return ids if ids.duplicated().any() else None
    return None


def with_units(frame: pd.DataFrame, factors: Sequence[str], scores: Sequence[str] = ()) -> tuple[pd.DataFrame, str]:
    """The frame with units found by its shape where no column names them, and a sentence on it ("" where none is due).

    Rows with equal factors and equal seed are one run, for a run is a design with a seed; columns such as image or
    prompt do not make runs, nor do the scores: two images rated 4 and 5 may be of one run. Rows that have ids of their
    own are taken as runs.
    """
    ids = unit_ids(frame, factors)
    if ids is None:
        ids = _by_shape(frame, factors, scores)
        if ids is None:
            return frame, _numbered_anew(frame, factors)
        frame = frame.assign(**{UNIT: ids})
    units, rows = ids.nunique(), len(frame)
    if units == rows:
        return frame, ""
    what = "trainings" if TRAINED_IN in frame and frame[TRAINED_IN].notna().any() else "runs"
    return frame, f"The {rows} rows come from {units} {what}; what a run decides is tested on the {units}."


def _numbered_anew(frame: pd.DataFrame, factors: Sequence[str]) -> str:
    """A sentence on a column of units whose ids repeat in all levels of every factor; "" where there is none."""
    for name in _NAMES:
        if name == "run" or name not in frame or name in factors or not frame[name].duplicated().any():
            continue  # a column "run" usually counts replicates
        return (
            f"{name} has the same ids in different levels of every factor, so it names no units here and all rows "
            "count as independent; where units are numbered anew in each level of a factor, give each unit its own id."
        )
    return ""


def observations(frame: pd.DataFrame, factors: Sequence[str]) -> list[str]:
    """Those of the factors that only tell apart what one run gave (its images, say) and so are no factors of runs."""
    named = [name for name in factors if name in frame and tells_rows_apart(name, frame[name].nunique())]
    replicate = _replicate(frame, factors)
    if not named or replicate is None:
        return []
    keys = [name for name in dict.fromkeys([*factors, replicate]) if name not in named]
    return [name for name in named if frame.duplicated(keys).any() and keys != [replicate]]


def _replicate(frame: pd.DataFrame, factors: Sequence[str]) -> str | None:
    """The column that numbers the runs of a design: the seed or, without one, a run, a repetition or a fold."""
    for name in ("seed", *_NUMBERS):
        if name in frame and (name == "seed" or name not in factors):
            column = frame[name]
            return name if column.nunique() > 1 and not column.isna().any() else None
    return None


def _by_shape(frame: pd.DataFrame, factors: Sequence[str], scores: Sequence[str] = ()) -> pd.Series | None:
    replicate = _replicate(frame, factors)
    if replicate is None or any(name in frame and not frame[name].duplicated().any() for name in _NAMES):
        return None
    keys = [
        name
        for name in dict.fromkeys([*factors, replicate, *(s for s in _settings(frame) if s not in scores)])
        if name == replicate or not tells_rows_apart(name, frame[name].nunique())
    ]
    keys = [name for name in keys if name in (*factors, replicate) or not _counts_rows(frame, name, factors, replicate)]
    if keys == [replicate] or not frame.duplicated(keys).any():
        return None
    return frame.groupby(keys, dropna=False, sort=False).ngroup().astype(str)


def _counts_rows(frame: pd.DataFrame, name: str, factors: Sequence[str], replicate: str) -> bool:
    """Whether a column that is no factor has many values, and each run has all of them once: what it gave, numbered."""
    levels = frame[name].nunique()
    if levels <= _MOST_LEVELS or pd.api.types.is_float_dtype(frame[name]):
        return False
    sizes = frame.groupby([*factors, replicate], dropna=False)[name].agg(["size", "nunique"])
    return bool((sizes["size"] == levels).all() and (sizes["nunique"] == levels).all())


def _settings(frame: pd.DataFrame) -> list[str]:
    """Columns that may set runs apart: not those that name each row, nor numbers that hardly repeat, as scores do."""
    found = []
    for name in map(str, frame.columns):
        column = frame[name]
        levels = column.nunique()
        score = pd.api.types.is_float_dtype(column) and 2 * levels > len(frame)
        if 1 < levels < len(frame) and not score and not name.endswith(("_floor", "_ceiling", "_protocol")):
            found.append(name)
    return found


def strata_of(frame: pd.DataFrame, metric: str, terms: Sequence[str], block: str | None) -> list[Stratum]:
    """The strata in which the terms are tested: between units first, then within; one where each row is a unit."""
    parts = {term: parse_terms([term], frame.columns)[0] for term in terms}
    factors = list(dict.fromkeys(name for names in parts.values() for name in names))
    ids = unit_ids(frame, factors)
    used = frame
    if ids is not None:
        known = [name for name in [*factors, *([block] if block else [])] if name in frame]
        keep = np.isfinite(pd.to_numeric(frame[metric], errors="coerce")) & frame[known].notna().all(axis=1)
        used, ids = frame[keep], ids[keep]
    if ids is None or not ids.duplicated().any():
        return [Stratum(frame, list(terms), block, len(used), False)]
    inside = {name for name in factors if (used.groupby(ids)[name].nunique() > 1).any()}
    within = [term for term in terms if inside & set(parts[term])]
    between = [term for term in terms if term not in within]
    plain = used.drop(columns=[c for c in (TRAINED_IN, UNIT, *_NAMES) if c in used and c not in factors])
    found = []
    if between:
        outer = block if block not in inside else None
        means = _unit_means(plain, ids, metric, [t for t in within if len(parts[t]) == 1])
        found.append(Stratum(means, between, outer, len(means), False))
    if within:
        found.append(Stratum(plain.assign(**{UNIT: ids}), within, UNIT, len(used), True))
    return found


def stratum_of(
    frame: pd.DataFrame, metric: str, factor: str, terms: Sequence[str], block: str | Sequence[str] | None
) -> tuple[pd.DataFrame, list[str], str | Sequence[str] | None]:
    """(frame, terms, block) of the stratum in which a factor is tested; what was given where every row is a unit."""
    if block is None or isinstance(block, str):
        for stratum in strata_of(frame, metric, terms, block):
            if factor in stratum.terms:
                return stratum.frame, stratum.terms, stratum.block
    return frame, list(terms), block


def _unit_means(frame: pd.DataFrame, ids: pd.Series, metric: str, within: Sequence[str]) -> pd.DataFrame:
    """One row a unit: its mean, adjusted for the factors within units where not every unit has all their levels."""
    first = frame.groupby(ids, sort=False).first()
    complete = not within or frame.groupby(ids)[list(within)].apply(
        lambda part: tuple(sorted(map(str, part.itertuples(index=False, name=None))))
    ).nunique() == 1  # fmt: skip
    if complete:
        first[metric] = frame.groupby(ids, sort=False)[metric].mean()
    else:
        model = build(frame.assign(**{UNIT: ids}), metric, [UNIT, *within])
        reduced = Reduced(model)
        effects = Coefficients(reduced.R, reduced.z).beta[reduced.columns[(UNIT,)]]
        shift = float(frame[metric].mean()) - float(effects.mean())  # a constant, which no test between units sees
        first[metric] = pd.Series(effects + shift, index=model.factors[UNIT].levels).reindex(first.index)
    return first.reset_index(drop=True)
