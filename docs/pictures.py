"""Draws the README's picture of samples: `python docs/pictures.py outputs/placement` writes docs/images/samples.png.

The study is the one that `make study` makes. Its heatmap is `report/figures/heatmap.png` of the report.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

import analysis
import sdpet

PHOTOS = Path(sdpet.__file__).parent / "lab" / "data" / "subject"
IMAGES = Path(__file__).parent / "images"
CELL, GAP, LEFT, TOP = 96, 6, 250, 10  # px
RANKS = (1, 2, 3, 8, 14, 20)  # of the 20 placements, best first
FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


def main(study: Path) -> None:
    """Write the picture: photos, the untuned model and some placements, each row with its name and CLIP-I."""
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
    draw(rows).save(IMAGES / "samples.png", optimize=True)


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
    main(Path(sys.argv[1]))
