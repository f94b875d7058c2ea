"""A set of prompts with reference images, scored like a task, but nothing is trained on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdpet.choices import CAPTION_KEYS
from sdpet.files.folders import caption_of, natural_order, read_words
from sdpet.files.hashing import hash_images
from sdpet.scoring.measures import DIVERSITY, NOT_SIMILARITY, Measure, personalisation_measures, score, set_measures
from sdpet.scoring.plan import EvalImage, EvalPlan
from sdpet.scoring.scorers import CLIP, Scorer, Scorers
from sdpet.scoring.spread import part


class PromptSet:
    """Prompts and reference images as an `EvalTask`.

    Parameters
    ----------
    prompts : sequence of str
        Prompts, or texts of images; if it is empty, nothing that needs text is measured.
    references : ndarray of uint8, (N, H, W, 3)
        Reference images.
    personal : bool
        Whether the images are of a personalised model and have its roles: images of the subject are compared with the
        references, those of its class give the drift.
    """

    name = "prompts"

    def __init__(self, prompts: Sequence[str], references: np.ndarray, personal: bool = False):
        self.prompts, self.references, self.personal = list(prompts), references, personal

    def eval_images(self, plan: EvalPlan) -> list[EvalImage]:
        """plan.images of the prompts, a random part of the whole set (see `part`); see `EvalTask.eval_images`."""
        return [EvalImage(self.prompts[i], "prompt", self.prompts[i]) for i in part(self.prompts, plan.images)]

    def measures(self, scorers: Scorers, plan: EvalPlan) -> list[Measure]:
        """All measures: similarity to the references, distances from them, fidelity to the prompts, diversity.

        Those of personalisation where the images have its roles. See `EvalTask.measures`.
        """
        if self.personal:
            return personalisation_measures(scorers)
        names = [CLIP, *(name for name in scorers if name not in NOT_SIMILARITY), DIVERSITY]
        likeness = [m for m in personalisation_measures(scorers) if m.scorer in names and m.roles == ("subject",)]
        on_prompts = [Measure(m.metrics, m.scorer, ("prompt",), m.against, m.compute, m.raw) for m in likeness]
        found = [*on_prompts, *set_measures(scorers, plan)]
        return [m for m in found if self.prompts or (m.against == "references")]

    def scores(
        self,
        images: np.ndarray,
        eval_images: Sequence[EvalImage],
        scorer: Scorer | Scorers,
        plan: EvalPlan | None = None,
    ) -> dict[str, float]:
        """All metrics of `measures`; see `EvalTask.scores`."""
        scorers = Scorers.of(scorer)
        return score(self.measures(scorers, plan or EvalPlan()), images, eval_images, self.references, scorers)

    def ceiling(self, scorer: Scorer | Scorers, plan: EvalPlan) -> dict[str, float]:
        """Empty, since a set of prompts has no real images besides the references."""
        return {}

    def ceiling_hash(self, plan: EvalPlan) -> str | None:
        """None, as `ceiling` uses no images."""
        return None

    def reference_protocol(self) -> dict[str, Any]:
        """Identify the references; see `EvalTask.reference_protocol`."""
        return {
            "references": "reference images",
            "reference_count": len(self.references),
            "reference_hash": hash_images(self.references),
            "reference_vae": None,
        }


def read_prompts(source: str | Path) -> list[str]:
    """Read prompts from a text file or from a data set on disk.

    Parameters
    ----------
    source : path
        A text file with one prompt a line, or a folder that `datasets` saved, with a column text, caption or prompt. Of
        a set with several splits, the first one is read.

    Returns
    -------
    list of str

    Raises
    ------
    ValueError
        One sentence: nothing is there, it cannot be read, it contains no prompts, or it has no such column.
    """
    path = Path(source).expanduser()
    if path.is_file():
        prompts = [line.strip() for line in read_words(path).splitlines() if line.strip()]
        if not prompts:
            raise ValueError(f"the prompt file {path} contains no prompt; write one prompt a line.")
        return prompts
    if not path.is_dir():
        raise ValueError(f"the prompts {path} do not exist; give a text file with one prompt a line, or a dataset.")
    try:
        from datasets import load_from_disk

        stored = load_from_disk(str(path))
    except ImportError:
        raise ValueError("prompts from a dataset need the package datasets: pip install datasets.") from None
    except Exception as error:
        raise ValueError(f"{path} is not a folder that datasets saved ({type(error).__name__}).") from None
    if hasattr(stored, "keys"):
        stored = stored[next(iter(stored.keys()))]  # of several splits the first
    column = next((name for name in CAPTION_KEYS if name in stored.column_names), None)
    if column is None:
        raise ValueError(f"{path} has no column {', '.join(CAPTION_KEYS)}, but {', '.join(stored.column_names)}.")
    try:
        found = [caption_of(text) for text in stored[column]]
    except TypeError as error:
        raise ValueError(f"the column {column} of {path} cannot be used: {error}.") from None
    if None in found:
        raise ValueError(f"row {found.index(None)} of {path} has no prompt in the column {column}; fill or remove it.")
    return [text for text in found if text is not None]


def read_set(folder: str | Path, what: str, size: int | None = None) -> tuple[np.ndarray, list[Path]]:
    """Read all images of a folder, in the order of their names; numbers count as numbers, so 2.png is before 10.png.

    Parameters
    ----------
    folder : path
        The folder.
    what : str
        What messages call it, such as "reference".
    size : int, optional
        Side in pixels to which images are cropped and resized (bicubic, antialiased); None leaves them as they are.

    Returns
    -------
    (ndarray of uint8 (N, H, W, 3), list of N Path)
        The images and their files.

    Raises
    ------
    ValueError
        One sentence: no folder, no image, an unreadable one, or several sizes where `size` is None.
    """
    from sdpet.files.images import UNREADABLE, list_images, read_image

    files = sorted(list_images(folder, what), key=natural_order)
    images: list[np.ndarray] = []
    for file in files:
        try:
            images.append(read_image(file, size))
        except UNREADABLE as error:
            raise ValueError(
                f"{file} cannot be read as an image ({type(error).__name__}); repair or remove it."
            ) from None
        if images[-1].shape != images[0].shape:
            first, other = ("x".join(map(str, shape.shape[1::-1])) for shape in (images[0], images[-1]))
            raise ValueError(
                f"the {what} folder {folder} holds images of several sizes, {first} ({files[0].name}) and {other} "
                f"({file.name}); give size=SIDE to crop and resize them."
            )
    return np.stack(images), files
