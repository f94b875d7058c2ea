"""Draws pictures into docs/images: `python docs/pictures.py [STUDY]`.

Without a study: the figures of the README and of docs/results, from the tables in docs/results. With the folder of the
study that `make study` makes: samples.png, the README's picture of samples. That study's heatmap is
`report/figures/heatmap.png` of its report.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

import analysis
import sdpet
from analysis.figures.style import BLUE, CYCLE, MUTED, VERMILION, grid_along, new_figure, styled

RESULTS = Path(__file__).parent / "results"
ATLAS = ["placement", "form", "params", "activation", "scale", "form:params"]  # the terms of sweeps/atlas.yaml
TERMS = {"params": "number of parameters", "form:params": "form × number", "placement:form": "placement × form"}
PHOTOS = Path(sdpet.__file__).parent / "lab" / "data" / "subject"
IMAGES = Path(__file__).parent / "images"
CELL, GAP, LEFT, TOP = 96, 6, 250, 10  # px
RANKS = (1, 2, 3, 8, 14, 20)  # of the 20 placements, best first
FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


def main(study: Path | None = None) -> None:
    """Draw the figures of the results, or the samples of a study."""
    if study is not None:
        samples(study).save(IMAGES / "samples.png", optimize=True)
        return
    sizes = {24000: "24,000 parameters", 52800: "52,800 parameters"}
    ranges = {"[0, 1]": "all noise levels", "[0, 0.5]": "half of less noise", "[0.5, 1]": "half of more noise"}
    figures = {
        "where.png": where(),
        "what-matters.png": what_matters({"atlas": "UNet", "atlas_dit": "transformer"}, "clip_i", ATLAS),
        "what-matters-finetuning.png": what_matters(
            {"atlas_finetune": "UNet", "atlas_finetune_dit": "transformer"}, "shape_right", [*ATLAS, "placement:form"]
        ),
        "methods.png": methods(),
        "paper-widths.png": levels_at_each_placement("paper_widths", "params", sizes),
        "noise-range.png": levels_at_each_placement("noise_range", "when", ranges),
    }
    for name, figure in figures.items():
        with styled():
            figure.savefig(IMAGES / name, dpi=130, facecolor="white", transparent=False)


def where() -> Figure:
    """CLIP-I of every placement with its 95 % interval: on the lab's UNet, and on its transformer."""
    with styled():
        figure = new_figure(8.6, 5.0)
        left, right = figure.subplots(1, 2, sharex=True)
        unet, transformer = (analysis.load_results(RESULTS / f"{name}.csv") for name in ("placement", "placement_dit"))
        means_of_placements(
            left, unet, "UNet", ("attn2c", "attn2o"), "reads the cross-attention's\ncontext or output", 0.52
        )
        means_of_placements(right, transformer, "transformer", ("text_",), "in the text stream", 0.1)
        figure.supxlabel("CLIP-I, mean over 3 seeds with its 95 % interval", fontsize=9.5)
    return figure


def means_of_placements(
    ax: Axes, runs: pd.DataFrame, title: str, prefixes: tuple[str, ...], meaning: str, x: float
) -> None:
    """Placements from best to worst; those that begin with a prefix in another colour, whose meaning stands at x."""
    means = analysis.marginal_means(runs, "clip_i", "placement", block="seed").sort_values("mean")
    for y, (placement, row) in enumerate(means.iterrows()):
        colour = VERMILION if str(placement).startswith(prefixes) else BLUE
        ax.plot([row["low"], row["high"]], [y, y], color=colour, linewidth=1.8, solid_capstyle="round")
        ax.plot(row["mean"], y, marker="o", markersize=5.5, color=colour)
    floor(ax, runs)
    ax.set_yticks(range(len(means)), [str(placement) for placement in means.index], fontsize=8.5)
    ax.set_ylim(-0.6, len(means) - 0.4)
    ax.set_title(title, pad=16)
    ax.annotate(meaning, (x, 0.02), xycoords="axes fraction", fontsize=8.5, color=VERMILION)
    grid_along(ax, "x")


def what_matters(studies: Mapping[str, str], score: str, terms: Sequence[str]) -> Figure:
    """Omega squared of every term with its 90 % interval, for each study; filled where the term is found to matter."""
    with styled():
        figure = new_figure(7.4, 3.6)
        ax = figure.add_subplot()
        for i, (study, name) in enumerate(studies.items()):
            runs = analysis.load_results(RESULTS / f"{study}.csv")
            table = analysis.verdicts(runs, score, list(terms), "seed").loc[list(terms)]
            for y, (_, row) in enumerate(table.iterrows()):
                at = y + 0.22 * (i - (len(studies) - 1) / 2)
                ax.plot([row["omega2_low"], row["omega2_high"]], [at, at], color=CYCLE[i], linewidth=1.8)
                found = row["p_claim"] < 0.05
                ax.plot(row["omega2_partial"], at, "os"[i], color=CYCLE[i] if found else "white", markersize=6.5,
                        markeredgecolor=CYCLE[i], markeredgewidth=1.4, label=name if y == 0 else None)  # fmt: skip
        ax.set_yticks(range(len(terms)), [TERMS.get(term, term) for term in terms])
        ax.set_ylim(len(terms) - 0.4, -0.6)
        ax.set_xlim(-0.02, 1)
        ax.set_xlabel("omega squared, with its 90 % interval")
        ax.legend(loc="lower right")
        grid_along(ax, "x")
    return figure


def methods() -> Figure:
    """CLIP-I over prior drift of each method at its own rate: means with names, and single runs."""
    runs = analysis.load_results(RESULTS / "methods_tuned.csv")
    means = runs.groupby("method")[["clip_i", "prior_drift"]].mean()
    beside = {"oft": (False, True), "dora": (True, True), "lokr": (False, False)}  # (right, above); these are close
    with styled():
        figure = new_figure(6.2, 3.8)
        ax = figure.add_subplot()
        for i, (method, (y, x)) in enumerate(means.iterrows()):
            colour, some = CYCLE[i % len(CYCLE)], runs[runs["method"] == method]
            for run in some.itertuples():
                ax.plot([x, run.prior_drift], [y, run.clip_i], color=colour, linewidth=0.7, alpha=0.6)
            ax.plot(some["prior_drift"], some["clip_i"], ".", color=colour, markersize=4)
            ax.plot(x, y, "os"[i >= len(CYCLE)], color=colour, markersize=7)
            right, up = beside.get(str(method), (True, True))
            ax.annotate(str(method), (x, y), (6 if right else -6, 4 if up else -13), textcoords="offset points",
                        ha="left" if right else "right", fontsize=9)  # fmt: skip
        ax.set_xlabel("prior drift: how much of the subject is drawn when its class is asked for")
        ax.set_ylabel("CLIP-I")
        ax.grid()
    return figure


def levels_at_each_placement(study: str, factor: str, levels: Mapping[object, str]) -> Figure:
    """CLIP-I of each placement at each level of another factor: means as dots, single runs as small ticks."""
    runs = analysis.load_results(RESULTS / f"{study}.csv")
    means = runs.pivot_table(index="placement", columns=factor, values="clip_i")
    means = means.loc[means.mean(axis=1).sort_values().index]
    with styled():
        figure = new_figure(6.6, 1.3 + 0.24 * max(len(means), 4))
        ax = figure.add_subplot()
        for i, (level, name) in enumerate(levels.items()):
            some = runs[runs[factor] == level]
            rows = some["placement"].map({placement: y for y, placement in enumerate(means.index)})
            offset = 0.16 * (i - (len(levels) - 1) / 2)
            ax.plot(some["clip_i"], rows - offset, "|", color=CYCLE[i], markersize=5, alpha=0.6)
            ax.plot(
                means[level],
                [y - offset for y in range(len(means))],
                "os^"[i],
                color=CYCLE[i],
                markersize=6,
                label=name,
            )
        floor(ax, runs)
        ax.set_yticks(range(len(means)), means.index)
        ax.set_ylim(-0.6, len(means) - 0.4)
        ax.set_xlabel("CLIP-I: means over 3 seeds, and single runs")
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1, 1, 0), borderaxespad=1.6, ncols=len(levels))
        grid_along(ax, "x")
    return figure


def floor(ax: Axes, runs: pd.DataFrame) -> None:
    """Dashed lines at the scores of the untuned model and of real images."""
    for at, name in ((runs["clip_i_floor"].mean(), "untuned"), (runs["clip_i_ceiling"].mean(), "real images")):
        ax.axvline(at, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        ax.annotate(name, (at, 1), (0, 3), xycoords=("data", "axes fraction"), textcoords="offset points",
                    ha="center", fontsize=8.5, color=MUTED)  # fmt: skip


def samples(study: Path) -> Image.Image:
    """A picture of photos, the untuned model and some placements, each row with its name and CLIP-I."""
    runs = analysis.load_results(study)
    means = runs.groupby("placement")["clip_i"].mean().sort_values(ascending=False)
    first = runs[runs["seed"] == 0].set_index("placement")
    rows = [
        ("photos of the subject", "ceiling", float(runs["clip_i_ceiling"].mean()), images_in(PHOTOS)),
        (
            "untuned base model",
            "floor",
            float(runs["clip_i_floor"].mean()),
            images_in(study / "base" / "seed0" / "samples"),
        ),
    ]
    for rank in RANKS:
        placement = str(means.index[rank - 1])
        images = images_in(Path(str(first.at[placement, "path"])) / "samples")
        rows.append((placement, f"rank {rank} of 20", float(means.iloc[rank - 1]), images))
    return draw(rows)


def images_in(folder: Path) -> list[Image.Image]:
    """Its first images, which are of the subject; those of a run in the order of their noise."""
    return [Image.open(file).convert("RGB") for file in sorted(folder.glob("*.png"))[:8]]


def draw(rows: Sequence[tuple[str, str, float, Sequence[Image.Image]]]) -> Image.Image:
    """The picture of rows, each with a name, what it is, a score and images."""
    size = (LEFT + 8 * (CELL + GAP), TOP + len(rows) * (CELL + GAP) + TOP)
    picture = Image.new("RGB", size, "white")
    pen, large, small = ImageDraw.Draw(picture), ImageFont.truetype(FONT, 20), ImageFont.truetype(FONT, 16)
    for number, (name, what, score, images) in enumerate(rows):
        y = TOP + number * (CELL + GAP)
        pen.text((12, y + CELL // 2 - 14), name, "#1f2328", large, anchor="lm")
        pen.text((12, y + CELL // 2 + 14), f"CLIP-I {score:.2f}, {what}", "#59626c", small, anchor="lm")
        for column, image in enumerate(images):
            picture.paste(image.resize((CELL, CELL), Image.Resampling.BICUBIC), (LEFT + column * (CELL + GAP), y))
    return picture


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
