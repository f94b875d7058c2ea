"""The lab as shipped: what it is, that its parts fit together, and that its world says what it shows."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import sdpet.lab
from sdpet.config.dreambench import read_dreambench
from sdpet.lab import (
    BACKGROUNDS,
    COLORS,
    SHAPES,
    UNNAMED,
    UNSAID,
    NewShapes,
    describe,
    load_judge,
    load_scorer,
    render,
    repose,
    sample_scenes,
    subject_scenes,
    text_tower,
)
from sdpet.lab.architecture import WORDS
from sdpet.lab.check import networks
from sdpet.lab.check.models import CHECKED
from sdpet.lab.new_shapes import NAMES, draw, new_scenes
from sdpet.lab.pretrain.clip import fits, swap_one
from sdpet.lab.pretrain.vae import encode, to_tensor, whiten
from sdpet.lab.subjects import SUBJECTS, write_subjects
from sdpet.models import load_base
from sdpet.tasks import load_digits

LAB = Path(sdpet.lab.__file__).parent


def test_weights_are_small_and_half_precision():
    from safetensors import safe_open

    files = list(LAB.rglob("*.safetensors"))
    size = {
        name: sum(f.stat().st_size for f in files if f.parent.name == name) for name in {f.parent.name for f in files}
    }
    assert set(size) == {"unet", "vae", "text_encoder", "scorer", "judge", "digit_judge", "shape_judge", "transformer"}
    assert size.pop("digit_judge") <= 150_000 and size.pop("shape_judge") <= 150_000  # of sets that the lab learns
    assert size.pop("transformer") <= 10_000_000 and sum(size.values()) <= 8_000_000
    for file in files:
        with safe_open(file, "pt") as weights:
            kinds = {weights.get_tensor(k).dtype for k in weights.keys()}  # noqa: SIM118
        assert kinds <= {torch.float16, torch.int64}, file


def test_text_encoder_is_the_scorers_text_tower():
    base, scorer = load_base("lab"), load_scorer()
    prompts = ["a photo of a red and blue star on a pink background", "a sks ring"]
    ids = base.tokenizer(prompts, padding="max_length", return_tensors="pt").input_ids
    ends = (ids == base.tokenizer.eos_token_id).int().argmax(1)
    with torch.no_grad():
        pooled = base.encode_text(prompts)[torch.arange(2), ends] @ scorer.model.text_projection
    torch.testing.assert_close(torch.nn.functional.normalize(pooled, dim=-1), scorer.encode_text(prompts))
    assert {k.split(".")[0] for k in text_tower(scorer.model.state_dict())} == {
        "embeddings", "encoder", "final_layer_norm",
    }  # fmt: skip


def test_every_word_is_one_token():
    tokenizer = load_base("lab").tokenizer
    text = "a photo of an outlined red and blue star on a pink background"
    assert len(tokenizer(text).input_ids) == len(text.split()) + 2
    assert tokenizer.eos_token_id == max(tokenizer.get_vocab().values())  # open_clip pools at the largest id


def test_captions_fit_their_own_scene_and_swapped_ones_do_not():
    scenes, rng = sample_scenes(400, seed=5), np.random.default_rng(0)
    said = [describe(scenes, i, rng) for i in range(400)]
    assert fits(said, scenes).diagonal().all()
    # What a caption leaves open cannot be contradicted by a word about the outline, so those are set aside.
    swapped = [swap_one(c, rng) for c in said]
    differs = torch.tensor([dataclasses.replace(a, outlined=UNSAID) != dataclasses.replace(b, outlined=UNSAID)
                         for a, b in zip(said, swapped, strict=True)])  # fmt: skip
    assert differs.sum() > 200
    assert not fits(swapped, scenes).diagonal()[differs].any()


def test_world_is_drawn_from_the_seed_alone():
    first, again = render(sample_scenes(50, seed=9)), render(sample_scenes(50, seed=9))
    assert (first == again).all() and (first != render(sample_scenes(50, seed=10))).any()
    subject = subject_scenes(20, seed=1)
    assert (subject.color == UNNAMED).all() and (subject.background > 0).all()
    left, right = subject.rgb.mean(0), subject.rgb2.mean(0)
    named = np.array(list(COLORS.values()))
    assert np.linalg.norm(named - left, axis=1).min() > 60 and np.linalg.norm(named - right, axis=1).min() > 60
    assert (repose(subject, 2).rgb == subject.rgb).all()


def test_whitening_changes_latents_but_not_what_is_decoded():
    from sdpet.lab import build_vae

    torch.manual_seed(0)
    vae = build_vae().eval().requires_grad_(False)
    images = to_tensor(render(sample_scenes(200, seed=3)))
    with torch.no_grad():
        before = vae.decode(encode(vae, images)).sample
        whiten(vae, encode(vae, images))
        latents = encode(vae, images)
        torch.testing.assert_close(vae.decode(latents).sample, before, atol=1e-4, rtol=1e-3)
    flat = latents.permute(1, 0, 2, 3).flatten(1)
    torch.testing.assert_close(torch.cov(flat), torch.eye(4), atol=1e-3, rtol=0)


def test_digits_are_real_and_split():
    (train, captions), (held_out, _) = load_digits("train"), load_digits("heldout")
    assert train.shape == (1197, 32, 32, 3) and held_out.shape == (600, 32, 32, 3) and train.dtype == np.uint8
    assert captions[7] == "a photo of the handwritten digit seven"
    with pytest.raises(ValueError, match="choose train or heldout"):
        load_digits("test")


def test_new_shapes_are_new_and_each_is_drawn_equally_often():
    (train, captions), (held_out, held_captions) = NewShapes().training(32), NewShapes().heldout(32)
    assert train.shape == (1200, 32, 32, 3) and held_out.shape == (600, 32, 32, 3) and train.dtype == np.uint8
    assert not {image.tobytes() for image in train} & {image.tobytes() for image in held_out}
    assert not {*NAMES} & {*WORDS, *SHAPES}  # neither the base models nor their text encoder know them
    for name in NAMES:
        assert sum(name in caption.split() for caption in captions) == 300
        assert sum(name in caption.split() for caption in held_captions) == 150
    colour, ground = (COLORS | BACKGROUNDS)[captions[0].split()[4]], BACKGROUNDS[captions[0].split()[-2]]
    near = np.abs(train[0].astype(float)[:, :, None] - np.array([colour, ground])).max(-1) < 40
    assert near[0, 0].tolist() == [False, True] and 0.05 < near[..., 0].mean() < 0.5  # drawn as the caption says
    again, large = draw(new_scenes(8, 3), 32)[0], draw(new_scenes(8, 3), 64)[0]
    assert (again == draw(new_scenes(8, 3), 32)[0]).all() and large.shape == (8, 64, 64, 3)


def test_diffusers_own_pipeline_draws_what_the_prompt_says():
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(LAB / "pipeline", safety_checker=None, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    prompts = ["a photo of a red star on a black background", "a photo of a blue circle on a white background"]
    source = [torch.Generator().manual_seed(i) for i in range(2)]
    drawn = pipeline(prompts, height=32, width=32, num_inference_steps=25, guidance_scale=2.5, generator=source)
    answers = load_judge().judge(np.stack([np.asarray(image) for image in drawn.images]))
    assert [SHAPES[i] for i in answers["shape"]] == ["star", "circle"]
    assert [list(COLORS)[i] for i in answers["color"]] == ["red", "blue"]
    assert [list(BACKGROUNDS)[i] for i in answers["background"]] == ["black", "white"]


@pytest.mark.parametrize("gate", [networks.autoencoder, networks.scorer], ids=["1 autoencoder", "2 scorer"])
def test_gate(gate):
    assert [row for row in gate() if row.passed is False] == []


@pytest.mark.parametrize("lab", dict.fromkeys(CHECKED.values()), ids=lambda lab: lab.study)
def test_gate_3_base_model(lab):
    assert [row for row in networks.base_model(lab, each=2) if row.passed is False] == []


@pytest.mark.slow
@pytest.mark.timeout(5400)
@pytest.mark.parametrize("lab", dict.fromkeys(CHECKED.values()), ids=lambda lab: lab.study)
def test_all_gates(lab, tmp_path):
    """About 20 minutes a model on 2 cores: trains the 5-seed study in a new folder."""
    study = ["--quiet", "--study", str(tmp_path / "lab_check")]
    command = [sys.executable, "-m", "sdpet.lab.check", *lab.overrides, *study]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_pretraining_resumes_after_a_kill(tmp_path):
    """A few minutes: the script with a thousandth of the steps, killed, started again, gives the same weights."""
    import signal
    import time

    def command(name):
        work, out = tmp_path / name, tmp_path / f"{name}_out"
        return [sys.executable, "-m", "sdpet.lab.pretrain", "--work", str(work), "--out", str(out), "--quick", "0.002"]

    subprocess.run(command("whole"), check=True, capture_output=True)
    killed = subprocess.Popen(command("killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path / "killed" / "clip_done.pt").exists():
        time.sleep(0.2)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    subprocess.run(command("killed"), check=True, capture_output=True)
    for file in ("pipeline/unet/diffusion_pytorch_model.safetensors", "scorer/model.safetensors"):
        assert (tmp_path / "whole_out" / file).read_bytes() == (tmp_path / "killed_out" / file).read_bytes()


def test_subjects_are_a_data_set_and_its_star_is_the_labs_own(tmp_path):
    write_subjects(tmp_path)
    bench = read_dreambench(tmp_path)
    assert bench.classes == {name: shape for name, (shape, _, _) in SUBJECTS.items()}
    assert "a photo of a {subject} on an orange background" in bench.objects and len(bench.objects) == len(BACKGROUNDS)
    photos = {name: [np.asarray(Image.open(file)) for file in sorted((tmp_path / name).iterdir())] for name in SUBJECTS}
    own = [np.asarray(Image.open(file)) for file in sorted((LAB / "data" / "subject").iterdir())]
    assert np.array_equal(photos["pink_star"], own)
    judged = {name: load_judge().judge(np.stack(images)) for name, images in photos.items()}
    for name, (shape, _, _) in SUBJECTS.items():
        assert (judged[name]["shape"] == SHAPES.index(shape)).all() and judged[name]["outlined"].all(), name
