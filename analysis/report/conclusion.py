"""The first paragraph of a report: what the study says, with numbers, and what it cannot say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from analysis.comparisons.means import marginal_means
from analysis.comparisons.posthoc import best_set
from analysis.planning.sample_size import detectable
from analysis.report.conclusion_joint import (
    ALPHA,
    DESIGN,
    designs,
    explained,
    f_words,
    factors_of,
    leaves_residual,
    own_factors,
    percent,
)
from analysis.runs.load import factor_columns, higher_is_better
from analysis.runs.roles import is_of_records
from analysis.variance.table import anova, oneway

_WORDS = {"din": "the input position (din)", "dout": "the output position (dout)", "mid_dim": "the width (mid_dim)"}
_FEWEST_SIGNS = 6  # that a two-sided sign test needs for a p below ALPHA: 2 / 2**6


def conclude(frame: pd.DataFrame, metric: str, factor: str | None = None, terms: Sequence[str] | None = None) -> str:
    """What the runs say about a metric, in a few plain sentences with numbers.

    factor: what is compared, if it is to be one; terms: those of a joint model, as in `anova`. Default: all factors
    that vary and do not only follow another one. The seed is taken out as a block where every seed was used with
    several levels. Says which share of the variance each factor explains (eta2 of these runs; omega2, with Steiger's
    interval, for the population), which level or design is best and which cannot be told from it (Hsu), which of din
    and dout matters (type II), and where floor and ceiling lie. Where the data cannot tell, it says so and what a study
    of this size would have seen. Several tasks get a sentence each.

    >>> import analysis
    >>> print(conclude(analysis.load_paper_heatmap(), "clip_similarity").split(". ")[0])
    There is one run for each of the 20 placements, so the placement itself cannot be tested
    """
    if metric not in frame:
        raise ValueError(f"The frame has no column {metric!r}; it has {', '.join(map(str, frame.columns))}.")
    by = [c for c in ("task", "data") if is_of_records(frame) and c in frame and frame[c].nunique() > 1]
    if by:
        parts = frame.dropna(subset=[metric]).groupby(by, sort=True)
        return "\n".join(f"{'/'.join(map(str, name))}: {conclude(part, metric, factor, terms)}" for name, part in parts)
    used = frame[np.isfinite(pd.to_numeric(frame[metric], errors="coerce"))]
    if terms is None and factor is None:
        terms = [name for name in own_factors(used) if name != metric]
    if terms is not None and len(factors_of(terms)) > 1 and (said := _together(used, metric, terms)):
        return said
    if factor is None:
        factor = _main_factor(used, metric)
    if factor is None:
        return f"No factor varies in these runs ({len(used)}), so there is nothing to compare."
    used = used[used[factor].notna()] if factor in used else used
    if factor not in used or used[factor].nunique() < 2:
        return f"{_name(factor).capitalize()} has fewer than two levels in these runs, so there is nothing to compare."
    if used[metric].nunique() == 1:
        return f"{metric} is the same in all {len(used)} runs, so there is nothing to explain."
    block = _block(used, factor)
    sentences = [_explained(used, metric, factor, block), *_best(used, metric, factor, block)]
    if factor == "placement":
        sentences += _positions(used, metric, block)
    sentences += [_ignored(used, factor), *_anchors(used, metric, factor)]
    return " ".join(s for s in sentences if s)


def _together(frame: pd.DataFrame, metric: str, terms: Sequence[str]) -> str | None:
    """What several factors say together; None where they leave no residual to test them with."""
    names = factors_of(terms)
    used = frame.dropna(subset=names)
    used = used.assign(**{DESIGN: designs(used, names)})
    if len(used) < 2 or used[metric].nunique() < 2 or min(used[name].nunique() for name in names) < 2:
        return None
    block = _block(used, DESIGN)
    if not leaves_residual(used, metric, terms, block):
        return None
    several = used.groupby(DESIGN).size().max() > 1
    best = _best(used, metric, DESIGN, block) if several else _highest(used, metric)
    return " ".join([*explained(used, metric, terms, block), *best, *_anchors(used, metric, DESIGN)])


def _highest(frame: pd.DataFrame, metric: str) -> list[str]:
    row = frame.loc[frame[metric].idxmax() if higher_is_better(metric) else frame[metric].idxmin()]
    return [f"The {_end(metric)} {metric} is that of {row[DESIGN]} ({row[metric]:.3g}), in one run."]


def _main_factor(frame: pd.DataFrame, metric: str) -> str | None:
    if "placement" in frame and frame["placement"].nunique() > 1:
        return "placement"
    names = [c for c in factor_columns(frame) if c != metric]
    return str(oneway(frame, metric, names).index[0]) if names else None


def _block(frame: pd.DataFrame, factor: str) -> str | None:
    seed = frame.attrs.get("block", "seed")
    if seed is None or factor == seed or seed not in frame or frame[seed].nunique() < 2 or frame[seed].isna().any():
        return None
    return str(seed) if (frame.groupby(seed)[factor].nunique() > 1).all() else None


def _ignored(frame: pd.DataFrame, factor: str) -> str:
    """Names the factors that vary beside the one compared and are not fixed by it."""
    others = [c for c in factor_columns(frame) if c not in (factor, "placement")]
    others = [c for c in others if frame.groupby(factor)[c].nunique().max() > 1]
    if not others:
        return ""
    return f"Not adjusted for: {', '.join(others)} {'vary' if len(others) > 1 else 'varies'} as well."


def _name(factor: str) -> str:
    return _WORDS.get(factor, f"the {factor}" if factor == "placement" else factor)


def _explained(frame: pd.DataFrame, metric: str, factor: str, block: str | None) -> str:
    table = anova(frame, metric, [factor], block=block)
    row, df2, n, levels = table.loc[factor], table.loc["residual", "df"], table.attrs["n"], frame[factor].nunique()
    name = _name(factor)
    if not row["F"] >= 0:
        if n == levels:
            return f"There is one run for each of the {levels} {_plural(factor)}, so {name} itself cannot be tested."
        return f"{name.capitalize()} cannot be tested: {row['note'] or 'nothing is left to estimate the noise with.'}"
    after = f", with {block} taken out as a block" if block else ""
    if row["p"] < ALPHA:
        left = f"that the {block} leaves " if block else ""
        return (
            f"{name.capitalize()} explains {percent(row['eta2_partial'])} % of the variance of {metric} {left}"
            f"in these {n} runs ({f_words(row, df2)}{after}); for the population behind them the estimate is "
            f"{percent(row['omega2_partial'])} % "
            f"[{percent(row['omega2_partial_low'])}, {percent(row['omega2_partial_high'])}]."
        )
    limit = detectable(frame, metric, factor, block=block)
    return (
        f"These {n} runs cannot tell whether {name} matters for {metric} ({f_words(row, df2)}{after}): "
        f"a study of this size finds, four times out of five, only differences of about "
        f"{limit['range']:.2g} between the extreme levels, "
        f"and the level means lie within {_spread(frame, metric, factor):.2g}."
    )


def _plural(factor: str) -> str:
    return factor + "s" if factor == "placement" else f"levels of {factor}"


def _spread(frame: pd.DataFrame, metric: str, factor: str) -> float:
    return float(np.ptp(frame.groupby(factor)[metric].mean()))


def _best(frame: pd.DataFrame, metric: str, factor: str, block: str | None) -> list[str]:
    try:
        table = best_set(frame, metric, factor, block=block)
    except ValueError as error:
        return [str(error)]
    first, rest = table.index[0], [str(v) for v in table.index[1:][table["in_set"].iloc[1:]]]
    if table["p"].isna().all():
        return [f"The {_end(metric)} {metric} is that of {first} ({table['mean'].iloc[0]:.3g}); how sure that is, "
                "the runs do not say."]  # fmt: skip
    mean = marginal_means(frame, metric, factor, block=block).loc[first]
    interval = f"{metric} {mean['mean']:.3g} [{mean['low']:.3g}, {mean['high']:.3g}]"
    if not rest:
        return [f"The best is {first} ({interval}), and with 95 % confidence no other is as good."]
    if len(rest) == len(table) - 1:
        return [
            f"{first} has the {_end(metric)} mean ({interval}), but none of the {len(table)} can be excluded as best."
        ]
    comma = "; " if any(", " in name for name in rest) else ", "  # designs of several factors have commas inside
    shown = comma.join(rest[:5]) + (
        f"{comma[:-1] if comma == '; ' else ''} and {len(rest) - 5} more" if rest[5:] else ""
    )
    return [
        f"The best is {first} ({interval}); with 95 % confidence it cannot be told from {shown}, "
        f"and {_others(len(table) - 1 - len(rest))} worse than the best."
    ]


def _others(count: int) -> str:
    return "the other one is" if count == 1 else f"the other {count} are"


def _end(metric: str) -> str:
    return "highest" if higher_is_better(metric) else "lowest"


def _positions(frame: pd.DataFrame, metric: str, block: str | None) -> list[str]:
    """din and dout: together in the additive model, where it leaves a residual; else each by itself."""
    names = [c for c in ("din", "dout") if c in frame and frame[c].nunique() > 1]
    if len(names) < 2:
        return []
    table = anova(frame, metric, names, block=block)
    df2 = table.loc["residual", "df"]
    texts = []
    for name in names:
        row = table.loc[name]
        if not row["F"] >= 0:
            texts.append(f"{_name(name)} cannot be tested")
        elif row["p"] < ALPHA:
            texts.append(
                f"{_name(name)} matters ({f_words(row, df2)}, {percent(row['eta2_partial'])} % of what it leaves)"
            )
        else:
            texts.append(f"{_name(name)} cannot be shown to matter ({f_words(row, df2)})")
    # "of what it leaves": partial eta2 relates to the variance the other position does not explain.
    text = "With each adjusted for the other, " + " and ".join(texts).replace("what it leaves", "what the rest leaves")
    parts = table.attrs["components"]
    if parts > 1:
        text += f"; this compares levels only within the {parts} parts of the design that share no position"
    single = oneway(frame, metric, names, block=block)
    tested = [(name, row) for name, row in single.iterrows() if row["F"] >= 0]
    alone = "; ".join(f"{name} {percent(r['eta2_partial'])} % ({f_words(r, r['df_residual'])})" for name, r in tested)
    return [text + ".", f"Each by itself explains: {alone}." if alone else ""]


def _anchors(frame: pd.DataFrame, metric: str, factor: str) -> list[str]:
    """Whether the metric moved from its floor, and how near the best came to the ceiling."""
    if f"{metric}_floor" not in frame or frame[f"{metric}_floor"].isna().all():
        return []
    sign = 1 if higher_is_better(metric) else -1
    gain = sign * (frame[metric] - frame[f"{metric}_floor"])
    groups = [g.dropna().to_numpy() for _, g in gain.groupby(frame[factor])]
    best = max((g for g in groups if len(g)), key=lambda g: g.mean())
    floor, value = float(frame[f"{metric}_floor"].mean()), floor_plus(frame, metric, sign, float(best.mean()))
    means = marginal_means(frame.assign(gain=gain), "gain", factor)
    t = (means["mean"] / means["se"]).abs().max()
    # The level that moved most is chosen among all: Bonferroni over the levels. Without replicates, a sign test.
    rose, fell = int((gain > 0).sum()), int((gain < 0).sum())
    alone = 2 * float(stats.binom.sf(max(rose, fell) - 1, rose + fell, 0.5)) if rose + fell else 1.0
    p = 2 * float(stats.t.sf(t, means["df"].iloc[0])) * len(means) if np.isfinite(t) else alone
    if not np.isfinite(t) and 0 < rose + fell < _FEWEST_SIGNS:
        return [f"The model untuned (the floor) has {floor:.3g}, and the best level {value:.3g}; with so few runs that "
                "is no proof of a gain."]  # fmt: skip
    if p < ALPHA and best.mean() <= 0:
        return [f"Every level is worse in {metric} than the model untuned ({floor:.3g}); the best one comes nearest "
                f"({value:.3g})."]  # fmt: skip
    if not p < ALPHA:
        return [f"No level moved {metric} from its floor ({floor:.3g}, the model untuned): the training did not show "
                "in it, so differences here mean little."]  # fmt: skip
    ceiling = frame.get(f"{metric}_ceiling", pd.Series(dtype=float)).mean()
    if not np.isfinite(ceiling) or sign * (ceiling - floor) <= 0:
        return [f"The floor (the model untuned) is {floor:.3g}, the best level reaches {value:.3g}."]
    share = (value - floor) / (ceiling - floor)
    worst = min(float(g.mean()) for g in groups if len(g)) / (sign * (ceiling - floor))
    text = (
        f"The best level goes {percent(share)} % of the way from the floor ({floor:.3g}, the model untuned) to the "
        f"ceiling ({ceiling:.3g}), the worst {percent(worst)} %."
    )
    if worst > 0.97:
        text += " All levels are at the ceiling, so the metric cannot tell them apart."
    return [text]


def floor_plus(frame: pd.DataFrame, metric: str, sign: int, gain: float) -> float:
    """The value of the metric that lies a gain above (or, where small is good, below) the mean floor."""
    return float(frame[f"{metric}_floor"].mean()) + sign * gain
