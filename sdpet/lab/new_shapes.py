"""Shapes that the lab's base models have never seen, as a captioned set for fine-tuning: `data=shapes`.

Colours and backgrounds are those of the lab's world, which the base models can draw and name. The shapes, and the words
for them, are new. So a tuned model has to learn one thing, and a classifier can say whether it did.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from PIL import Image

from sdpet.files.images import square
from sdpet.lab.captions import Caption
from sdpet.lab.drawing import polygon_distance, render
from sdpet.lab.world import SIZE, Scenes, sample_scenes

IMAGES, HELD_OUT = 1200, 600  # numbers of pictures for training and for scoring
SEEDS = {"training": 501, "heldout": 502}  # of the scenes; no stage of the base models' training uses them


def _arcs(*arcs: tuple[float, float, float, float, float, int]) -> np.ndarray:
    """Corners on arcs, (corners, 2); an arc is its centre x and y, radius, first and last angle in degrees, corners."""
    found = []
    for x, y, radius, first, last, corners in arcs:
        angles = np.deg2rad(np.linspace(first, last, corners))
        found.append(np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1))
    return np.concatenate(found)


# Corners in the unit circle, y down, by name. The lab's tokenizer has no word for these names and spells them.
OUTLINES: dict[str, np.ndarray] = {
    "arrow": np.array([(0, -1), (0.8, -0.1), (0.3, -0.1), (0.3, 0.95), (-0.3, 0.95), (-0.3, -0.1), (-0.8, -0.1)]),
    "crown": np.array([(-0.9, 0.7), (-0.9, -0.7), (-0.4, -0.05), (0, -0.9), (0.4, -0.05), (0.9, -0.7), (0.9, 0.7)]),
    "heart": np.concatenate([_arcs((-0.45, -0.3, 0.5, 150, 318, 9), (0.45, -0.3, 0.5, 222, 390, 9)), [(0, 0.95)]]),
    "moon": _arcs((0, 0, 0.98, 50, 310, 17), (0.45, 0, 0.77, 257, 103, 11)),
}
NAMES = tuple(OUTLINES)
DISTANCES = [partial(polygon_distance, corners=corners) for corners in OUTLINES.values()]


class NewShapes:
    """Pictures of new shapes in one colour on a plain background, with captions; see `CaptionedSource`."""

    def training(self, size: int) -> tuple[np.ndarray, list[str]]:
        """Training images uint8 (N, size, size, 3), and captions like "a photo of a red heart on a gray background"."""
        return draw(new_scenes(IMAGES, SEEDS["training"]), size)

    def heldout(self, size: int) -> tuple[np.ndarray, list[str]]:
        """Images and captions that runs are scored on, in the same format."""
        return draw(new_scenes(HELD_OUT, SEEDS["heldout"]), size)


def new_scenes(n: int, seed: int) -> Scenes:
    """Scenes with new shapes in named colours: each shape equally often, in random order.

    Parameters
    ----------
    n : int
        Number of scenes.
    seed : int
        Equal seeds give equal scenes.

    Returns
    -------
    Scenes
        `shape` counts NAMES.
    """
    scenes = sample_scenes(n, seed, two=0, outline=0, unnamed=0)
    scenes.shape = np.random.default_rng((seed, 1)).permutation(np.resize(np.arange(len(NAMES)), n))
    return scenes


def draw(scenes: Scenes, size: int = SIZE) -> tuple[np.ndarray, list[str]]:
    """Draw scenes with new shapes.

    Parameters
    ----------
    scenes : Scenes
        N scenes from `new_scenes`.
    size : int
        Side of the images in pixels.

    Returns
    -------
    (ndarray of uint8 (N, size, size, 3), list of N str)
        Images and their captions.
    """
    images = render(scenes, DISTANCES)
    if size != SIZE:
        images = np.stack([square(Image.fromarray(image), size) for image in images])
    rows = zip(scenes.shape, scenes.color, scenes.background, strict=True)
    return images, [Caption(int(s), int(c), int(c), int(b)).text(names=NAMES) for s, c, b in rows]
