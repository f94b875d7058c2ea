"""What a finished run is asked to draw."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sdpet.choices import AUTOCASTS, DISTANCES, PLACEHOLDERS, SUITES
from sdpet.seeds import derive


@dataclass(frozen=True)
class EvalImage:
    """One image to draw.

    Parameters
    ----------
    prompt : str
        What it is drawn from.
    role : {"subject", "prompt", "class"}
        What it is drawn for: the subject's own prompt, another prompt, or the class's prompt.
    text : str
        What it is scored against.
    """

    prompt: str
    role: str
    text: str


@dataclass(frozen=True)
class EvalPlan:
    """How many images of which prompts are drawn and scored.

    Parameters
    ----------
    subject_images, class_images : int
        Numbers of images of the subject's prompt and of the class's prompt (DreamBooth).
    prompts : sequence of str, or a name of choices.SUITES
        Templates for prompt fidelity, or the suite that holds them. "{prompt}" stands for the subject's prompt,
        "{subject}" for the part of it that begins with the subject's token.
    prompt_images : int
        Number of images of each template.
    images : int
        Number of images of captions (fine-tuning).
    distances : sequence of names of choices.DISTANCES
        Distances of the set of samples from the references (fine-tuning).
    noise_images : int
        Number of class images on which the noise difference is measured (DreamBooth); 0 leaves it out.
    eval_seed : int, optional
        Seed of the evaluation noise of all runs. None derives it from each run's seed, and all designs of one seed
        share it, so seed can be a blocking factor in the analysis.
    chunk : int
        Number of images that are denoised together; it does not change the images.
    autocast : {"bf16-mixed", "16-mixed"}, optional
        Precision in which scorers and the change of the predicted noise are computed; None: that of their weights.

    Raises
    ------
    ValueError
        One sentence that names the wrong value and the valid ones.
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
    autocast: str | None = None

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
            if not any(place in template for place in PLACEHOLDERS):
                raise ValueError(
                    f"the evaluation prompt {template!r} lacks {{prompt}}, where the subject's prompt goes "
                    "(or {subject}, for its token and noun alone)."
                )
        if self.autocast is not None and self.autocast not in AUTOCASTS:
            raise ValueError(f"eval.autocast {self.autocast!r} is unknown; choose {' or '.join(AUTOCASTS)}, or null.")
        unknown = [name for name in self.distances if name not in DISTANCES]
        if unknown:
            raise ValueError(f"eval.distances knows no {unknown[0]!r}; choose from {', '.join(DISTANCES)}.")


def fill(template: str, prompt: str, token: str) -> str:
    """Fill in a template with a subject.

    Parameters
    ----------
    template : str
        Text with placeholders: "{prompt}" becomes `prompt`, such as "a photo of a sks dog", and "{subject}" becomes its
        end from the token on, "sks dog".
    prompt : str
        The subject's prompt; it contains `token` as a word.
    token : str
        The subject's token.

    Returns
    -------
    str
    """
    words = prompt.split()
    return template.replace("{prompt}", prompt).replace("{subject}", " ".join(words[words.index(token) :]))


def read_suite(name: str) -> list[str]:
    """Read the templates of a suite.

    Parameters
    ----------
    name : str
        One of choices.SUITES.

    Returns
    -------
    list of str
        One template a line of the suite's file.

    Raises
    ------
    ValueError
        There is no such suite; the message names the suites.
    """
    if name not in SUITES:
        raise ValueError(
            f"eval.prompts {name!r} is no suite; choose {' or '.join(SUITES)}, or give a list of templates."
        )
    lines = (Path(__file__).parent / "suites" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def image_seeds(eval_images: list[EvalImage], seed: int) -> list[int]:
    """One seed for the noise of each image, from the evaluation seed, the image's role and its number within the role.

    Parameters
    ----------
    eval_images : list of EvalImage, N
        The images.
    seed : int
        The evaluation seed.

    Returns
    -------
    list of int, N
    """
    counts: dict[str, int] = {}
    seeds = []
    for item in eval_images:
        counts[item.role] = counts.get(item.role, 0) + 1
        seeds.append(derive(seed, "eval", item.role, counts[item.role]))
    return seeds
