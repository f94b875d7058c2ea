"""Random parts of a captioned set, stratified where several images share a caption."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np


def spread(captions: Sequence[str], seed: int = 0) -> np.ndarray:
    """Order a set so that each of its beginnings is a random part of the whole set.

    Images that share a caption are a class. Every beginning holds each class in proportion to its size, give or
    take one image. So a set that is sorted by class is never represented by its first classes.

    Parameters
    ----------
    captions : sequence of str, N
        A caption for each image.
    seed : int
        Of the order.

    Returns
    -------
    ndarray of int, shape (N,)
        Positions in `captions`; where all captions differ, a random permutation.

    References
    ----------
    Systematic sampling with a random start in each stratum: Cochran, Sampling Techniques, 1977, chapter 8.
    """
    order = np.random.default_rng(seed).permutation(len(captions))
    starts, sizes = np.random.default_rng([seed, 1]), Counter(captions)
    start = {caption: starts.random() for caption in sizes}
    met: Counter[str] = Counter()
    keys = np.empty(len(captions))
    for place, i in enumerate(order):
        caption = captions[i]
        begin = start[caption] if sizes[caption] > 1 else place / len(captions)
        keys[place] = (met[caption] + begin) / sizes[caption]
        met[caption] += 1
    return order[np.argsort(keys, kind="stable")]


def part(captions: Sequence[str], count: int) -> list[int]:
    """Choose `count` images of a captioned set for drawing or scoring, the same ones in every run.

    Parameters
    ----------
    captions : sequence of str, N
        A caption for each image.
    count : int
        How many are wanted; beyond N, the set is repeated.

    Returns
    -------
    list of int
        Positions in `captions`, in ascending order within each repetition; empty where there are no captions.
    """
    if not captions:
        return []
    repeats, rest = divmod(count, len(captions))
    return [*range(len(captions))] * repeats + sorted(spread(captions)[:rest].tolist())
