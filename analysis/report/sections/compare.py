"""This study beside another one, or beside the paper's public heatmap: do the designs come in the same order?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from analysis.figures.heatmap import Panel, heatmaps
from analysis.figures.scatter import agreement
from analysis.figures.style import save
from analysis.report.page import Block, FigureBlock, Section, TableBlock, Text
from analysis.report.sections.cells import best_cell
from analysis.report.sections.means import placement_means
from analysis.report.study import Study, read_study
from analysis.report.tables import Column, make_table
from analysis.report.words import PAPER_NAME, digits_for, level_words, number, p_words, placement_words
from sdpet.adapters.positions import INPUTS, OUTPUTS, PLACEMENTS, component, split_placement

KIND = {"transformer": "residual stream", "context": "text context", "resnet": "ResBlock"}
LEAST = 4  # shared placements below which a rank correlation says nothing


def compare_section(study: Study, means: pd.DataFrame, other: str | Path | None, out: Path) -> Section | None:
    """Rank correlation over the shared placements and a scatter. Without `other`, the paper's heatmap is the other.

    ValueError when `other` is asked for and shares too few placements; None when the default does not apply.
    """
    if other is None and not study.has_placements:
        return None
    theirs, title, axis, upward = _other(other)
    ours = placement_means(study, means) if "placement" in study.done else pd.Series(dtype=float)
    shared = [p for p in ours.index if p in theirs.index]
    if len(shared) < LEAST:
        if other is not None:
            found = f"{study.source} and {other} share {len(shared)} placements"
            raise ValueError(f"{found}; comparing takes at least {LEAST}.")
        return None
    frame = pd.DataFrame({"placement": shared, "here": ours[shared].to_numpy(), "there": theirs[shared].to_numpy()})
    if other is None and np.allclose(frame["here"], frame["there"]):
        return None  # the paper's heatmap itself
    rho, p = _spearman(frame, study.higher_is_better, upward)
    points = [
        (level_words("placement", row["placement"]), row["there"], row["here"], KIND[component(row["placement"])])
        for row in frame.to_dict("records")
    ]
    figure = agreement(points, f"{title}: {axis}", f"here: {study.words.axis}")
    drawing = save(figure, "agreement", out / "figures", frame, wide=True)
    frame["rank_here"] = frame["here"].rank(ascending=not study.higher_is_better)
    frame["rank_there"] = frame["there"].rank(ascending=not upward)
    digits = 3
    table = make_table("agreement", f"Ranks here and in {title}.", frame.sort_values("rank_here"), {
        "placement": Column("placement", lambda v: level_words("placement", v), numeric=False),
        "here": Column("here", lambda v: number(v, digits)),
        "there": Column("there", lambda v: number(v, digits)),
        "rank_here": Column("rank here", lambda v: f"{v:g}"),
        "rank_there": Column("rank there", lambda v: f"{v:g}"),
    }, out / "tables", folded=True)  # fmt: skip
    size = abs(rho)
    strength = "no" if size < 0.2 else "a weak" if size < 0.4 else "a moderate" if size < 0.7 else "a strong"
    agreement_or_not = "agreement" if rho > 0 or strength == "no" else "disagreement"
    said = (
        f"Over the {len(shared)} placements that both have, the rank correlation (Spearman, best first) is "
        f"{number(rho, 2)} ({p_words(p)}): {strength} {agreement_or_not} in the order of the placements."
    )
    if not p < 0.05:
        said += f" Over {len(shared)} placements that could be chance."
    if other is None:
        said += (
            " The paper trained Stable Diffusion on photos with one run a placement; its values are read off the "
            "public heatmap's colours, to about 0.002. A different order here is a finding, not an error."
        )
    caption = f"Each mark is a placement: {title} to the right, this study upwards (means over runs)."
    alt = f"Scatter of {len(shared)} placements, rank correlation {rho:.2f}"
    blocks: list[Block] = [Text(said), FigureBlock(drawing, caption, alt)]
    if set(shared) <= set(PLACEMENTS):
        blocks.append(_grids(study, ours, theirs, title, axis, upward, out))
    return Section("agreement", f"Beside {title}", [*blocks, TableBlock(table)])


def _grids(
    study: Study, ours: pd.Series, theirs: pd.Series, title: str, axis: str, upward: bool, out: Path
) -> FigureBlock:
    """Both heatmaps, one above the other."""
    panels = []
    for scores, label, up, above in (
        (ours, study.words.axis, study.higher_is_better, f"this study, {study.name}"),
        (theirs, axis, upward, title),
    ):
        cells = {split_placement(str(p)): float(v) for p, v in scores.items() if p in PLACEMENTS}
        digits = digits_for(cells.values())
        tips = {c: f"{placement_words('-'.join(c))}\n{label}: {number(v, digits)}" for c, v in cells.items()}
        panels.append(Panel(cells, label, up, digits, best_cell(cells, up), above, tips))
    data = pd.DataFrame([
        {"study": panel.title, "din": din, "dout": dout, "mean": mean}
        for panel in panels for (din, dout), mean in panel.cells.items()
    ])  # fmt: skip
    drawing = save(
        heatmaps(panels, [(p, PAPER_NAME[p]) for p in INPUTS], [(p, PAPER_NAME[p]) for p in OUTPUTS],
                 {split_placement(p) for p in PLACEMENTS}, "input: where the adapter reads", "where it writes"),
        "heatmaps", out / "figures", data, wide=True,
    )  # fmt: skip
    caption = (
        f"The grid of placements, here above and in {title} below, each on its own scale; the best cell is framed."
    )
    if others := set(map(str, ours.index)) - set(PLACEMENTS):
        caption += f" It leaves out the {len(others)} placements of this study that a UNet does not have."
    return FigureBlock(drawing, caption, f"Heatmaps of this study and of {title}")


def _other(other: str | Path | None) -> tuple[pd.Series, str, str, bool]:
    """Mean score by placement, title, axis and direction of what is compared with."""
    if other is None:
        from analysis import load_paper_heatmap

        paper = load_paper_heatmap().set_index("placement")["clip_similarity"]
        return paper, "the paper's heatmap", "CLIP similarity", True
    study = read_study(other)
    if "placement" not in study.done:
        raise ValueError(f"{other} has no placements to compare with; it needs the columns din and dout, or placement.")
    return study.done.groupby("placement")[study.metric].mean(), study.name, study.words.axis, study.higher_is_better


def _spearman(frame: pd.DataFrame, here_up: bool, there_up: bool) -> tuple[float, float]:
    """Spearman's correlation of the ranks, best first on both sides, and its p."""
    from analysis import rank_agreement

    good = frame.assign(here=frame["here"] * (1 if here_up else -1), there=frame["there"] * (1 if there_up else -1))
    found = rank_agreement(good, "placement", ["here", "there"]).iloc[0]
    return float(found["spearman"]), float(found["p"])
