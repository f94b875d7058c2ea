"""Captions of the lab's scenes, in full or with attributes left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sdpet.lab.world import BACKGROUNDS, COLORS, SHAPES, Scenes

TEMPLATES = ("a photo of {}", "a picture of {}", "an image of {}", "{}")
UNSAID = -2  # code in a caption of an attribute that it leaves open


def article(word: str) -> str:
    """The indefinite article of a word.

    Parameters
    ----------
    word : str
        A word in lower case.

    Returns
    -------
    {"a", "an"}
    """
    return "an" if word[0] in "aeiou" else "a"


@dataclass(frozen=True)
class Caption:
    """What a caption states, in the codes of `Scenes`. UNSAID means that it leaves an attribute open.

    Parameters
    ----------
    shape, color, color2, background : int
        Codes as in `Scenes`, or UNSAID.
    outlined : int
        1 or UNSAID.
    """

    shape: int
    color: int = UNSAID
    color2: int = UNSAID
    background: int = UNSAID
    outlined: int = UNSAID

    def text(self, template: str = TEMPLATES[0], names: Sequence[str] = SHAPES) -> str:
        """The caption in words.

        Parameters
        ----------
        template : str
            One of TEMPLATES.
        names : sequence of str
            Names of the shapes, by their codes.

        Returns
        -------
        str
        """
        words = ["outlined"] if self.outlined == 1 else []
        if self.color >= 0:
            colors = list(COLORS)
            one, two = colors[self.color], colors[self.color2]
            words.append(one if one == two else f"{one} and {two}")
        words.append(names[self.shape])
        said = f"{article(words[0])} {' '.join(words)}"
        if self.background >= 0:
            ground = list(BACKGROUNDS)[self.background]
            said += f" on {article(ground)} {ground} background"
        return template.format(said)


def describe(scenes: Scenes, index: int, rng: np.random.Generator | None = None) -> Caption:
    """The caption of one scene, as codes.

    Parameters
    ----------
    scenes : Scenes
        The scenes.
    index : int
        Number of the scene.
    rng : Generator, optional
        Leaves out some attributes at random; None leaves out none that has a name.

    Returns
    -------
    Caption
    """

    def said(value: int, left_out: float) -> int:
        return UNSAID if rng is not None and rng.random() < left_out else int(value)

    color = said(scenes.color[index], 0.1)
    return Caption(
        shape=int(scenes.shape[index]),
        color=color if color >= 0 else UNSAID,
        color2=int(scenes.color2[index]) if color >= 0 else UNSAID,
        background=said(scenes.background[index], 0.15),
        outlined=said(1, 0.1) if scenes.outlined[index] else UNSAID,
    )


def caption(scenes: Scenes, index: int, rng: np.random.Generator | None = None) -> str:
    """The caption of one scene, in words.

    Parameters
    ----------
    scenes, index
        As for `describe`.
    rng : Generator, optional
        Draws a template and leaves out some attributes; None gives the full caption in the first template.

    Returns
    -------
    str
    """
    template = TEMPLATES[0] if rng is None else TEMPLATES[rng.choice(4, p=(0.7, 0.1, 0.1, 0.1))]
    return describe(scenes, index, rng).text(template)
