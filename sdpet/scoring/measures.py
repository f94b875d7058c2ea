"""Which metrics a task's images get: each measure names its metrics, its scorer, and what it is measured on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch

from sdpet.files.hashing import hash_text
from sdpet.scoring import distances
from sdpet.scoring.metrics import clip_i, clip_t, fid
from sdpet.scoring.plan import EvalPlan, Shot
from sdpet.scoring.scorers import CLIP, Scorers, preparation

FEATURES, DIVERSITY = "features", "diversity"  # names of scorers with a part of their own; the rest are similarities
NOT_SIMILARITY = (CLIP, FEATURES, DIVERSITY)


@dataclass(frozen=True)
class Drawn:
    """Images uint8 (N, H, W, 3) of some roles with their prompts and texts, and the references (M, H, W, 3)."""

    images: np.ndarray
    prompts: Sequence[str]
    texts: Sequence[str]
    references: np.ndarray


@dataclass(frozen=True)
class Measure:
    """metrics: names of what compute gives; scorer: by whom; roles: of the images it is measured on.

    against: "references", "texts" or "each other"; raw: features are not scaled to unit length.
    """

    metrics: tuple[str, ...]
    scorer: str
    roles: tuple[str, ...]
    against: str
    compute: Callable[[Drawn, Scorers], Sequence[float]]
    raw: bool = False


def of_subject(scorers: Scorers) -> list[Measure]:
    """Personalisation: likeness to the subject, fidelity to prompts, drift of the class, diversity."""

    def likeness(name: str) -> Callable[[Drawn, Scorers], Sequence[float]]:
        return lambda drawn, known: [clip_i(drawn.images, drawn.references, known, name)]

    measures = [
        Measure(("clip_i",), CLIP, ("subject",), "references", likeness(CLIP)),
        Measure(("clip_t",), CLIP, ("subject", "prompt"), "texts", _text_fidelity),
        Measure(("prior_drift",), CLIP, ("class",), "references", likeness(CLIP)),
    ]
    for name in scorers:
        if name not in NOT_SIMILARITY:
            measures.append(Measure((f"{name}_i",), name, ("subject",), "references", likeness(name)))
    measures.append(Measure(("lpips_diversity",), DIVERSITY, ("subject",), "each other", _diversity))
    return [measure for measure in measures if measure.scorer in scorers]


def of_set(scorers: Scorers, plan: EvalPlan) -> list[Measure]:
    """Fine-tuning: distances of the set of samples from the references, and fidelity to captions.

    Where no network for the distances was asked for, they are measured on CLIP's features; where one was asked for and
    cannot be had, they are missing.
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
    measures.append(Measure(("clip_t",), CLIP, ("prompt",), "texts", _text_fidelity))
    return [measure for measure in measures if measure.scorer in scorers]


def score(
    measures: Iterable[Measure], images: np.ndarray, shots: Sequence[Shot], references: np.ndarray, scorers: Scorers
) -> dict[str, float]:
    """All metrics of images uint8 (N, H, W, 3), drawn for these shots; a measure without images gives none."""
    scores: dict[str, float] = {}
    for measure in measures:
        rows = [i for i, shot in enumerate(shots) if shot.role in measure.roles]
        if rows:
            prompts, texts = [shots[i].prompt for i in rows], [shots[i].text for i in rows]
            drawn = Drawn(images[rows], prompts, texts, references)
            scores.update(zip(measure.metrics, measure.compute(drawn, scorers), strict=False))
    return scores


def described(measures: Iterable[Measure], shots: Sequence[Shot], scorers: Scorers) -> dict[str, dict[str, Any]]:
    """For each metric how it is made: by whom, from images of which and how many prompts, prepared in which way."""
    entries: dict[str, dict[str, Any]] = {}
    for measure in measures:
        ours = [shot for shot in shots if shot.role in measure.roles]
        if not ours:
            continue
        scorer = scorers[measure.scorer]
        entry = {
            "scorer": scorer.name,
            "scorer_hash": scorer.weight_hash,
            **preparation(scorer),
            "features": "raw" if measure.raw and scorers.has_raw(measure.scorer) else "unit length",
            "images": {role: sum(shot.role == role for shot in ours) for role in measure.roles},
            "prompts_hash": hash_text(str([[shot.prompt, shot.role, shot.text] for shot in ours])),
            "against": measure.against,
        }
        entries.update(dict.fromkeys(measure.metrics, entry))
    return entries


def _text_fidelity(drawn: Drawn, scorers: Scorers) -> Sequence[float]:
    return [clip_t(drawn.images, drawn.texts, scorers)]


def _diversity(drawn: Drawn, scorers: Scorers) -> Sequence[float]:
    """Mean LPIPS distance over all pairs of images of one prompt; nothing where each prompt has one image."""
    pairs = [(i, j) for i, j in combinations(range(len(drawn.images)), 2) if drawn.prompts[i] == drawn.prompts[j]]
    if not pairs:
        return []
    first, second = map(list, zip(*pairs, strict=True))
    return [float(scorers[DIVERSITY].distances(drawn.images[first], drawn.images[second]).mean())]


def _distance(kind: str, name: str, scorer: str) -> Measure:
    """The distance `kind` under the metric's name, on raw features where published numbers are."""
    raw = scorer != CLIP or name == "clip_fid"
    metrics = {
        "fid": (name, f"{name}_infinity"),
        "kid": (name, f"{name}_deviation"),
        "precision_recall": ("precision", "recall"),
        "density_coverage": ("density", "coverage"),
        "cmmd": (name,),
    }[kind]

    def compute(drawn: Drawn, known: Scorers) -> Sequence[float]:
        if kind == "fid":
            plain = fid(drawn.images, drawn.references, known, scorer, raw)
        # Subsets must not depend on the order of the images.
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
    """An order of the images that depends on their content alone."""
    return sorted(range(len(images)), key=lambda i: images[i].tobytes())
