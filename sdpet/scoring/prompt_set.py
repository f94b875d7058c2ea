"""A set of prompts with reference images, scored like a task that nothing is trained on."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdpet.files.hashing import hash_images
from sdpet.scoring.measures import DIVERSITY, NOT_SIMILARITY, Measure, of_set, of_subject, score
from sdpet.scoring.plan import EvalPlan, Shot
from sdpet.scoring.scorers import CLIP, Scorers


class PromptSet:
    """prompts: may be empty, then nothing that needs text is measured; references uint8 (N, H, W, 3)."""

    name = "prompts"

    def __init__(self, prompts: Sequence[str], references: np.ndarray):
        self.prompts, self.references = list(prompts), references

    def shots(self, plan: EvalPlan) -> list[Shot]:
        """plan.images prompts, in turn."""
        return [Shot(p, "prompt", p) for p in itertools.islice(itertools.cycle(self.prompts), plan.images)]

    def measures(self, scorers: Scorers, plan: EvalPlan) -> list[Measure]:
        """All there are: likeness to the references, distances from them, fidelity to the prompts, diversity."""
        names = [CLIP, *(name for name in scorers if name not in NOT_SIMILARITY), DIVERSITY]
        likeness = [m for m in of_subject(scorers) if m.scorer in names and m.roles == ("subject",)]
        on_prompts = [Measure(m.metrics, m.scorer, ("prompt",), m.against, m.compute, m.raw) for m in likeness]
        found = [*on_prompts, *of_set(scorers, plan)]
        return [m for m in found if self.prompts or (m.against == "references")]

    def scores(self, images: np.ndarray, shots: Sequence[Shot], scorers: Scorers, plan: EvalPlan) -> dict[str, float]:
        return score(self.measures(scorers, plan), images, shots, self.references, scorers)

    def reference_protocol(self) -> dict[str, Any]:
        """What identifies the references."""
        return {
            "references": "reference images",
            "reference_count": len(self.references),
            "reference_hash": hash_images(self.references),
            "reference_vae": None,
        }


def read_prompts(source: str | Path) -> list[str]:
    """Prompts of a text file, one a line, or of a folder that `datasets` saved (column text, caption or prompt)."""
    path = Path(source).expanduser()
    if path.is_file():
        prompts = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if not prompts:
            raise ValueError(f"the prompt file {path} holds no prompt; expected is one a line.")
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
    column = next((name for name in ("text", "caption", "prompt") if name in stored.column_names), None)
    if column is None:
        raise ValueError(f"{path} has no column text, caption or prompt, but {', '.join(stored.column_names)}.")
    return [str(text[0] if isinstance(text, list) else text) for text in stored[column]]


def read_set(folder: str | Path, what: str, size: int | None = None) -> tuple[np.ndarray, list[Path]]:
    """All images of a folder, in the order of their names: uint8 (N, H, W, 3).

    size: cropped and resized (bicubic, antialiased) to this side; None takes them as they are. ValueError (one
    sentence) for no folder, no image, an unreadable one, or several sizes without `size`.
    """
    from PIL import Image

    from sdpet.files.images import list_images, square

    files = list_images(folder, what)
    images: list[np.ndarray] = []
    for file in files:
        try:
            with Image.open(file) as image:
                images.append(np.asarray(image.convert("RGB")) if size is None else square(image, size))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(
                f"{file} cannot be read as an image ({type(error).__name__}); mend or remove it."
            ) from None
        if images[-1].shape != images[0].shape:
            first, other = ("x".join(map(str, shape.shape[1::-1])) for shape in (images[0], images[-1]))
            raise ValueError(
                f"the {what} folder {folder} holds images of several sizes, {first} ({files[0].name}) and {other} "
                f"({file.name}); give size=SIDE to crop and resize them."
            )
    return np.stack(images), files
