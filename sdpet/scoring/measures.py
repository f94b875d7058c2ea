"""Which metrics a task's images get. Each measure names its metrics, its scorer, and the images it is computed on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch

from sdpet.choices import DISTANCE_METRICS
from sdpet.files.hashing import hash_text
from sdpet.scoring import distances
from sdpet.scoring.metrics import clip_i, clip_i_of_each, clip_t, clip_t_of_each, fid
from sdpet.scoring.plan import EvalImage, EvalPlan
from sdpet.scoring.scorers import CLIP, Scorers, preparation

FEATURES, DIVERSITY = "features", "diversity"  # scorers with a role of their own; the others measure similarity
NOT_SIMILARITY = (CLIP, FEATURES, DIVERSITY)


@dataclass(frozen=True)
class DrawnImages:
    """The images that one measure is computed on.

    Parameters
    ----------
    images : ndarray of uint8, (N, H, W, 3)
        Drawn images of the measure's roles.
    prompts, texts : sequence of str, N
        The images' prompts, and the texts they are scored against.
    references : ndarray of uint8, (M, H, W, 3)
        Reference images.
    """

    images: np.ndarray
    prompts: Sequence[str]
    texts: Sequence[str]
    references: np.ndarray


@dataclass(frozen=True)
class Measure:
    """One or more metrics that are computed together.

    Parameters
    ----------
    metrics : tuple of str
        Names of the numbers that `compute` gives.
    scorer : str
        Name of the scorer that is used.
    roles : tuple of str
        Roles of the images that are measured.
    against : {"references", "texts", "each other"}
        What the images are compared with.
    compute : callable
        compute(drawn, scorers) gives the numbers; it may give fewer than `metrics` names.
    raw : bool
        Whether features are used at their own length, instead of unit length.
    each : callable, optional
        each(drawn, scorers) gives the value of each image, for a metric that is a mean over images; None for others.
    """

    metrics: tuple[str, ...]
    scorer: str
    roles: tuple[str, ...]
    against: str
    compute: Callable[[DrawnImages, Scorers], Sequence[float]]
    raw: bool = False
    each: Callable[[DrawnImages, Scorers], Sequence[float]] | None = None


def personalisation_measures(scorers: Scorers) -> list[Measure]:
    """Measures of personalisation: similarity to the subject, fidelity to prompts, drift of the class, diversity.

    Parameters
    ----------
    scorers : Scorers
        The available networks; each one that measures similarity adds a metric.

    Returns
    -------
    list of Measure
        Only those whose scorer is available.
    """

    def likeness(name: str) -> Callable[[DrawnImages, Scorers], Sequence[float]]:
        return lambda drawn, known: [clip_i(drawn.images, drawn.references, known, name)]

    def alike(metric: str, name: str, role: str) -> Measure:
        def of_each(drawn: DrawnImages, known: Scorers) -> Sequence[float]:
            return clip_i_of_each(drawn.images, drawn.references, known, name)

        return Measure((metric,), name, (role,), "references", likeness(name), each=of_each)

    measures = [
        alike("clip_i", CLIP, "subject"),
        Measure(("clip_t",), CLIP, ("subject", "prompt"), "texts", _text_fidelity, each=_text_fidelity_of_each),
        alike("prior_drift", CLIP, "class"),
    ]
    measures += [alike(f"{name}_i", name, "subject") for name in scorers if name not in NOT_SIMILARITY]
    measures.append(Measure(("lpips_diversity",), DIVERSITY, ("subject",), "each other", _diversity))
    return [measure for measure in measures if measure.scorer in scorers]


def set_measures(scorers: Scorers, plan: EvalPlan) -> list[Measure]:
    """Measures of fine-tuning: distances of the samples from the references as sets, and fidelity to captions.

    Distances use the network "features" if one was asked for, else CLIP. They are missing if it is not available.
    A classifier, which has `read`, also adds the share of samples in which it reads what their caption says.

    Parameters
    ----------
    scorers : Scorers
        The available networks; each one that measures similarity adds an FID in its features.
    plan : EvalPlan
        Names the distances.

    Returns
    -------
    list of Measure
        Only those whose scorer is available.
    """
    measures = []
    asked = FEATURES in scorers or FEATURES in scorers.missing
    main = FEATURES if asked else CLIP
    for kind in plan.distances:
        if kind == "cmmd":
            measures.append(_distance(kind, "cmmd", CLIP))
            continue
        measures.append(_distance(kind, kind, main))
        if kind == "fid":
            others = [CLIP] * asked + [name for name in scorers if name not in NOT_SIMILARITY]
            measures += [_distance(kind, f"{name}_fid", name) for name in others]
    measures.append(Measure(("clip_t",), CLIP, ("prompt",), "texts", _text_fidelity, each=_text_fidelity_of_each))
    measures += [_reading(name) for name in scorers if hasattr(scorers[name], "read")]
    return [measure for measure in measures if measure.scorer in scorers]


def score(
    measures: Iterable[Measure],
    images: np.ndarray,
    eval_images: Sequence[EvalImage],
    references: np.ndarray,
    scorers: Scorers,
) -> dict[str, float]:
    """Compute all metrics of drawn images.

    Parameters
    ----------
    measures : iterable of Measure
        What is computed. A measure without images of its roles gives nothing.
    images : ndarray of uint8, (N, H, W, 3)
        Drawn images.
    eval_images : sequence of EvalImage, N
        What each image was drawn for.
    references : ndarray of uint8, (M, H, W, 3)
        Reference images.
    scorers : Scorers
        The networks.

    Returns
    -------
    dict of str to float
    """
    scores: dict[str, float] = {}
    for measure in measures:
        rows = [i for i, item in enumerate(eval_images) if item.role in measure.roles]
        if rows:
            prompts, texts = [eval_images[i].prompt for i in rows], [eval_images[i].text for i in rows]
            drawn = DrawnImages(images[rows], prompts, texts, references)
            scores.update(zip(measure.metrics, measure.compute(drawn, scorers), strict=False))
    return scores


def image_scores(
    measures: Iterable[Measure],
    images: np.ndarray,
    eval_images: Sequence[EvalImage],
    references: np.ndarray,
    scorers: Scorers,
) -> list[dict[str, float]]:
    """The scores of each image, for metrics that are means over images; parameters as for `score`.

    Returns
    -------
    list of N dict
        By metric; an image lacks the metrics that are not measured on its role.
    """
    found: list[dict[str, float]] = [{} for _ in eval_images]
    for measure in measures:
        rows = [i for i, item in enumerate(eval_images) if item.role in measure.roles]
        if rows and measure.each is not None:
            prompts, texts = [eval_images[i].prompt for i in rows], [eval_images[i].text for i in rows]
            values = measure.each(DrawnImages(images[rows], prompts, texts, references), scorers)
            for i, value in zip(rows, values, strict=True):
                found[i][measure.metrics[0]] = value
    return found


def protocol_entries(
    measures: Iterable[Measure], eval_images: Sequence[EvalImage], scorers: Scorers
) -> dict[str, dict[str, Any]]:
    """Describe for the protocol how each metric is made.

    Parameters
    ----------
    measures, eval_images, scorers
        As for `score`.

    Returns
    -------
    dict of str to dict
        For each metric its scorer, how the scorer prepares images, and the number and prompts of the images it uses.
    """
    entries: dict[str, dict[str, Any]] = {}
    for measure in measures:
        ours = [item for item in eval_images if item.role in measure.roles]
        if not ours:
            continue
        scorer = scorers[measure.scorer]
        entry = {
            "scorer": scorer.name,
            "scorer_hash": scorer.weight_hash,
            **preparation(scorer),
            "features": "raw" if measure.raw and scorers.has_raw(measure.scorer) else "unit length",
            "images": {role: sum(item.role == role for item in ours) for role in measure.roles},
            "prompts_hash": hash_text(str([[item.prompt, item.role, item.text] for item in ours])),
            "against": measure.against,
        }
        entries.update(dict.fromkeys(measure.metrics, entry))
    return entries


def _text_fidelity(drawn: DrawnImages, scorers: Scorers) -> Sequence[float]:
    return [clip_t(drawn.images, drawn.texts, scorers)]


def _text_fidelity_of_each(drawn: DrawnImages, scorers: Scorers) -> Sequence[float]:
    return clip_t_of_each(drawn.images, drawn.texts, scorers)


def _diversity(drawn: DrawnImages, scorers: Scorers) -> Sequence[float]:
    """Mean LPIPS distance over all pairs of images of one prompt; empty where each prompt has one image."""
    pairs = [(i, j) for i, j in combinations(range(len(drawn.images)), 2) if drawn.prompts[i] == drawn.prompts[j]]
    if not pairs:
        return []
    first, second = map(list, zip(*pairs, strict=True))
    return [float(scorers[DIVERSITY].distances(drawn.images[first], drawn.images[second]).mean())]


def _reading(name: str) -> Measure:
    """The share of images in which a classifier reads a word of their caption."""

    def of_each(drawn: DrawnImages, known: Scorers) -> Sequence[float]:
        answers = known[name].read(drawn.images)
        return [float(word in text.split()) for word, text in zip(answers, drawn.texts, strict=True)]

    def share(drawn: DrawnImages, known: Scorers) -> Sequence[float]:
        return [float(np.mean(of_each(drawn, known)))]

    return Measure((f"{name}_right",), name, ("prompt",), "texts", share, each=of_each)


def _distance(kind: str, name: str, scorer: str) -> Measure:
    """The measure of one kind of distance, on raw features where the published numbers are on raw features."""
    raw = scorer != CLIP or name == "clip_fid"
    metrics = tuple(metric.format(name=name) for metric in DISTANCE_METRICS[kind])

    def compute(drawn: DrawnImages, known: Scorers) -> Sequence[float]:
        plain = fid(drawn.images, drawn.references, known, scorer, raw) if kind == "fid" else 0.0
        # Subsets are drawn by row; a fixed order makes them independent of the order of the images.
        ours = known.features(scorer, drawn.images, raw)[_order(drawn.images)]
        theirs = known.reference_features(scorer, drawn.references, raw)[_order(drawn.references)]
        if kind == "fid":
            small = min(len(ours), len(theirs)) < max(distances.SMALL, ours.shape[1] + 1)
            return [plain, distances.frechet_infinity(ours, theirs)] if small else [plain]
        return _DISTANCES[kind](ours, theirs)

    return Measure(metrics, scorer, ("prompt",), "references", compute, raw)


_DISTANCES: dict[str, Callable[[torch.Tensor, torch.Tensor], Sequence[float]]] = {
    "kid": distances.kernel_distance,
    "precision_recall": distances.precision_recall,
    "density_coverage": distances.density_coverage,
    "cmmd": lambda ours, theirs: [distances.cmmd(ours, theirs)],
}


def _order(images: np.ndarray) -> list[int]:
    """Indices that sort the images by their content."""
    return sorted(range(len(images)), key=lambda i: images[i].tobytes())
