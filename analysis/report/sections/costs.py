"""What a design costs: its parameters, what was matched, and the score against it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from analysis.figures.scatter import cost_panels
from analysis.figures.style import save
from analysis.linear_model.units import TRAINED_IN
from analysis.report.page import FigureBlock, Section, TableBlock, Text
from analysis.report.study import Study
from analysis.report.tables import Column, make_table
from analysis.report.words import level_words, listing, number

SAME = 1.05  # costs that differ by less are taken as the same: what is left is measurement noise

# Costs of a run: column -> (text, factor to the unit shown). Kept where they are recorded.
COSTS = {
    "trainable_params": ("trained parameters (thousand)", 1e-3),
    "seconds_train": ("training time (s)", 1.0),
    "peak_memory": ("peak memory (MiB)", 2.0**-20),
}
SHARED = ("seconds_train", "peak_memory")  # of a run in a fleet these are the fleet's, and measure load
_TOGETHER = (
    "Training time and memory are not compared: runs were trained together in fleets, so the seconds of each are a "
    "share of its fleet's, and the memory is that of all."
)


def costs_section(study: Study, out: Path, means: pd.DataFrame) -> Section | None:
    """Quality against what can be compared: parameters always, time and memory of runs that were trained one by one.

    means: frame of designs with columns design and mean.
    """
    from analysis import pareto

    panels, sentences, alike, runs = [], [], [], own_trainings(study.done)
    together = trained_together(study.done)
    for column, (text, factor) in COSTS.items():
        if column not in runs or (together and column in SHARED):
            continue
        cost = means["design"].map(runs.groupby(study.design)[column].mean()) * factor
        if not cost.min() > 0:
            continue
        if cost.max() < SAME * cost.min():
            alike.append(f"{text.split(' (')[0]} ({number(cost.mean())} {text.split('(')[1]}")
            continue
        directions = {"mean": "max" if study.higher_is_better else "min", column: "min"}
        designs = pareto(means.assign(**{column: _as_one(cost)}), directions, "design")
        drawn = pd.Series(cost.to_numpy(), index=means["design"])
        front = [study.label(d) for d in designs.index[designs["front"]]]
        panels.append((text, [(study.label(d), float(drawn[d]), r["mean"]) for d, r in designs.iterrows()], set(front)))
        if len(front) <= 5:
            sentences.append(
                f"for {text.split(' (')[0]}: {' | '.join(front)}"
                if any(", " in f for f in front)
                else f"for {text.split(' (')[0]}: {listing(front)}"
            )
    if not panels:
        return Section("cost", "Quality against cost", [Text(_none_drawn(alike, together))]) if alike else None
    data = pd.DataFrame([
        {"cost": text, "design": name, "value": cost, study.metric: score, "front": name in front}
        for text, marks, front in panels for name, cost, score in marks
    ])  # fmt: skip
    figure = cost_panels(panels, study.words.axis, study.higher_is_better)
    drawing = save(figure, "pareto", out / "figures", data, wide=len(panels) > 1)
    caption = (
        f"Each mark is a design (mean over its runs): {study.words.label} against what it costs. Red: on the Pareto "
        f"front, where no other design is both better and cheaper, costs within {SAME - 1:.0%} taken as the same"
    )
    caption += f"; {'; '.join(sentences)}." if sentences else "."
    if alike:
        caption += f" Not drawn, as it differs by less than {SAME - 1:.0%} between designs: {listing(alike)}."
    caption += f" {_TOGETHER}" if together else ""
    block = FigureBlock(drawing, caption, f"{study.words.label} against cost")
    return Section("cost", "Quality against cost", [block])


def _as_one(cost: pd.Series) -> pd.Series:
    """Costs with each that is within SAME of a smaller one put down to it: a handful of parameters buys nothing."""
    least, of = float("nan"), {}
    for value in sorted(cost.unique()):
        least = least if value <= SAME * least else value
        of[value] = least
    return cost.map(of)


def own_trainings(done: pd.DataFrame) -> pd.DataFrame:
    """The runs that were trained themselves, not those that share another one's training."""
    return done[done[TRAINED_IN].isna()] if TRAINED_IN in done else done


def trained_together(done: pd.DataFrame) -> bool:
    """Whether runs were trained in fleets: each member is recorded with an equal share of the fleet's seconds."""
    if "seconds_train" not in done:
        return False
    seconds = own_trainings(done)["seconds_train"].dropna()
    return bool(seconds[seconds > 0].duplicated().any())


def _none_drawn(alike: list[str], together: bool) -> str:
    verb = "differs" if len(alike) == 1 else "differ"
    said = f"No figure, as what designs cost {verb} by less than {SAME - 1:.0%}: {listing(alike)}."
    return f"{said} {_TOGETHER}" if together else said


def sizes_section(study: Study, out: Path) -> Section | None:
    """Parameters of each design: what was matched and what was not."""
    if "trainable_params" not in study.done or study.done["trainable_params"].isna().all():
        return None
    together, runs = trained_together(study.done), own_trainings(study.done)
    keep = [c for c in ("mid_dim", "adapters", "trainable_params", "lr", "steps", "seconds_train", "peak_memory")
            if c in runs and pd.api.types.is_numeric_dtype(runs[c]) and not (together and c in SHARED)]  # fmt: skip
    frame = (study.done if together else runs).groupby(study.design, sort=False)[keep].mean().reset_index()
    frame = frame.sort_values("trainable_params", kind="stable").rename(columns={study.design: "design"})
    base = next((r["sizes"].get("base_params") for r in study.records.values() if r.get("sizes")), None)
    if base:
        frame["share_of_base"] = frame["trainable_params"] / base
    low, high = frame["trainable_params"].min(), frame["trainable_params"].max()
    if len(frame) == 1:
        said = f"The design trains {number(int(low))} parameters"
        said += f", {low / base:.2%} of the base model's {number(int(base))}." if base else "."
    elif high == low:
        said = f"All designs train the same number of parameters, {number(round(high))}."
    elif high <= 1.02 * low:
        said = f"All designs train the same number of parameters, {number(round(high))}, within {high / low - 1:.1%}."
    elif high <= 1.1 * low:
        said = (
            f"Widths are matched: the designs train {number(round(low))} to {number(round(high))} parameters, "
            f"which differ by at most {high / low - 1:.0%} as widths are whole numbers."
        )
    else:
        said = (
            f"Parameters are not matched: the designs train {number(round(low))} to {number(round(high))} parameters "
            f"({number(float(f'{high / low:.2g}'))} times), so a difference between designs is also one in size."
        )
    same = []
    for column, name in (("lr", "learning rate"), ("steps", "number of training steps")):
        if column in frame and study.done[column].nunique() == 1:
            same.append(f"{name} ({level_words(column, study.done[column].iloc[0])})")
        elif column in frame and study.done[column].nunique() > 1:
            said += f" The {name} differs between runs."
    if same:
        said += f" The same for all runs, and not tuned for each design: {listing(same)}."
    table = make_table("sizes", f"Size{'' if together else ' and cost'} of each design, mean over its runs.", frame, {
        "design": Column("design", lambda v: study.label(v), numeric=False),
        "mid_dim": Column("mid_dim", lambda v: number(v, 0)),
        "adapters": Column("adapters", lambda v: number(v, 0)),
        "trainable_params": Column("parameters", lambda v: number(round(float(str(v))))),
        "share_of_base": Column("of base", lambda v: f"{v:.2%}" if float(str(v)) >= 1e-4 else "< 0.01%"),
        "seconds_train": Column("training (s)", number),
        "peak_memory": Column("memory (MiB)", lambda v: number(float(str(v)) / 2**20, 0)),
    }, out / "tables", folded=len(frame) > 6)  # fmt: skip
    return Section("sizes", "Parameters: what was matched", [Text(said), TableBlock(table)])
