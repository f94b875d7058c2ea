"""Scores, the evaluation of a run, and what it is held against."""

import dataclasses
import json
import warnings

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image

import sdpet.scoring.floor_ceiling
from sdpet.adapters import AdapterSpec
from sdpet.methods import Design, build
from sdpet.sampling import SamplerConfig
from sdpet.scoring import (
    EvalPlan,
    MixedScorer,
    clip_i,
    clip_t,
    evaluate_run,
    fid,
    noise_differences,
    protocol,
    reference_scores,
    save_samples,
)
from sdpet.scoring.spread import part
from sdpet.tasks import DreamBoothTask, FinetuneTask

SAMPLER = SamplerConfig("dpm", 2, 2.0)
PLAN = EvalPlan(subject_images=3, class_images=2, prompts=("{prompt} on a red background",), prompt_images=2, images=9)


class PixelScorer:
    """Unit vectors from fixed random projections of pixels and of letter counts: easy to recompute."""

    name, weight_hash = "pixels", "1"
    pixels = torch.randn(3 * 32 * 32, 6, generator=torch.Generator().manual_seed(0)) / 255
    letters = torch.randn(128, 6, generator=torch.Generator().manual_seed(1))

    def encode_image(self, images):
        assert images.dtype == torch.uint8 and images.shape[1] == 3
        return torch.nn.functional.normalize((images.float() - 127.5).flatten(1) @ self.pixels, dim=1)

    def encode_text(self, texts):
        counts = torch.tensor([[float(text.count(chr(i))) for i in range(128)] for text in texts])
        return torch.nn.functional.normalize(counts @ self.letters, dim=1)


def pictures(n, seed=0, low=0, high=256):
    return np.random.default_rng(seed).integers(low, high, (n, 32, 32, 3), dtype=np.uint8)


def vectors(images, scorer):
    return scorer.encode_image(torch.tensor(images).permute(0, 3, 1, 2)).numpy().astype(float)


@pytest.fixture(scope="module")
def task(tiny_base, subject_folders):
    folders = [subject_folders["subject"], subject_folders["class"]]
    return DreamBoothTask(
        tiny_base, *folders, "a photo of a sks star", "a photo of a star", heldout_dir=subject_folders["heldout"]
    )


def test_clip_i_is_the_mean_over_all_pairs():
    scorer, a, b = PixelScorer(), pictures(5), pictures(150, 1)
    pairs = [x @ y for x in vectors(a, scorer) for y in vectors(b, scorer)]
    assert clip_i(a, b, scorer) == pytest.approx(np.mean(pairs), abs=1e-6)
    with pytest.raises(ValueError, match="no images"):
        clip_i(a[:0], b, scorer)


def test_clip_t_is_each_image_with_its_own_text():
    scorer, images, texts = PixelScorer(), pictures(3), ["red star", "ring", "red star"]
    expected = [x @ y for x, y in zip(vectors(images, scorer), scorer.encode_text(texts).numpy(), strict=True)]
    assert clip_t(images, texts, scorer) == pytest.approx(np.mean(expected), abs=1e-6)


def test_fid_is_the_frechet_distance():
    scorer, a, b = PixelScorer(), pictures(40), pictures(50, 1, 60, 250)
    x, y = vectors(a, scorer), vectors(b, scorer)
    root = scipy.linalg.sqrtm(np.cov(x.T) @ np.cov(y.T)).real
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(np.cov(x.T) + np.cov(y.T) - 2 * root)
    assert fid(a, b, scorer) == pytest.approx(expected, rel=1e-9)
    assert fid(a, a, scorer) == pytest.approx(0, abs=1e-9)
    with pytest.warns(UserWarning, match="singular"):
        fid(a[:6], b, scorer)
    with pytest.raises(ValueError, match="at least two"):
        fid(a[:1], b, scorer)


def test_a_run_is_drawn_and_scored_by_role(tiny_base, task, tmp_path):
    scorer = PixelScorer()
    result = evaluate_run(tiny_base, task, scorer, SAMPLER, 0, PLAN)
    images, roles = result.images, [row["role"] for row in result.index]
    assert roles == ["subject"] * 3 + ["prompt"] * 2 + ["class"] * 2
    assert [row["prompt"] for row in result.index[2:6]] == [
        "a photo of a sks star",
        *["a photo of a sks star on a red background"] * 2,
        "a photo of a star",
    ]
    references = tiny_base.through_vae(task.subject_images)
    assert result.metrics["clip_i"] == pytest.approx(clip_i(images[:3], references, scorer))
    assert result.metrics["prior_drift"] == pytest.approx(clip_i(images[5:], references, scorer))
    texts = ["a photo of a star"] * 3 + ["a photo of a star on a red background"] * 2
    assert result.metrics["clip_t"] == pytest.approx(clip_t(images[:5], texts, scorer))
    assert len({row["seed"] for row in result.index}) == 7, "every image has its own noise"
    save_samples(result, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "index.jsonl").read_text().splitlines()]
    stored = np.stack([np.asarray(Image.open(tmp_path / row["file"])) for row in rows])
    assert [{key: value for key, value in row.items() if key != "digest"} for row in rows] == result.index
    assert np.array_equal(stored, images)
    of_images = {name: value for name, value in result.metrics.items() if name != "noise_difference"}
    assert task.scores(stored, task.eval_images(PLAN), scorer) == pytest.approx(of_images, abs=1e-6)


def test_evaluation_noise_is_the_seeds_and_shared_by_designs(tiny_base, task):
    def index(seed, plan=PLAN):
        return [row["seed"] for row in evaluate_run(tiny_base, task, PixelScorer(), SAMPLER, seed, plan).index]

    untuned = index(0)
    handle = build(tiny_base, Design("adapter", AdapterSpec.parse("ffni-ffni", mid_dim=2)), 0)
    assert index(0) == untuned
    handle.detach()
    assert not set(index(1)) & set(untuned)
    fixed = EvalPlan(**{**vars(PLAN), "eval_seed": 42})
    assert index(0, fixed) == index(1, fixed) != untuned


def test_protocol_says_what_makes_scores_comparable(tiny_base, task):
    first = protocol(tiny_base, task, PixelScorer(), SAMPLER, PLAN)
    assert first == evaluate_run(tiny_base, task, PixelScorer(), SAMPLER, 5, PLAN).protocol
    json.dumps(first)
    assert protocol(tiny_base, task, PixelScorer(), SamplerConfig("dpm", 3, 2.0), PLAN) != first
    for change in ({"subject_images": 4}, {"prompts": ("{prompt} on a pink background",)}, {"eval_seed": 1}):
        assert protocol(tiny_base, task, PixelScorer(), SAMPLER, EvalPlan(**{**vars(PLAN), **change})) != first
    assert protocol(tiny_base, task, PixelScorer(), SAMPLER, EvalPlan(**{**vars(PLAN), "chunk": 2})) == first


def test_anchors_are_the_untuned_base_and_real_images(tiny_base, task, tmp_path, monkeypatch):
    scorer = PixelScorer()
    found = reference_scores(tiny_base, task, scorer, SAMPLER, 0, PLAN, cache=tmp_path)
    untuned = evaluate_run(tiny_base, task, scorer, SAMPLER, 0, PLAN).metrics
    assert {name: value["floor"] for name, value in found.items()} == untuned
    real = clip_i(tiny_base.through_vae(task.heldout_images), tiny_base.through_vae(task.subject_images), scorer)
    assert {name: value["ceiling"] for name, value in found.items()} == {
        "clip_i": pytest.approx(real),
        "clip_t": None,
        "prior_drift": None,
        "noise_difference": None,
    }
    calls = []
    monkeypatch.setattr(sdpet.scoring.floor_ceiling, "evaluate_run", lambda *a: calls.append(a) or evaluate_run(*a))
    assert reference_scores(tiny_base, task, scorer, SAMPLER, 0, PLAN, cache=tmp_path) == found and not calls
    reference_scores(tiny_base, task, scorer, SAMPLER, 1, PLAN, cache=tmp_path)
    reference_scores(tiny_base, task, scorer, SamplerConfig("dpm", 3, 2.0), 0, PLAN, cache=tmp_path)
    assert len(calls) == 2, "another seed or sampler is another floor"
    for file in tmp_path.glob("*.json"):
        file.write_text("{")
    assert reference_scores(tiny_base, task, scorer, SAMPLER, 0, PLAN, cache=tmp_path) == found and len(calls) == 3


def test_finetuning_is_scored_by_distance(tiny_base):
    scorer, captions = PixelScorer(), ["red star", "blue ring"] * 10
    task = FinetuneTask(
        tiny_base,
        None,
        images=pictures(20),
        captions=captions,
        heldout_images=pictures(20, 1),
        heldout_captions=captions,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # 9 images are enough for 6 features
        found = reference_scores(tiny_base, task, scorer, SAMPLER, 0, PLAN)
    assert set(found) == {"fid", "fid_infinity", "clip_t"}
    assert found["fid"]["ceiling"] == pytest.approx(
        fid(tiny_base.through_vae(pictures(20)[part(captions, 9)]), pictures(20, 1), scorer)
    )
    drawn = [item.prompt for item in task.eval_images(PLAN)]
    assert sorted(map(drawn.count, set(captions))) == [4, 5], "each class its share"


@pytest.mark.parametrize("wrong", [{"subject_images": 0}, {"chunk": 1.5}, {"prompts": ["on a red background"]}])
def test_plan_is_checked(wrong):
    with pytest.raises(ValueError, match="eval"):
        EvalPlan(**wrong)


def test_open_clip_scorer_reads_a_local_checkpoint(tmp_path):
    import open_clip

    from sdpet.scoring import OpenClipScorer

    name = "tiny-for-this-test"
    tower = {"width": 32, "layers": 1}
    vision, text = {**tower, "image_size": 64, "patch_size": 32, "head_width": 16}, {**tower, "heads": 2}
    (tmp_path / f"{name}.json").write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(tmp_path)
    clip, preprocess = open_clip.create_model_and_transforms(name)[::2]
    torch.save(clip.state_dict(), tmp_path / "clip.pt")
    scorer = OpenClipScorer(name, str(tmp_path / "clip.pt"))
    images = pictures(2)
    with torch.no_grad():
        expected = clip.eval().encode_image(
            torch.stack([preprocess(Image.fromarray(i)) for i in images]), normalize=True
        )
        text = clip.encode_text(open_clip.get_tokenizer(name)(["red star"]), normalize=True)
    torch.testing.assert_close(scorer.encode_image(torch.tensor(images).permute(0, 3, 1, 2)), expected)
    torch.testing.assert_close(scorer.encode_text(["red star"]), text)
    with pytest.raises(ValueError, match="knows no model"):
        OpenClipScorer("ViT-Z")
    with pytest.raises(ValueError, match="neither a checkpoint here nor a tag"):
        OpenClipScorer(name, str(tmp_path / "gone.pt"))


def test_scores_in_mixed_precision_are_near_and_say_so(tiny_base, task, tiny_scorer):
    """Scorers and the change of the noise; the images are drawn as before."""
    mixed = dataclasses.replace(PLAN, autocast="bf16-mixed")
    exact = evaluate_run(tiny_base, task, tiny_scorer, SAMPLER, 0, PLAN)
    near = evaluate_run(tiny_base, task, MixedScorer(tiny_scorer, "bf16-mixed", "cpu"), SAMPLER, 0, mixed)
    assert np.array_equal(exact.images, near.images)
    for name, value in exact.metrics.items():
        assert near.metrics[name] != value and near.metrics[name] == pytest.approx(value, abs=0.05), name
    scores, others = near.protocol["scores"], exact.protocol["scores"]
    assert all("bf16-mixed" in str(entry) for entry in scores.values()) and "bf16" not in str(others)
    with pytest.raises(ValueError, match=r"eval\.autocast 'half' is unknown; choose 16-mixed or bf16-mixed, or null"):
        EvalPlan(autocast="half")


def test_the_change_of_the_noise_is_computed_in_parts_where_it_would_not_fit(tiny_base, task, monkeypatch):
    counts = []
    hook = tiny_base.unet.register_forward_pre_hook(lambda module, given: counts.append(len(given[0])))
    plan = dataclasses.replace(PLAN, noise_images=5)
    whole = noise_differences(tiny_base, task, [5], plan)
    height, width = whole.shape[1:]
    monkeypatch.setattr("sdpet.scoring.noise.LATENT_PIXELS", 5 * height * width)  # two images with two rows each
    parts = noise_differences(tiny_base, task, [5], plan)
    hook.remove()
    assert counts == [10] * 4 + [4, 4, 2] * 4
    np.testing.assert_allclose(parts, whole, rtol=1e-3, atol=1e-6)
