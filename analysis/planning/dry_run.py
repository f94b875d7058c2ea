"""Before and between the runs of a study: which to do, what they will be able to tell, where seeds are missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from analysis.comparisons.means import marginal_means
from analysis.comparisons.posthoc import best_set
from analysis.linear_model.units import TRAINED_IN
from analysis.planning.fraction import choose, estimable
from analysis.planning.looks import looked
from analysis.runs.load import load_results, metric_columns
from sdpet.files.terminal import counted

_ADDED_AT_ONCE = 2  # seeds; then the spread is looked at again


def units_to_choose_from(frame: pd.DataFrame, factors: Sequence[str]) -> int:
    """How many units a fraction of these runs is taken of: trainings where runs share them, else runs."""
    return frame[TRAINED_IN].nunique() if _by_training(frame, factors) else len(frame)


def choose_runs(frame: pd.DataFrame, factors: Sequence[str], size: int, effects: str | None) -> tuple[np.ndarray, str]:
    """Positions of the runs to do, and a sentence on them.

    Parameters
    ----------
    frame
        One row a run, with columns of its factors.
    factors
        Columns that vary.
    size
        How many units are done: runs or, where runs share trainings, trainings, of which all runs are done.
    effects
        Terms to estimate; by default the main effects, with the placement as one factor. The seed is a block of the
        model in any case. Those that vary within trainings need no choice.

    Raises
    ------
    ValueError
        Where the effects name what does not vary, or the model has more parameters than units.
    """
    if effects is None:
        terms = _additive(factors)
    else:
        from analysis.linear_model.design import parse_terms

        terms = [":".join(term) for term in parse_terms(effects)]
        used = {name for term in terms for name in term.split(":")}
        if unknown := sorted(used - set(factors)):
            raise ValueError(
                f"hydra.sweeper.effects names {', '.join(unknown)}, which this sweep does not vary; "
                f"it varies {', '.join(factors)}."
            )
        terms += ["seed"] if "seed" in factors and "seed" not in terms else []
    if not terms:
        raise ValueError("nothing varies in this sweep, so there is no fraction of it to choose.")
    shared = _by_training(frame, factors)
    units = frame
    if shared:
        inside = _inside(frame, factors)
        terms = [term for term in terms if not inside & set(term.split(":"))] or [f for f in factors if f not in inside]
        units = frame.drop_duplicates(TRAINED_IN)
    rows, efficiency = choose(units, size, terms, what="trainings" if shared else "runs")
    of = f"{len(units)} trainings" if shared else f"{len(units)} runs"
    sentence = (
        f"  chosen    {size} of {of} for {' + '.join(terms)}; D-efficiency {efficiency:.3f} "
        "(1: each tells as much as in the full factorial)"
    )
    if not shared:
        return rows, sentence
    kept = np.flatnonzero(frame[TRAINED_IN].isin(units[TRAINED_IN].iloc[rows]))
    return kept, f"{sentence}; with all runs of each, {len(kept)} in all"


def _by_training(frame: pd.DataFrame, factors: Sequence[str]) -> bool:
    """Whether runs share trainings of which a part can be chosen."""
    if TRAINED_IN not in frame or not frame[TRAINED_IN].duplicated().any():
        return False
    return bool(set(factors) - _inside(frame, factors))


def _inside(frame: pd.DataFrame, names: Iterable[str]) -> set[str]:
    """The factors that vary within trainings."""
    return {name for name in names if (frame.groupby(TRAINED_IN)[name].nunique(dropna=False) > 1).any()}


def foresee(frame: pd.DataFrame, factors: Sequence[str], effects: str | None = None) -> list[str]:
    """Lines on what these runs can estimate: cells, main effects, din and dout apart, and pairs of factors.

    effects: the terms that were asked for (`hydra.sweeper.effects`). Those that are interactions stand beside the main
    effects; all other pairs are looked at together, which a fraction can rarely estimate.
    """
    from analysis.linear_model.design import parse_terms

    if not factors:
        return ["  effects   none: nothing varies"]
    levels = ", ".join(f"{name} ({frame[name].nunique()})" for name in factors)
    designs = [name for name in factors if name != "seed"]
    cells = len(frame.groupby(designs, dropna=False)) if designs else 1
    seeds = frame.groupby(designs, dropna=False).size() if designs else pd.Series([len(frame)])
    each = f"{seeds.min()}" if seeds.min() == seeds.max() else f"{seeds.min()} to {seeds.max()}"
    lines = [f"  factors   {levels}", f"  cells     {cells}, {each} {'run' if each == '1' else 'runs'} each"]
    additive = _additive(factors)
    lines += _units(frame)
    asked = [":".join(term) for term in parse_terms(effects) if len(term) > 1] if effects else []
    for number, (terms, table) in enumerate(_strata(frame, [*additive, *asked])):
        lines += _effects("" if number else "effects", table, terms)
    if {"placement", "din", "dout"} <= set(factors):
        split = [name for name in _additive([f for f in factors if f != "placement"])]
        for terms, table in _strata(frame, split):
            lines += _effects("or", table, only=told) if (told := [t for t in terms if t in ("din", "dout")]) else []
    pairs = [f"{a}:{b}" for a, b in combinations([name for name in additive if name != "seed"], 2)]
    pairs = [pair for pair in pairs if not any({*pair.split(":")} == {*term.split(":")} for term in asked)]
    if pairs:
        strata = [(told, table) for terms, table in _strata(frame, [*additive, *asked, *pairs])
                  if (told := [t for t in terms if t in pairs])]  # fmt: skip
        for number, (told, table) in enumerate(strata):
            lines += _effects("" if number else "pairs", table, only=told)
    return lines


def _units(frame: pd.DataFrame) -> list[str]:
    """A line on runs that share trainings; none where each run trains."""
    trainings = frame[TRAINED_IN].nunique() if TRAINED_IN in frame else len(frame)
    if trainings == len(frame):
        return []
    return [
        f"  units     {counted(trainings, 'training')} for {counted(len(frame), 'run')}; "
        "what training decides is tested on the trainings, the rest within them"
    ]


def _strata(frame: pd.DataFrame, terms: Sequence[str]) -> list[tuple[list[str], pd.DataFrame]]:
    """The terms that are tested together, and what is estimable of them: between trainings, then within them."""
    if TRAINED_IN not in frame or not frame[TRAINED_IN].duplicated().any():
        return [(list(terms), estimable(frame, list(terms)))]
    used = {name for term in terms for name in term.split(":")}
    inside = _inside(frame, used)
    within = [term for term in terms if inside & set(term.split(":"))]
    between = [term for term in terms if term not in within]
    found = []
    if between:
        found.append((between, estimable(frame.drop_duplicates(TRAINED_IN), between)))
    if within:
        plain = frame.drop(columns=TRAINED_IN).assign(training=frame[TRAINED_IN])
        found.append((within, estimable(plain, ["training", *terms])))
    return found


def _additive(factors: Sequence[str]) -> list[str]:
    """Main effects: where the placement varies, it stands for din and dout."""
    apart = ("din", "dout") if "placement" in factors else ()
    return [name for name in factors if name not in apart]


def _effects(head: str, table: pd.DataFrame, only: Sequence[str] | None = None) -> list[str]:
    lines: list[str] = []
    residual = table.loc["residual", "df"]
    for term, row in table.iterrows():
        if term == "residual" or (only is not None and term not in only):
            continue
        text = f"{term}: {row['df']:.0f} of {row['expected']:.0f} df"
        if row["df"] == row["expected"] > 0:
            text += "" if residual > 0 else ", without a residual to test it against"
        elif row["expected"] == 0:
            text += ", one level"
        else:
            what = "partly estimable" if row["df"] else "not estimable"
            aliased = f", confounded with {row['aliased']}" if row["aliased"] else ""
            reason = str(row["note"]).partition(": ")[2].rstrip(".")
            reason = "" if aliased and "aliased" in reason else f": {reason}"
            text += f", {what}{aliased}{reason}"
        lines.append(f"  {head if not lines else '':<9} {text}")
    return [*lines, f"  {'':<9} residual: {residual:.0f} df"]


def seeds_to_add(
    folder: Path, design_of: Mapping[str, str], metric: str | None, width: float, most: int
) -> tuple[dict[str, int], list[str]]:
    """How many seeds the designs of a study still need, and sentences on where it stands.

    design_of: the design of each run, by run_id. Needed is what brings the widest 95 % interval of a design's mean down
    to `width`, at most two at once, as the spread is estimated anew with each, and no more than `most` in all. All
    designs of a task get the same seeds: adding seeds to those that lead would bias which of them is the best, which is
    what a race is for. The rule looks at widths, and never at means. Each call is a look, and is counted.
    """
    frame = load_results(folder)
    frame["design"] = frame["run_id"].map(dict(design_of))
    frame = frame[frame["design"].notna()]
    metric = metric or next((name for name in metric_columns(frame) if frame[name].notna().any()), None)
    if metric is None or metric not in metric_columns(frame):
        raise ValueError(f"hydra.sweeper.metric must be one of {', '.join(metric_columns(frame))}, not {metric!r}.")
    looks = len(looked(folder, frame.loc[frame[metric].notna(), "run_id"].astype(str), "until"))
    more: dict[str, int] = {}
    sentences = []
    for task, runs in frame[frame[metric].notna()].groupby("task"):
        table = interval_widths(runs, metric, width, most)
        count = int(table["more"].max())
        more |= {str(design): min(count, int(most - n)) for design, n in table["n"].items() if n < most and count}
        widest = table["width"].max()
        sentences.append(
            f"  {task}: look {looks}, the widest 95% interval of the {len(table)} means of {metric} is {widest:.3g} "
            f"(asked: {width:g})" + (f"; {most} seeds, the most allowed" if widest > width and not count else "")
        )
    return more, sentences


def designs_to_confirm(folder: Path, design_of: Mapping[str, str], metric: str | None) -> tuple[list[str], list[str]]:
    """The designs to train on fresh seeds, and sentences on them: those that may be the best of their task (Hsu).

    design_of: the design of each run of the study, by run_id. Where no test says that designs differ, the one with the
    best mean stands alone. As in a report, whose estimate of the winner the fresh seeds give.
    """
    from analysis.runs.direction import higher_is_better
    from analysis.variance.verdict import ALPHA, verdicts

    frame = load_results(folder)
    frame["design"] = frame["run_id"].map(dict(design_of))
    frame = frame[frame["design"].notna()].drop(columns=["trained_in"], errors="ignore")
    metric = metric or next((name for name in metric_columns(frame) if frame[name].notna().any()), None)
    if metric is None or metric not in metric_columns(frame):
        raise ValueError(f"hydra.sweeper.metric must be one of {', '.join(metric_columns(frame))}, not {metric!r}.")
    chosen, sentences = [], []
    for task, runs in frame[frame[metric].notna()].groupby("task"):
        block = "seed" if runs["seed"].nunique() > 1 and runs["design"].nunique() > 1 else None
        means = runs.groupby("design")[metric].mean()
        best = [str(means.idxmax() if higher_is_better(metric) else means.idxmin())]
        why = "no test says that designs differ, so this is the one with the best mean"
        if len(means) > 1 and verdicts(runs, metric, ["design"], block)["p_claim"].iloc[0] < ALPHA:
            table = best_set(runs, metric, "design", block=block, variances="moderated")
            best, why = (
                [str(level) for level in table.index[table["in_set"]]],
                "with 95% confidence the best is among them",
            )
        chosen += best
        count = f"{len(best)} of {len(means)} designs {'is' if len(best) == 1 else 'are'}"
        sentences.append(f"  {task}: {count} trained on fresh seeds for {metric}; {why}")
    return chosen, sentences


def interval_widths(runs: pd.DataFrame, metric: str, width: float, most: int) -> pd.DataFrame:
    """One row a design: n, mean, low, high, width of its 95 % interval, and how many seeds to add.

    Seeds are blocks where they are shared. ValueError where there is no replicate to estimate the spread from.
    """
    block = "seed" if runs["seed"].nunique() > 1 and runs["design"].nunique() > 1 else None
    # Designs that share a training have one run of each seed: their means are those of their own runs. What these leave
    # unexplained was seen in as many trainings only, so its degrees of freedom are those of the trainings.
    wider = _fewer_units(runs, block)
    runs = runs.drop(columns=[c for c in ("trained_in", "run_id") if c in runs])
    table = marginal_means(runs, metric, "design", block=block)[["n", "mean", "low", "high"]]
    table["width"] = (table["high"] - table["low"]) * wider
    table["low"], table["high"] = table["mean"] - table["width"] / 2, table["mean"] + table["width"] / 2
    if table["width"].isna().any():
        raise ValueError("hydra.sweeper.until needs at least 2 seeds of each design, to see how much seeds differ.")
    # The width goes with 1 / sqrt(n).
    needed = np.ceil(table["n"] * (table["width"] / width) ** 2) - table["n"]
    needed = needed.where(table["width"] > width, 0).clip(upper=_ADDED_AT_ONCE)
    table["more"] = np.minimum(needed, (most - table["n"]).clip(lower=0)).astype(int)
    return table


def _fewer_units(runs: pd.DataFrame, block: str | None) -> float:
    """By how much a 95 % interval grows where the error has the degrees of freedom of trainings instead of runs."""
    if TRAINED_IN not in runs or not runs[TRAINED_IN].notna().any():
        return 1.0
    ids = runs[TRAINED_IN].where(runs[TRAINED_IN].notna(), runs["run_id"].astype(str))
    shared = runs.groupby(ids)["design"].agg(lambda designs: tuple(sorted(set(map(str, designs)))))
    blocks = runs[block].nunique() - 1 if block else 0
    of_units = len(shared) - shared.nunique() - blocks
    of_runs = len(runs) - runs["design"].nunique() - blocks
    if of_units < 1:
        raise ValueError("hydra.sweeper.until needs at least 2 trainings of each design, to see how much seeds differ.")
    return float(stats.t.ppf(0.975, of_units) / stats.t.ppf(0.975, max(of_runs, 1)))
