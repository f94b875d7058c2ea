"""What a finished run is asked to draw."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sdpet.choices import DISTANCES, PLACES, SUITES
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
    prompts: templates for prompt fidelity, or the name of a suite of them (SUITES); "{prompt}" stands for the subject's
        prompt, "{subject}" for the part of it that begins with the subject's token; prompt_images of each.
    images: samples of captions (fine-tuning).
    distances: of the set of samples from the references (fine-tuning), some of DISTANCES.
    noise_images: class images on which the change of predicted noise is measured (DreamBooth); 0 does not.
    eval_seed: None draws evaluation noise per run seed, shared by all designs of that seed, so that the seed is a
        block; a number draws the same noise for all seeds.
    chunk: images denoised together; it does not change them.
    """

    subject_images: int = 16
    class_images: int = 8
    prompts: tuple[str, ...] | str = (
        "{prompt} on a brown background",
        "{prompt} on a black background",
        "{prompt} on a gray background",
        "{prompt} on a pink background",
    )
    prompt_images: int = 2
    images: int = 500
    distances: tuple[str, ...] = ("fid",)
    noise_images: int = 8
    eval_seed: int | None = None
    chunk: int = 32

    def __post_init__(self) -> None:
        prompts = read_suite(self.prompts) if isinstance(self.prompts, str) else self.prompts
        object.__setattr__(self, "prompts", tuple(prompts))  # Hydra gives a list
        object.__setattr__(self, "distances", tuple(self.distances))
        for name in ("subject_images", "class_images", "prompt_images", "images", "noise_images", "chunk"):
            least = 0 if name in ("class_images", "prompt_images", "noise_images") else 1
            if not isinstance(getattr(self, name), int) or getattr(self, name) < least:
                raise ValueError(
                    f"eval.{name} must be a whole number of at least {least}, not {getattr(self, name)!r}."
                )
        for template in self.prompts:
            if not any(place in template for place in PLACES):
                raise ValueError(
                    f"the evaluation prompt {template!r} lacks {{prompt}}, where the subject's prompt goes "
                    "(or {subject}, for its token and noun alone)."
                )
        unknown = [name for name in self.distances if name not in DISTANCES]
        if unknown:
            raise ValueError(f"eval.distances knows no {unknown[0]!r}; choose from {', '.join(DISTANCES)}.")


def fill(template: str, prompt: str, token: str) -> str:
    """The template about a subject: "{prompt}" is "a photo of a sks dog", "{subject}" "sks dog"."""
    words = prompt.split()
    return template.replace("{prompt}", prompt).replace("{subject}", " ".join(words[words.index(token) :]))


def read_suite(name: str) -> list[str]:
    """The templates of a suite, one a line of its file. ValueError names the suites."""
    if name not in SUITES:
        raise ValueError(
            f"eval.prompts {name!r} is no suite; choose {' or '.join(SUITES)}, or give a list of templates."
        )
    lines = (Path(__file__).parent / "suites" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def image_seeds(shots: list[Shot], seed: int) -> list[int]:
    """One noise seed an image, from the evaluation seed and the image's place in its role."""
    counts: dict[str, int] = {}
    seeds = []
    for shot in shots:
        counts[shot.role] = counts.get(shot.role, 0) + 1
        seeds.append(derive(seed, "eval", shot.role, counts[shot.role]))
    return seeds
