"""Sample images for the report: a strip a design, every column drawn from the same noise."""

from __future__ import annotations

import base64
import io
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from sdpet.files.images import UNREADABLE
from sdpet.files.received import inside, read_json_lines

BUDGET = 2_400_000  # bytes of all sample images in one report, so that the page stays well under 5 MB
COLUMNS = 8
MANY = 60  # designs beyond which there are half as many columns
TINY = 64  # pixels a side of images that lose nothing on the page, such as those of the lab


@dataclass(frozen=True)
class Strip:
    """One row of a grid: its label, a note such as its score, and one data URI an image (None where one is missing).

    scores: the design's mean in each score of the grid, NaN where it has none.
    """

    label: str
    note: str
    images: tuple[str | None, ...]
    kind: str = "design"
    scores: tuple[float, ...] = ()


@dataclass(frozen=True)
class Grid:
    """Strips under common column heads; a head is its text and the number of columns below it.

    scores: names of those that rows can be sorted by, and whether the larger one is better (None: neither). columns:
    what each column was drawn from, in a few words.
    """

    name: str
    caption: str
    heads: tuple[tuple[str, int], ...]
    strips: tuple[Strip, ...]
    scores: tuple[tuple[str, bool | None], ...] = ()
    columns: tuple[str, ...] = ()

    def only(self, name: str, rows: int, columns: int, caption: str) -> Grid:
        """The rows above the designs and the first designs, in the first columns."""
        above = [strip for strip in self.strips if strip.kind != "design"]
        first = [strip for strip in self.strips if strip.kind == "design"][:rows]
        if self.is_ragged(rows, columns):  # each strip with the first images that it has
            filled = [[image for image in strip.images if image] for strip in (*above, *first)]
            images = [tuple([*some, *[None] * columns][:columns]) for some in filled]
        else:
            images = [strip.images[:columns] for strip in (*above, *first)]
        strips = tuple(replace(s, images=shown) for s, shown in zip((*above, *first), images, strict=True))
        return Grid(name, caption, (), strips, (), () if self.is_ragged(rows, columns) else self.columns[:columns])

    def is_ragged(self, rows: int, columns: int) -> bool:
        """Whether some of the first designs have images, but not in the first columns: they were run on other seeds."""
        first = [strip.images for strip in self.strips if strip.kind == "design"][:rows]
        return any(None in images[:columns] and any(images[columns:]) for images in first)


# What an image was drawn from: (the run's seed, the seed of its noise, prompt). Equal keys share the noise.
Key = tuple[object, object, str]


def sample_index(folder: Path, run_seed: object, role: str) -> dict[Key, Path]:
    """The images of a run that lie in `folder` in that role, by what they were drawn from; empty where none are."""
    index = folder / "index.jsonl"
    found: dict[Key, Path] = {}
    try:
        rows = list(read_json_lines(index))
    except (OSError, ValueError):
        return found
    for _, entry in rows:
        if not isinstance(entry, dict) or not isinstance(entry.get("seed"), int | float | str | None):
            continue  # a line cut short when the run was stopped, or none that sdpet writes
        try:
            file = inside(folder, entry.get("file"), index)
        except ValueError:
            continue  # a picture outside the study's folder belongs to no page
        if entry.get("role", "subject") == role and file.is_file():
            found[run_seed, entry.get("seed"), str(entry.get("prompt", ""))] = file
    return found


def shared_columns(indexes: Sequence[dict[Key, Path]], count: int = COLUMNS) -> list[Key]:
    """Up to `count` keys that most runs have, taken evenly over the runs' seeds."""
    times = Counter(key for index in indexes for key in index)
    order = {key: i for i, key in enumerate(key for index in indexes for key in index)}
    by_seed: dict[object, list[Key]] = {}
    for key in sorted(times, key=lambda k: (-times[k], order[k])):
        by_seed.setdefault(key[0], []).append(key)
    seeds = sorted(by_seed, key=str)
    chosen: list[Key] = []
    while len(chosen) < count and any(by_seed.values()):
        for seed in seeds:
            if by_seed[seed] and len(chosen) < count:
                chosen.append(by_seed[seed].pop(0))
    return sorted(chosen, key=lambda k: (str(k[0]), order[k]))


def data_uri(file: Path, side: int) -> str | None:
    """The image as a data URI, at most `side` pixels wide and high; None where it cannot be read, or is huge."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                picture = image.convert("RGB")
    except (*UNREADABLE, Image.DecompressionBombWarning):
        return None
    tiny = max(picture.size) <= min(side, TINY)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if tiny:  # as it is: every pixel of it can be seen, enlarged
        picture.save(buffer, "WEBP", lossless=True, quality=80)
    else:
        picture.save(buffer, "WEBP", quality=82)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def columns_for(designs: int) -> int:
    """Columns of a wall of so many designs."""
    return COLUMNS if designs <= MANY else COLUMNS // 2


def side_for(images: int) -> int:
    """Pixels a side so that `images` pictures stay within BUDGET (about a third of a byte a pixel in WebP)."""
    for side in (192, 160, 128, 96, 64):
        if images * side * side * 0.45 <= BUDGET:
            return side
    return 48


def make_grid(
    name: str,
    caption: str,
    rows: Sequence[tuple[str, str, dict[Key, Path]]],
    columns: Sequence[Key],
    heads: Sequence[tuple[str, int]],
    first: Sequence[Strip] = (),
    scores: Sequence[tuple[str, bool | None]] = (),
    values: Sequence[tuple[float, ...]] = (),
) -> Grid:
    """rows: (label, note, index of the design's images); `first`: strips above them, such as the references.

    scores, values: what rows can be sorted by, and for each row its values.
    """
    side = side_for(len(columns) * (len(rows) + len(first)))
    strips = [
        Strip(label, note, tuple(data_uri(index[key], side) if key in index else None for key in columns),
              scores=values[i] if values else ())
        for i, (label, note, index) in enumerate(rows)
    ]  # fmt: skip
    texts = tuple(f"“{prompt}”, seed {seed}, noise {noise}" for seed, noise, prompt in columns)
    return Grid(name, caption, tuple(heads), (*first, *strips), tuple(scores), texts)


def save_grid(grid: Grid, folder: Path, cell: int = 96) -> Path:
    """The grid as one PNG without labels, for slides and papers; rows and columns as in the report."""
    columns = max(len(strip.images) for strip in grid.strips)
    sheet = Image.new("RGB", (columns * (cell + 4) + 4, len(grid.strips) * (cell + 4) + 4), (128, 128, 128))
    for y, strip in enumerate(grid.strips):
        for x, uri in enumerate(strip.images):
            if uri is None:
                continue
            with Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))) as image:
                tile = image.convert("RGB").resize((cell, cell), Image.Resampling.BICUBIC)
            sheet.paste(tile, (4 + x * (cell + 4), 4 + y * (cell + 4)))
    folder.mkdir(parents=True, exist_ok=True)
    sheet.save(folder / f"{grid.name}.png")
    return folder / f"{grid.name}.png"
