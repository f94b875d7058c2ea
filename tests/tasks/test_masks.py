"""Masks of a subject's photos: the loss counts there in full, and elsewhere as task.background says."""

from __future__ import annotations

import math
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from study_tools import composed, tiny_overrides

from sdpet.adapters import AdapterSpec
from sdpet.config import run_id, validate
from sdpet.methods import Design, build, build_fleet
from sdpet.tasks import DreamBoothTask
from sdpet.training import Member, TrainConfig, fit_together

WORDS = ("a photo of a sks star", "a photo of a star")
SIDE, SUBJECT = 32, (slice(8, 24), slice(0, 16))  # rows and columns that show the subject


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Photos whose alpha channel is the subject, the same without one, and masks of other endings."""
    root, rng = tmp_path_factory.mktemp("masked"), np.random.default_rng(0)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[SUBJECT] = 255
    for name in ("alpha", "opaque", "masks"):
        (root / name).mkdir()
    for i in range(3):
        pixels = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(np.dstack([pixels, mask])).save(root / "alpha" / f"{i}.png")
        Image.fromarray(pixels).save(root / "opaque" / f"{i}.png")
        Image.fromarray(mask).save(root / "masks" / f"{i}.bmp")
    return root


def make(base, photos, folders, background, **more):
    return DreamBoothTask(base, photos, folders["class"], *WORDS, background=background, **more)


def test_the_loss_is_the_weighted_mean_of_squared_errors(tiny_base, photos, subject_folders):
    task = make(tiny_base, photos / "alpha", subject_folders, 0.25)
    batch = task.batch(0, 0)
    side = batch.noisy.shape[-1]
    rows, columns = (slice(part.start * side // SIDE, part.stop * side // SIDE) for part in SUBJECT)
    weights = torch.full((side, side), 0.25)
    weights[rows, columns] = 1.0
    error = torch.randn(batch.target.shape, generator=torch.Generator().manual_seed(0))
    squared = error.square()
    subject = [(squared[i].mean(0) * weights).sum() / weights.sum() for i in range(2)]
    expected = sum(subject) / 2 + squared[2:].mean(dim=(1, 2, 3)).sum() / 2  # class images have no mask
    assert task.loss(batch.target + error, batch) == pytest.approx(float(expected), rel=1e-5)
    plain = make(tiny_base, photos / "alpha", subject_folders, 1.0)
    assert type(plain.batch(0, 0)) is not type(batch) and "background" not in plain.describe()
    assert torch.equal(plain.batch(0, 0).noisy, batch.noisy) and task.describe()["background"] == 0.25


def test_without_background_nothing_is_learned_there(tiny_base, photos, subject_folders):
    task = make(tiny_base, photos / "opaque", subject_folders, 0.0, mask_dir=photos / "masks", reg_weight=0.0)
    batch = task.batch(0, 0)
    wrong = torch.full_like(batch.target, 7.0)
    inside = batch.mask.expand_as(wrong) > 0
    assert 0 < inside.float().mean() < 1
    assert task.loss(torch.where(inside, batch.target, wrong), batch) == 0 < task.loss(wrong, batch)


def test_masks_are_mirrored_with_their_photos(tiny_base, photos, subject_folders):
    plain, mirrored = (
        make(tiny_base, photos / "alpha", subject_folders, 0.0, flip=flip).batch(0, 0) for flip in (0.0, 1.0)
    )
    assert torch.equal(mirrored.mask, plain.mask.flip(-1)) and not torch.equal(mirrored.mask, plain.mask)


def test_a_fleet_trains_with_masks_as_alone(tiny_base, photos, subject_folders):
    task, spec, config = make(tiny_base, photos / "alpha", subject_folders, 0.1), "attn2o-ffni", TrainConfig(2, 1e-2)
    design = Design("adapter", AdapterSpec.parse(spec, mid_dim=4))
    alone = []
    for seed in (0, 1):
        handle = build(tiny_base, design, seed)
        alone.append(fit_together(tiny_base, [Member(handle, seed, config)], task)[0].loss)
        handle.detach()
    fleet = build_fleet(tiny_base, [design] * 2, [0, 1])
    members = [Member(handle, seed, config) for seed, handle in enumerate(fleet.members)]
    together = [result.loss for result in fit_together(tiny_base, members, task, fleet)]
    fleet.detach()
    assert all(a == pytest.approx(b, rel=1e-4) for a, b in zip(together, alone, strict=True))
    assert all(map(math.isfinite, together[0]))


def test_the_factor_and_the_masks_are_in_the_id(tiny_folder, photos, subject_folders, tmp_path):
    given = [*tiny_overrides(tiny_folder, subject_folders, tmp_path), f"data.subject_dir={photos / 'opaque'}"]
    given += ["data=subject", "data.noun=star"]
    other = tmp_path / "other"
    shutil.copytree(photos / "masks", other)
    Image.fromarray(np.full((SIDE, SIDE), 255, np.uint8)).save(other / "0.bmp")
    wishes = (
        [], [f"data.mask_dir={photos / 'masks'}"], ["task.background=0.5", f"data.mask_dir={photos / 'masks'}"],
        ["task.background=0.5", f"data.mask_dir={other}"], ["task.background=0.2", f"data.mask_dir={other}"],
    )  # fmt: skip
    ids = [run_id(validate(composed(*given, *wish))) for wish in wishes]
    assert ids[0] == ids[1] and len(set(ids)) == 4
    with pytest.raises(ValueError, match="needs photos with masks"):
        validate(composed(*tiny_overrides(tiny_folder, subject_folders, tmp_path), "task.background=0.5"))


def test_a_photo_without_a_mask_is_named(tiny_base, photos, subject_folders, tmp_path):
    with pytest.raises(ValueError, match=r"0\.png has no alpha channel.*data\.mask_dir"):
        make(tiny_base, photos / "opaque", subject_folders, 0.5)
    shutil.copytree(photos / "masks", tmp_path / "few")
    (tmp_path / "few" / "1.bmp").unlink()
    with pytest.raises(ValueError, match=r"few has no mask for 1\.png"):
        make(tiny_base, photos / "opaque", subject_folders, 0.5, mask_dir=tmp_path / "few")
    Image.new("L", (SIDE, SIDE)).save(tmp_path / "few" / "1.bmp")
    with pytest.raises(ValueError, match=r"the mask of 1\.png is black everywhere"):
        make(tiny_base, photos / "opaque", subject_folders, 0.5, mask_dir=tmp_path / "few")
