"""What a finished run is asked to draw."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from sdpet.seeds import derive


@dataclass(frozen=True)
class Shot:
    """One image to draw: prompt, role ("subject", "prompt" or "class") and the text it is scored against."""

    prompt: str
    role: str
    text: str


@dataclass(frozen=True)
class EvalPlan:
    """How many images of which prompts are drawn and scored.

    subject_images, class_images: samples of the subject's and the class's prompt (DreamBooth).
    prompts: templates for prompt fidelity, "{prompt}" stands for the subject's prompt; prompt_images of each.
    images: samples of captions (fine-tuning).
    eval_seed: None draws evaluation noise per run seed, shared by all designs of that seed, so that the seed is a
        block; a number draws the same noise for all seeds.
    chunk: images denoised together; it does not change them.
    """

    subject_images: int = 16
    class_images: int = 8
    prompts: tuple[str, ...] = (
        "{prompt} on a brown background",
        "{prompt} on a black background",
        "{prompt} on a gray background",
        "{prompt} on a pink background",
    )
    prompt_images: int = 2
    images: int = 500
    eval_seed: int | None = None
    chunk: int = 32

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompts", tuple(self.prompts))  # Hydra gives a list
        for name in ("subject_images", "class_images", "prompt_images", "images", "chunk"):
            least = 0 if name in ("class_images", "prompt_images") else 1
            if not isinstance(getattr(self, name), int) or getattr(self, name) < least:
                raise ValueError(
                    f"eval.{name} must be a whole number of at least {least}, not {getattr(self, name)!r}."
                )
        for template in self.prompts:
            if "{prompt}" not in template:
                raise ValueError(
                    f"the evaluation prompt {template!r} lacks {{prompt}}, where the subject's prompt goes."
                )


def image_seeds(shots: list[Shot], seed: int) -> list[int]:
    """One noise seed an image, from the evaluation seed and the image's place in its role."""
    counts: dict[str, int] = {}
    seeds = []
    for shot in shots:
        counts[shot.role] = counts.get(shot.role, 0) + 1
        seeds.append(derive(seed, "eval", shot.role, counts[shot.role]))
    return seeds


def hash_images(images: np.ndarray) -> str:
    """Hex hash of images' 8-bit content and shape."""
    digest = hashlib.blake2b(str(images.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(images, dtype=np.uint8).tobytes())
    return digest.hexdigest()


def hash_text(text: str) -> str:
    """Hex hash of a text."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
