"""The base model, its tasks' batches and the images they read."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from sdpet.files import load_captioned, load_folder
from sdpet.models import base as base_module
from sdpet.models import find_source, load_base, memory_limit
from sdpet.sampling import SamplerConfig
from sdpet.scoring import EvalPlan, OpenClipScorer, evaluate_run
from sdpet.tasks import DreamBoothTask, FinetuneTask, epoch_indices

PROMPTS = {"prompt": "a photo of a sks star", "class_prompt": "a photo of a star"}


@pytest.fixture
def noise_images():
    return np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)


def dreambooth(base, folders, **options):
    return DreamBoothTask(base, folders["subject"], folders["class"], **PROMPTS, **options)


def test_base_is_frozen_and_hashed_by_content(tiny_folder, tiny_base, tmp_path):
    modules = (tiny_base.unet, tiny_base.vae, tiny_base.text_encoder)
    assert not any(p.requires_grad for module in modules for p in module.parameters())
    assert (tiny_base.image_size, tiny_base.latent_shape) == (32, (4, 8, 8))
    copy = shutil.copytree(tiny_folder, tmp_path / "copy")
    assert find_source(copy).content_hash() == tiny_base.weight_hash
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert find_source(copy).content_hash() != tiny_base.weight_hash


def test_scaling_factor_and_shift_come_from_the_config(tiny_folder, tiny_base, tmp_path, noise_images):
    copy = shutil.copytree(tiny_folder, tmp_path / "copy")
    config = copy / "vae" / "config.json"
    config.write_text(config.read_text().replace('"scaling_factor": 0.4', '"scaling_factor": 0.1'))
    scaled = load_base("scaled", copy)
    latents = tiny_base.encode_images(noise_images)
    torch.testing.assert_close(scaled.encode_images(noise_images), latents * 0.25)
    assert np.array_equal(scaled.decode(latents * 0.25), tiny_base.decode(latents))
    expected = tiny_base.vae.encode(torch.tensor(noise_images).permute(0, 3, 1, 2) / 127.5 - 1).latent_dist.mean
    torch.testing.assert_close(latents, 0.4 * expected)


def test_the_vae_takes_as_many_images_at_a_time_as_pixels_and_free_memory_allow(
    tiny_folder, tiny_base, noise_images, monkeypatch, caplog
):
    """With less memory results differ by rounding at most; with slicing not at all."""
    sizes = ((32, 32), (128, 128), (512, 512), (512, 768), (1024, 1024), (2048, 2048))
    assert [memory_limit.images_at_once(*size) for size in sizes] == [64, 64, 4, 2, 1, 1]

    def through(base, free):
        taken = []
        with monkeypatch.context() as patched:
            patched.setattr(base_module, "free_memory", lambda device: free)
            for network in (base.vae.encoder, base.vae.decoder):
                forward = network.forward
                patched.setattr(network, "forward", lambda x, f=forward, **o: (taken.append(len(x)), f(x, **o))[1])
            latents = base.encode_images(noise_images)
            return taken, latents, base.decode(latents)

    one = memory_limit.image_bytes(tiny_base.vae, 32, 32)
    taken, latents, whole = through(tiny_base, 2**40)
    assert taken == [3, 3] and not caplog.records
    with caplog.at_level("INFO"):
        for free, expected in ((4 * one, [2, 1, 2, 1]), (one, [1] * 6), (0, [1] * 6)):
            taken, mine, drawn = through(tiny_base, free)
            assert taken == expected and abs(drawn.astype(int) - whole).max() <= 1
            torch.testing.assert_close(mine, latents)
    assert "The VAE takes 2 instead of 64 images of 32 x 32 pixels at a time" in caplog.text
    sliced = load_base("tiny", tiny_folder, vae_slicing=True)
    alone = tiny_base.encode_images(noise_images, chunk=1)
    for free in (2**40, 0):
        taken, mine, drawn = through(sliced, free)
        assert taken == [1] * 6 and torch.equal(mine, alone)
        assert np.array_equal(drawn, tiny_base.decode(alone, chunk=1))


def test_text_states_follow_their_prompts(tiny_base):
    states = tiny_base.encode_text(["red star", "", "red star", "blue ring"])
    assert states.shape == (4, 16, 64)
    assert torch.equal(states[0], states[2]) and not torch.equal(states[0], states[3])
    torch.testing.assert_close(states[3:], tiny_base.encode_text(["blue ring"]))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "x", "path": "/nowhere/model"}, "unet.path must be a Stable Diffusion pipeline folder"),
        ({"dtype": "float8"}, "float32, float16, bfloat16"),
        ({"device": "cuda:99"}, "no usable CUDA device"),
    ],
)
def test_base_errors_are_one_sentence(arguments, words):
    if torch.cuda.is_available() and "device" in arguments:
        pytest.skip("there is a CUDA device")
    with pytest.raises(ValueError, match=words) as error:
        load_base(**arguments)
    assert "\n" not in str(error.value)


def clean(base, batch):
    """The latents behind a batch, from the closed form of the noise process."""
    kept = base.scheduler.alphas_cumprod[batch.timesteps].view(-1, 1, 1, 1)
    if base.prediction_type == "v_prediction":
        return kept.sqrt() * batch.noisy - (1 - kept).sqrt() * batch.target
    return (batch.noisy - (1 - kept).sqrt() * batch.target) / kept.sqrt()


def nearest(latents, known):
    """Row of `known` (N, C, h, w) that each latent is, and how far it is off."""
    distance = (latents[:, None] - known[None]).abs().amax(dim=(2, 3, 4))
    return distance.argmin(dim=1).tolist(), distance.min(dim=1).values.max().item()


@pytest.fixture(scope="module")
def v_base(tiny_folder, tmp_path_factory):
    copy = shutil.copytree(tiny_folder, tmp_path_factory.mktemp("v") / "v")
    config = copy / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("epsilon", "v_prediction"))
    return load_base("v", copy)


@pytest.mark.parametrize("kind", ["tiny_base", "v_base"])
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_batch_is_subject_then_class_exactly_noised(request, subject_folders, kind, flip):
    base = request.getfixturevalue(kind)
    task = dreambooth(base, subject_folders, reg_weight=0.5, flip=flip)
    known = []
    for folder in ("subject", "class"):
        images = load_folder(subject_folders[folder], 32)
        known.append(base.encode_images(images[:, :, ::-1].copy() if flip else images))
    for step in range(4):
        batch = task.batch(3, step)
        # undoing the noise divides by sqrt(alpha), down to 0.07 at the last timesteps
        assert nearest(clean(base, batch)[:2], known[0])[1] < 1e-4
        assert nearest(clean(base, batch)[2:], known[1])[1] < 1e-4
    assert torch.equal(batch.text, base.encode_text([PROMPTS["prompt"]] * 2 + [PROMPTS["class_prompt"]] * 2))
    prediction = torch.randn(batch.target.shape, generator=torch.Generator().manual_seed(0))
    error = (prediction - batch.target).square()
    torch.testing.assert_close(task.loss(prediction, batch), error[:2].mean() + 0.5 * error[2:].mean())


def test_batch_is_a_function_of_seed_and_step(tiny_base, subject_folders):
    task = dreambooth(tiny_base, subject_folders, flip=0.5)
    first = task.batch(0, 7)
    state = torch.random.get_rng_state()
    torch.rand(5)
    task.batch(1, 3)
    torch.random.set_rng_state(state)
    again = task.batch(0, 7)
    assert torch.equal(torch.random.get_rng_state(), state), "a batch must not draw from global state"
    for name in ("noisy", "timesteps", "text", "target", "weight"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    for other in (task.batch(1, 7), task.batch(0, 8)):
        assert not torch.equal(first.target, other.target) and not torch.equal(first.timesteps, other.timesteps)


def test_every_epoch_shows_every_image_once():
    rows = torch.cat([epoch_indices(5, 2, 0, step, "x") for step in range(10)]).tolist()
    epochs = [rows[i : i + 5] for i in range(0, 20, 5)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_min_snr_weights(tiny_base, v_base, subject_folders):
    for base, plus in ((tiny_base, 0), (v_base, 1)):
        batch = dreambooth(base, subject_folders, min_snr=5.0).batch(0, 0)
        kept = base.scheduler.alphas_cumprod[batch.timesteps].double()
        snr = kept / (1 - kept)
        expected = 0.5 * np.minimum(snr, 5.0) / (snr + plus)
        torch.testing.assert_close(batch.weight.double(), expected, rtol=1e-5, atol=0)


def test_finetune_pairs_captions_and_drops_a_tenth(tiny_base, noise_images):
    captions = ["red star", "blue ring", "green cross"]
    task = FinetuneTask(
        tiny_base,
        None,
        4,
        images=noise_images,
        captions=captions,
        heldout_images=noise_images[:2],
        heldout_captions=["a", "b"],
    )
    known, states = tiny_base.encode_images(noise_images), tiny_base.encode_text(["", *captions])
    dropped = 0
    for step in range(100):
        batch = task.batch(0, step)
        if step < 5:
            rows, off = nearest(clean(tiny_base, batch), known)
            assert off < 1e-4
            for row, text in zip(rows, batch.text, strict=True):
                assert torch.equal(text, states[0]) or torch.equal(text, states[row + 1])
        dropped += sum(torch.equal(text, states[0]) for text in batch.text)
    assert 20 <= dropped <= 62  # 10 % of 400, within 3.5 standard deviations


def test_digits_are_a_task(tiny_base):
    task = FinetuneTask(tiny_base, "digits")
    assert len(task.images) + len(task.references) == 1797
    assert task.batch(0, 0).noisy.shape == (8, 4, 8, 8)


def test_images_of_every_kind_and_a_broken_one(tmp_path):
    gray16 = np.linspace(0, 65535, 40 * 60).reshape(40, 60).astype(np.uint16)
    Image.fromarray(gray16).save(tmp_path / "a16.png")
    clear = np.zeros((20, 20, 4), np.uint8)  # black, but wholly transparent
    Image.fromarray(clear).save(tmp_path / "b.png")
    rotated = np.zeros((20, 40, 3), np.uint8)
    rotated[:, :20] = 255  # white at the left; turned by EXIF 6 (90 degrees clockwise) it is at the top
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rotated).save(tmp_path / "c.png", exif=exif)
    (tmp_path / "d.png").write_bytes(b"no image")
    with pytest.warns(UserWarning, match=r"d\.png"):
        images = load_folder(tmp_path, 16)
    assert images.shape == (3, 16, 16, 3) and images.dtype == np.uint8
    assert images[0][0, 0, 0] < 40 and images[0][-1, -1, 0] > 215  # scaled from 16 bit, not clipped
    assert (images[1] == 255).all()
    assert images[2][0].mean() > 250 and images[2][-1].mean() < 5
    for file in ("a16.png", "b.png", "c.png"):
        (tmp_path / file).unlink()
    with pytest.raises(ValueError, match="none of the 1 files"):
        load_folder(tmp_path, 16)
    (tmp_path / "d.png").unlink()
    with pytest.raises(ValueError, match="holds no image"):
        load_folder(tmp_path, 16)
    with pytest.raises(ValueError, match="does not exist"):
        load_folder(tmp_path / "gone", 16)


def test_captions_from_metadata_and_from_text_files(tmp_path, noise_images):
    for name, image in zip("abc", noise_images, strict=True):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(f"text {name}\n")
    images, captions = load_captioned(tmp_path, 32)
    assert captions == ["text a", "text b", "text c"] and np.array_equal(images, noise_images)
    lines = ['{"file_name": "b.png", "text": "B"}', '{"file_name": "a.png", "text": "A"}']
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"1 images .* no caption, first c\.png"):
        load_captioned(tmp_path, 32)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reg_weight": -1}, "reg_weight"),
        ({"batch_size": 0}, "batch_size"),
        ({"flip": 2}, "flip"),
        ({"token": "xyz"}, "token 'xyz'"),
        ({"heldout_dir": "/nowhere"}, "held-out folder /nowhere does not exist"),
    ],
)
def test_dreambooth_errors(tiny_base, subject_folders, options, words):
    with pytest.raises(ValueError, match=words):
        dreambooth(tiny_base, subject_folders, **options)


def test_what_a_text_encoder_does_not_read_is_said_once(tiny_base, caplog):
    """By what is encoded for training and sampling, and by the scorer of texts; short texts are not mentioned."""
    from sdpet.lab import load_scorer

    room = tiny_base.tokenizer.model_max_length - 2
    texts = ["red star " * (room // 2) + "red" * (room % 2), "red star " * (room // 2) + "red blue ring"]
    with caplog.at_level("INFO", "sdpet"):
        for _ in range(2):
            tiny_base.encode_text(texts)
    (said,) = [record.message for record in caplog.records]
    assert said.startswith("The text encoder reads the beginning of 'red star") and "ring'" in said
    caplog.clear()
    scorer = load_scorer()
    with caplog.at_level("INFO", "sdpet"):
        for _ in range(2):
            scorer.encode_text(["red star", "a green ring " * scorer.tokenizer.model_max_length])
    assert len(caplog.records) == 1 and "scorer" in caplog.records[0].message


def test_templates_that_differ_only_behind_the_end_are_refused(tiny_base, subject_folders, tiny_scorer):
    room = tiny_base.tokenizer.model_max_length - 2
    start = "{prompt} " + "red star " * room
    task = dreambooth(tiny_base, subject_folders)
    plan = EvalPlan(subject_images=1, class_images=0, prompts=[start + "blue", start + "green"], prompt_images=1)
    with pytest.raises(ValueError, match=rf"differ only behind the {room} tokens that the text encoder reads"):
        evaluate_run(tiny_base, task, tiny_scorer, SamplerConfig("ddim", 1, 1.0), 0, plan)
    plan = EvalPlan(subject_images=1, class_images=0, prompts=["blue " + start, "green " + start], prompt_images=1)
    assert evaluate_run(tiny_base, task, tiny_scorer, SamplerConfig("ddim", 1, 1.0), 0, plan).metrics


def test_open_clips_texts_say_what_is_left_out(caplog):
    import open_clip

    scorer = OpenClipScorer.__new__(OpenClipScorer)
    scorer._tokenize = open_clip.SimpleTokenizer()
    ends = scorer._left_out(["a dog", "a dog " * 40])
    assert ends[0] == "" and ends[1].startswith("dog a dog")
    assert len(scorer._tokenize.encode(ends[1])) == 80 - 75
