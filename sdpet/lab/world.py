"""The lab's world: captioned 32 x 32 images of one object on a plain background, drawn from a seed.

A scene is a row of numbers, so a thousand scenes are arrays and are rendered together. The world has names for six
shapes, six object colours and six background colours. Some objects have two halves of different colours, some have an
outline, and some have colours without a name, which captions leave out. So the base model can draw any colour, but has
words for six.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

SIZE = 32  # pixels, height and width
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (230, 25, 25),
    "green": (20, 160, 40),
    "blue": (20, 50, 230),
    "yellow": (250, 225, 20),
    "purple": (150, 20, 200),
    "cyan": (20, 205, 225),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "white": (245, 245, 245),
    "black": (12, 12, 16),
    "gray": (128, 128, 128),
    "orange": (255, 140, 20),
    "brown": (105, 60, 28),
    "pink": (255, 165, 205),
}
UNNAMED = -1  # code of a colour without a name

# The novel subject: its colours have no name in this world, so no caption of a training scene describes it.
SUBJECT_SHAPE, SUBJECT_LEFT, SUBJECT_RIGHT = "star", (255, 40, 150), (0, 150, 140)
SUBJECT_PROMPT, CLASS_PROMPT = "a photo of a sks star", "a photo of a star"


@dataclass
class Scenes:
    """N scenes. Every field is an array whose first axis has length N.

    Parameters
    ----------
    shape, background : ndarray of int, (N,)
        Codes: positions in SHAPES and BACKGROUNDS.
    color, color2 : ndarray of int, (N,)
        Codes of the left and the right half's colour, positions in COLORS. They are equal for one colour; UNNAMED is a
        colour without a name.
    rgb, rgb2, rgb_background : ndarray of float, (N, 3)
        The colours, 0 to 255.
    outlined : ndarray of bool, (N,)
        Whether the object has an outline.
    x, y, radius : ndarray of float, (N,)
        Place and size in pixels.
    angle : ndarray of float, (N,)
        Rotation in radians.
    """

    shape: np.ndarray
    color: np.ndarray
    color2: np.ndarray
    background: np.ndarray
    rgb: np.ndarray
    rgb2: np.ndarray
    rgb_background: np.ndarray
    outlined: np.ndarray
    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray
    angle: np.ndarray

    def __len__(self) -> int:
        return len(self.shape)

    def __getitem__(self, index) -> Scenes:
        return Scenes(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def copy(self) -> Scenes:
        """An independent copy."""
        return Scenes(**{f.name: getattr(self, f.name).copy() for f in fields(self)})


def _jitter(rng: np.random.Generator, rgb: np.ndarray, amount: float) -> np.ndarray:
    return np.clip(rgb + rng.normal(0.0, amount, rgb.shape), 0, 255)


def _vivid(rng: np.random.Generator, n: int) -> np.ndarray:
    """Saturated colours of uniform hue, (n, 3): the hexagon of HSV with value and saturation near 1."""
    hue = rng.uniform(0, 6, n)
    ramp = np.stack([np.abs(hue - 3) - 1, 2 - np.abs(hue - 2), 2 - np.abs(hue - 4)], axis=1).clip(0, 1)
    value, saturation = rng.uniform(140, 255, (n, 1)), rng.uniform(0.75, 1.0, (n, 1))
    return value * (1 - saturation * (1 - ramp))


def sample_scenes(n: int, seed: int, *, two: float = 0.25, outline: float = 0.18, unnamed: float = 0.15) -> Scenes:
    """Draw random scenes.

    Parameters
    ----------
    n : int
        Number of scenes.
    seed : int
        Equal seeds give equal scenes.
    two, outline, unnamed : float
        Shares of scenes with two halves of different colours, with an outline, and with colours without a name.

    Returns
    -------
    Scenes
    """
    rng = np.random.default_rng(seed)
    palette, grounds = np.array(list(COLORS.values()), float), np.array(list(BACKGROUNDS.values()), float)
    color = rng.integers(len(COLORS), size=n)
    other = (color + rng.integers(1, len(COLORS), size=n)) % len(COLORS)
    halves = rng.random(n) < two
    color2 = np.where(halves, other, color)
    rgb, rgb2 = _jitter(rng, palette[color], 8), _jitter(rng, palette[color2], 8)
    nameless = rng.random(n) < unnamed
    rgb = np.where(nameless[:, None], _vivid(rng, n), rgb)
    rgb2 = np.where((nameless & halves)[:, None], _vivid(rng, n), rgb2)
    rgb2 = np.where(halves[:, None], rgb2, rgb)
    color, color2 = np.where(nameless, UNNAMED, color), np.where(nameless, UNNAMED, color2)
    outlined = rng.random(n) < outline
    background = rng.integers(len(BACKGROUNDS), size=n)
    # A white outline is invisible on white, so such scenes get another background.
    background = np.where(outlined & (background == 0), rng.integers(1, len(BACKGROUNDS), size=n), background)
    return Scenes(
        shape=rng.integers(len(SHAPES), size=n),
        color=color,
        color2=color2,
        background=background,
        rgb=rgb,
        rgb2=rgb2,
        rgb_background=_jitter(rng, grounds[background], 5),
        outlined=outlined,
        **_pose(rng, n),
    )


def _pose(rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
    return {
        "x": SIZE / 2 + rng.uniform(-1.5, 1.5, n),
        "y": SIZE / 2 + rng.uniform(-1.5, 1.5, n),
        "radius": rng.uniform(8.5, 12.0, n),
        "angle": rng.normal(0.0, 0.08, n),
    }


def subject_scenes(
    n: int,
    seed: int,
    shape: str = SUBJECT_SHAPE,
    left: tuple[int, int, int] = SUBJECT_LEFT,
    right: tuple[int, int, int] = SUBJECT_RIGHT,
) -> Scenes:
    """Views of a novel subject, on backgrounds that have names.

    The lab's own subject is an outlined star, its left half hot pink and its right half teal.

    Parameters
    ----------
    n : int
        Number of views.
    seed : int
        Equal seeds give equal views.
    shape : str
        One of SHAPES.
    left, right : tuple of int
        Colours of the halves (red, green, blue), 0 to 255.

    Returns
    -------
    Scenes
    """
    rng = np.random.default_rng(seed)
    scenes = sample_scenes(n, seed)
    background = rng.permutation(np.resize(np.arange(1, len(BACKGROUNDS)), n))  # every background except white, in turn
    grounds = np.array(list(BACKGROUNDS.values()), float)
    scenes.shape = np.full(n, SHAPES.index(shape))
    scenes.color = scenes.color2 = np.full(n, UNNAMED)
    scenes.rgb = _jitter(rng, np.tile(np.array(left, float), (n, 1)), 4)
    scenes.rgb2 = _jitter(rng, np.tile(np.array(right, float), (n, 1)), 4)
    scenes.outlined = np.ones(n, bool)
    scenes.background, scenes.rgb_background = background, _jitter(rng, grounds[background], 5)
    return scenes


def repose(scenes: Scenes, seed: int) -> Scenes:
    """The same objects at another place, with another size, angle and background.

    Parameters
    ----------
    scenes : Scenes
        The objects; they are not changed.
    seed : int
        Equal seeds give equal scenes.

    Returns
    -------
    Scenes
    """
    rng = np.random.default_rng(seed)
    again, n = scenes.copy(), len(scenes)
    for name, value in _pose(rng, n).items():
        setattr(again, name, value)
    grounds = np.array(list(BACKGROUNDS.values()), float)
    low = np.where(scenes.outlined, 1, 0)
    again.background = rng.integers(low, len(BACKGROUNDS), size=n)
    again.rgb_background = _jitter(rng, grounds[again.background], 5)
    return again
