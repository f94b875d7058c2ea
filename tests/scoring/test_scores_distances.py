"""Distances of sets of images against scipy, clean-fid, torch-fidelity and plain loops; known limits."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage
import torch
from cleanfid.fid import frechet_distance as cleanfid_distance
from skimage import data
from sklearn.datasets import load_digits, load_sample_images
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from sdpet.lab import JudgeScorer
from sdpet.scoring import EvalImage, EvalPlan, PromptSet, Scorers, distances
from sdpet.scoring.scorers import CLIP


@pytest.fixture(scope="module")
def digits():
    """Pixels of handwritten digits as features: two sets (300, 64) and (400, 64) with different classes."""
    pixels, labels = load_digits(return_X_y=True)
    odd, all_of_them = pixels[labels % 2 == 1][:300], pixels[:400]
    return torch.from_numpy(odd / 4), torch.from_numpy(all_of_them / 4)


@pytest.fixture(scope="module")
def photographs():
    """Tiles uint8 (N, 32, 32, 3) of photographs that ship with scikit-image and scikit-learn."""
    pictures = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket(), *load_sample_images().images]
    tiles = []
    for picture in pictures:
        small = picture[: picture.shape[0] // 64 * 64, : picture.shape[1] // 64 * 64]
        small = small.reshape(len(small) // 2, 2, -1, 2, 3).mean(axis=(1, 3)).round().astype(np.uint8)
        rows, columns = small.shape[0] // 32, small.shape[1] // 32
        tiles.append(small.reshape(rows, 32, columns, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3))
    order = np.random.default_rng(0).permutation(sum(map(len, tiles)))
    return np.concatenate(tiles)[order]


def test_frechet_distance_agrees_with_four_others(digits):
    a, b = digits
    x, y = a.numpy(), b.numpy()
    # Some pixels are always white: the covariances are singular, so roots are taken where they exist.
    live = (x.std(0) > 0.1) & (y.std(0) > 0.1)
    x, y = x[:, live], y[:, live]
    a, b = a[:, live], b[:, live]
    covariances, means = [np.cov(v, rowvar=False) for v in (x, y)], [v.mean(0) for v in (x, y)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real
    by_scipy = ((means[0] - means[1]) ** 2).sum() + np.trace(covariances[0] + covariances[1] - 2 * root)
    ours = distances.frechet(a, b)
    assert ours == pytest.approx(by_scipy, rel=1e-9)
    assert ours == pytest.approx(cleanfid_distance(means[0], covariances[0], means[1], covariances[1]), rel=1e-9)
    statistics = [fid_features_to_statistics(v) for v in (a, b)]
    by_fidelity = fid_statistics_to_metric(*statistics, verbose=False)
    assert ours == pytest.approx(next(iter(by_fidelity.values())), rel=1e-9)


def test_frechet_distance_of_fewer_images_than_features():
    """Where the covariance is singular, against the eigenvalues of the product; the own rank-reduced form is exact."""
    a, b = (torch.randn(n, 50, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (12, 70))
    covariances = [torch.cov(rows.T) for rows in (a, b)]
    root = torch.linalg.eigvals(covariances[0] @ covariances[1]).sqrt().real.sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + sum(c.trace() for c in covariances) - 2 * root
    assert distances.frechet(a, b) == pytest.approx(float(expected), rel=1e-6)
    assert distances.frechet(a, a) == pytest.approx(0, abs=1e-9)


def test_extrapolation_takes_most_of_the_bias_away():
    """Two Gaussians whose distance is known: 0 for equal ones, 4 for a shift of 2."""
    for shift in (0.0, 2.0):
        source = np.random.default_rng(0)
        a, b = source.standard_normal((300, 32)), source.standard_normal((3000, 32))
        b[:, 0] += shift
        rows = torch.from_numpy(a), torch.from_numpy(b)
        plain, endless = distances.frechet(*rows), distances.frechet_infinity(*rows)
        assert plain - shift**2 > 0.3, "300 images in 32 dimensions are far from enough"
        assert abs(endless - shift**2) < (plain - shift**2) / 3


def test_kid_agrees_with_torch_fidelity(digits):
    a, b = digits
    ours, deviation = distances.kernel_distance(a, b, subsets=50, size=100)
    arguments = {"kid_subsets": 50, "kid_subset_size": 100, "verbose": False, "rng_seed": 0, "kid_kernel": "poly"}
    arguments |= {"kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None, "kid_kernel_poly_coef0": 1}
    mean, spread = kid_features_to_metric(a, b, **arguments).values()
    assert deviation == pytest.approx(spread, rel=0.3)
    assert abs(ours - mean) < 4 * spread * (2 / 50) ** 0.5  # other subsets
    assert (ours, deviation) == distances.kernel_distance(a, b, subsets=50, size=100)
    half = a[::2], a[1::2]
    assert abs(distances.kernel_distance(*half)[0]) < 3 * distances.kernel_distance(*half)[1]


def test_precision_and_recall_agree_with_torch_fidelity(digits):
    a, b = digits
    arguments = {"prc_neighborhood": 3, "prc_batch_size": 1000, "save_cpu_ram": False, "verbose": False}
    expected = prc_features_to_metric(a.float(), b.float(), **arguments)
    precision, recall = distances.precision_recall(a, b)
    assert precision == pytest.approx(expected["precision"], abs=0.004)  # one image within float32's rounding
    assert recall == pytest.approx(expected["recall"], abs=0.004)
    assert precision > recall + 0.1, "odd digits are digits, but not all of them"


def test_density_coverage_and_cmmd_as_written_in_their_papers(digits):
    samples, references = (rows[:60].numpy() for rows in digits)
    inside = np.zeros((60, 60), bool)
    for j, reference in enumerate(references):
        others = sorted(np.linalg.norm(reference - other) for i, other in enumerate(references) if i != j)
        for i, sample in enumerate(samples):
            inside[i, j] = np.linalg.norm(sample - reference) < others[4]
    density, coverage = distances.density_coverage(*(torch.from_numpy(rows) for rows in (samples, references)))
    assert density == pytest.approx(sum(inside.flat) / (5 * 60)) and coverage == pytest.approx(inside.any(0).mean())
    x, y = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (samples, references))

    def kernel(u, v):
        return np.mean([[np.exp(-np.sum((p - q) ** 2) / 200) for q in v] for p in u])

    expected = 1000 * (kernel(x, x) + kernel(y, y) - 2 * kernel(x, y))
    assert distances.cmmd(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(expected, rel=1e-6)


DISTANCES = ("fid", "kid", "precision_recall", "density_coverage", "cmmd")


def scores_of(images, references):
    """All distances, in the features of the lab's judge."""
    scorers, plan = Scorers({CLIP: JudgeScorer()}), EvalPlan(distances=DISTANCES)
    task = PromptSet([], references)
    return task.scores(images, [EvalImage("", "prompt", "")] * len(images), scorers, plan)


def test_identical_sets_are_at_no_distance(photographs):
    found = scores_of(photographs[:200], photographs[:200])
    assert found["fid"] == pytest.approx(0, abs=1e-9) and found["cmmd"] == pytest.approx(0, abs=1e-9)
    assert found["precision"] == found["recall"] == found["coverage"] == 1


@pytest.mark.parametrize("damage", ["blur", "noise"])
def test_growing_damage_grows_every_distance(photographs, damage):
    half = len(photographs) // 2
    found = []
    for amount in (0, 1, 3):
        images = photographs[:half].astype(float)
        if damage == "blur":
            images = scipy.ndimage.gaussian_filter(images, (0, 1.5 * amount, 1.5 * amount, 0))
        else:
            images = images + np.random.default_rng(1).normal(0, 25 * amount, images.shape)
        found.append(scores_of(images.round().clip(0, 255).astype(np.uint8), photographs[half:]))
    for name in ("fid", "fid_infinity", "kid", "cmmd"):
        values = [scores[name] for scores in found]
        assert values == sorted(values) and values[2] > 2 * values[1], name
    # Blurred images may well lie among the references, which is all that precision and density ask.
    for name in ("coverage",) if damage == "blur" else ("precision", "density", "coverage"):
        assert found[2][name] < found[0][name], name


def test_dropping_modes_costs_coverage_and_recall_but_not_precision(photographs):
    half = len(photographs) // 2
    references, whole = photographs[half:], photographs[:half]
    brightness = whole.mean(axis=(1, 2, 3))
    some = whole[brightness < np.quantile(brightness, 0.25)]
    full, dropped = scores_of(whole, references), scores_of(some, references)
    assert dropped["recall"] < full["recall"] and dropped["coverage"] < full["coverage"] - 0.2
    assert dropped["precision"] > full["precision"] - 0.1
    for name in ("fid", "kid", "cmmd"):
        assert dropped[name] > full[name], name
