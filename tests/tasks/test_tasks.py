"""Tasks on the user's own data: photos of every kind, class images, captioned sets, and the cache of latents."""

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from study_tools import composed, tiny_overrides

from sdpet.config import identity, run_id, validate
from sdpet.files.images import load_folder
from sdpet.models import load_base
from sdpet.runs import Resources, run
from sdpet.sampling import SamplerConfig
from sdpet.seeds import generator
from sdpet.tasks import DreamBoothTask, FinetuneTask, LatentCache, class_folder

DOG = Path(__file__).parents[1] / "data" / "dog"
WORDS = ("a photo of a sks dog", "a photo of a dog")


def photos(folder: Path) -> np.ndarray:
    """The real photo of 16 bits in many disguises: uint8 (N, 32, 32, 3) as they should be read, all nearly alike."""
    folder.mkdir()
    shutil.copy(DOG / "subject" / "2.png", folder / "a16.png")
    picture = Image.open(DOG / "subject" / "2.png").convert("RGB")
    turned = picture.transpose(Image.Transpose.ROTATE_90)  # the camera was held upright, and says so
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(folder / "b_turned.jpg", exif=exif, quality=98)
    picture.convert("CMYK").save(folder / "c_cmyk.jpg", quality=98)
    picture.quantize(256).save(folder / "d_palette.png")
    picture.resize((440, 512), Image.Resampling.BICUBIC).save(folder / "E_LARGE.WEBP", lossless=True)
    picture.convert("L").save(folder / "f_grey.png")
    return load_folder(folder, 32)


def test_photos_of_every_kind_look_alike(tmp_path):
    found = photos(tmp_path / "photos").astype(float)
    assert found.shape == (6, 32, 32, 3) and found[0].std() > 20
    for other in found[1:5]:
        assert abs(other - found[0]).mean() < 6, "turned, clipped or in other colours, it would differ by far more"
    assert abs(found[5].mean(-1) - found[0].mean(-1)).mean() < 12 and np.ptp(found[5], axis=-1).max() == 0


def test_a_broken_photo_is_named_and_the_others_train(tiny_folder, subject_folders, tmp_path, capfd):
    photos(tmp_path / "photos")
    whole = (DOG / "class" / "00000.jpg").read_bytes()
    (tmp_path / "photos" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "photos" / "words.png").write_text("this is no image")
    overrides = [o for o in tiny_overrides(tiny_folder, subject_folders, tmp_path) if not o.startswith("data.")]
    own = ["data=folder", f"data.subject={tmp_path / 'photos'}", "data.class_word=dog", "quiet=true"]
    with pytest.warns(UserWarning, match=r"left out as unreadable in .*photos: cut\.jpg .*words\.png"):
        record = run(composed(*overrides, *own, f"data.class_dir={DOG / 'class'}"))
    assert record.status == "finished" and record.task["subject_images"] == 6 and record.task["class_images"] == 3
    for file in (tmp_path / "photos").iterdir():
        file.write_bytes(b"broken")
    with pytest.raises(ValueError, match="none of the 8 files"):
        load_folder(tmp_path / "photos", 32)


@pytest.fixture
def drawn(tiny_folder, subject_folders, tmp_path):
    """A config whose class images the base draws, as a function of further overrides."""
    overrides = [o for o in tiny_overrides(tiny_folder, subject_folders, tmp_path / "out") if not o.startswith("data.")]
    own = ["data=folder", f"data.subject={subject_folders['subject']}", "data.class_word=star"]
    few = ["data.class_images=11", "data.class_steps=2"]
    return lambda *more: validate(composed(*overrides, *own, *few, *more))


def test_class_images_are_drawn_once_however_many_ask(drawn, tiny_folder, monkeypatch):
    from sdpet.tasks import class_images

    base, calls, seen, found = load_base("tiny", tiny_folder), [], [], []
    original = class_images.sample
    monkeypatch.setattr(class_images, "sample", lambda *a, **k: (calls.append(len(a[1])), original(*a, **k))[1])
    config = drawn()
    root = config.output_root / ".cache" / "class"
    sampler = SamplerConfig(*(config.values["data"][f"class_{key}"] for key in ("sampler", "steps", "guidance")))

    def ask(progress=None):
        return class_folder(root, base, "a photo of a star", 11, sampler, progress)

    def ask_with_progress():
        found.append(ask(lambda *done: seen.append(done)))

    threads = [threading.Thread(target=ask_with_progress) for _ in range(3)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(found) == 3 and len(set(found)) == 1 and calls == [8, 3]
    assert seen == [("class images", 8, 11), ("class images", 11, 11)]
    images = load_folder(found[0], 32, "class")
    rows = [json.loads(line) for line in (found[0] / "index.jsonl").read_text().splitlines()]
    assert len(images) == 11 and len({row["seed"] for row in rows}) == 11 and rows[0]["prompt"] == "a photo of a star"
    (found[0] / "index.jsonl").unlink()  # interrupted: the two last are missing
    (found[0] / "00009.png").unlink()
    (found[0] / "00010.png").unlink()
    assert ask() == found[0] and calls == [8, 3, 2]
    assert np.array_equal(load_folder(found[0], 32, "class"), images)
    task = Resources().task(config)
    assert calls == [8, 3, 2] and task.describe()["class_images"] == 11


def test_drawn_class_images_are_in_the_run_id_by_how_they_are_made(drawn, tiny_folder, subject_folders, tmp_path):
    name = run_id(drawn())
    assert run_id(drawn(f"output_root={tmp_path / 'elsewhere'}")) == name
    assert (
        len({run_id(drawn(f"data.class_{o}")) for o in ("images=12", "steps=3", "sampler=ddim", "guidance=2")} | {name})
        == 5
    )
    given = drawn(f"data.class_dir={subject_folders['class']}")
    assert run_id(given) != name and "class_images" not in identity(given)["data"]
    assert run_id(given) == run_id(drawn(f"data.class_dir={subject_folders['class']}", "data.class_images=5"))
    without = [run_id(drawn("task.reg_weight=0", f"data.class_images={n}")) for n in (5, 6)]
    assert without[0] == without[1] != name


def test_latents_are_computed_once_and_anew_for_any_change(tiny_folder, subject_folders, tmp_path, monkeypatch):
    base, cache, calls = load_base("tiny", tiny_folder), tmp_path / "cache", []
    images, text = type(base).encode_images, type(base).encode_text
    monkeypatch.setattr(type(base), "encode_images", lambda *a: (calls.append("images"), images(*a))[1])
    monkeypatch.setattr(type(base), "encode_text", lambda *a: (calls.append("text"), text(*a))[1])

    def make(base=base, folder=subject_folders["subject"], cache=cache):
        calls.clear()
        return DreamBoothTask(base, folder, subject_folders["class"], *WORDS, flip=0.5, cache=cache)

    first, plain = make(), make(cache=None)
    again = make()
    assert calls == []
    for step in range(3):
        a, b, c = (task.batch(1, step) for task in (first, again, plain))
        assert all(torch.equal(getattr(a, k), getattr(x, k)) for k in ("noisy", "text", "target") for x in (b, c))
    changed = shutil.copytree(subject_folders["subject"], tmp_path / "changed")
    pixels = np.array(Image.open(changed / "00.png"))
    pixels[3, 5, 1] ^= 1
    Image.fromarray(pixels).save(changed / "00.png")
    make(folder=changed)
    assert calls == ["images", "images"], "the changed photos and their mirror images; class and text are known"
    other = load_base("tiny", tiny_folder)
    other.weight_hash = "f" * 32
    make(base=other)
    assert calls == ["images"] * 4 + ["text"]


def test_damaged_entries_are_made_anew(tiny_base, tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), dtype=np.uint8)
    cache = LatentCache(tiny_base, tmp_path)
    right = cache.latents(images)
    (file,) = tmp_path.glob("*.safetensors")
    whole = file.read_bytes()
    flipped = whole[:-5] + bytes([whole[-5] ^ 64]) + whole[-4:]
    for damaged in (whole[:100], b"", whole[:-7], flipped):
        file.write_bytes(damaged)
        assert torch.equal(cache.latents(images), right)
        assert file.read_bytes() == whole
    (tmp_path / "file").write_text("a file, where a folder should be made")
    with pytest.warns(UserWarning, match="are not kept"):
        assert torch.equal(LatentCache(tiny_base, tmp_path / "file").latents(images), right)


def test_of_several_askers_one_computes(tiny_base, tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), dtype=np.uint8)
    original, calls, found = type(tiny_base).encode_images, [], []

    def slow(*given):
        calls.append(1)
        threading.Event().wait(0.3)
        return original(*given)

    monkeypatch.setattr(type(tiny_base), "encode_images", slow)
    threads = [
        threading.Thread(target=lambda: found.append(LatentCache(tiny_base, tmp_path).latents(images)))
        for _ in range(4)
    ]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(calls) == 1 and len(found) == 4 and all(torch.equal(one, found[0]) for one in found)


def test_a_run_keeps_its_latents_under_the_output_root(drawn, subject_folders, monkeypatch):
    config = drawn(f"data.class_dir={subject_folders['class']}")
    Resources().task(config)
    root = config.output_root / ".cache"
    assert len(list(root.glob("*.safetensors"))) == 5  # two views of subject and class, and the text


@pytest.fixture(scope="module")
def captioned():
    """30 images uint8 (32, 32, 3), each of one grey, and captions that name it."""
    images = [np.full((40, 32, 3), 8 * i, np.uint8) for i in range(30)]
    return images, [f"grey number {i}" for i in range(30)]


def pairs(task):
    """grey level / 8 and caption of every image of the training and the held-out split."""
    trained = zip(task.images[:, 0, 0, 0] // 8, task.captions, strict=True)
    return list(trained), list(zip(task.references[:, 0, 0, 0] // 8, task.heldout_captions, strict=True))


def test_datasets_on_disk_are_a_task(tiny_base, captioned, tmp_path):
    import datasets

    images, captions = captioned
    columns = {"image": [Image.fromarray(image) for image in images], "said": captions}
    whole = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    whole.save_to_disk(str(tmp_path / "one"))
    task = FinetuneTask(tiny_base, tmp_path / "one", source="dataset", caption_column="said", heldout_share=0.2)
    assert datasets.is_progress_bar_enabled(), "off while the set is read, and then as before"
    trained, held = pairs(task)
    assert (len(trained), len(held)) == (24, 6) and not set(trained) & set(held)
    assert all(caption == f"grey number {grey}" for grey, caption in trained + held)
    again = FinetuneTask(tiny_base, tmp_path / "one", source="dataset", caption_column="said", heldout_share=0.2)
    assert pairs(again) == (trained, held)
    with pytest.raises(ValueError, match=r"no column 'text'.*image, said"):
        FinetuneTask(tiny_base, tmp_path / "one", source="dataset")
    parted = datasets.DatasetDict({"train": whole.select(range(20)), "test": whole.select(range(20, 30))})
    parted.save_to_disk(str(tmp_path / "two"))
    trained, held = pairs(FinetuneTask(tiny_base, tmp_path / "two", source="dataset", caption_column="said"))
    assert [grey for grey, _ in trained] == list(range(20)) and [grey for grey, _ in held] == list(range(20, 30))
    with pytest.raises(ValueError, match="cannot be read"):
        FinetuneTask(tiny_base, tmp_path, source="dataset")


def test_labels_become_captions_and_a_broken_row_is_named(tiny_base, captioned, tmp_path):
    import datasets

    rows = [{"bytes": (DOG / "class" / f"0000{i}.jpg").read_bytes(), "path": None} for i in (0, 1, 2)]
    rows[1]["bytes"] = b"nothing"
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "big_dog"])})
    part = datasets.Dataset.from_dict({"image": rows, "label": [1, 0, 0]}, features=features)
    part.save_to_disk(str(tmp_path / "set"))
    with pytest.warns(UserWarning, match=r"left out as unreadable in .*: row 1 \(UnidentifiedImageError\)"):
        task = FinetuneTask(tiny_base, tmp_path / "set", source="dataset", caption_column="label", heldout_share=0.5)
    assert sorted(task.captions + task.heldout_captions) == ["a photo of a big dog", "a photo of a cat"]


def test_flowers_of_torchvision_are_a_task(tiny_base, tmp_path, monkeypatch):
    from scipy.io import savemat
    from torchvision.datasets import flowers102

    with pytest.raises(ValueError, match="does not contain Flowers102"):
        FinetuneTask(tiny_base, tmp_path, source="flowers")
    folder = tmp_path / "flowers-102"
    (folder / "jpg").mkdir(parents=True)
    for i in range(1, 13):
        Image.new("RGB", (40, 32), (20 * i, 0, 0)).save(folder / "jpg" / f"image_{i:05d}.jpg")
    savemat(folder / "imagelabels.mat", {"labels": np.array([i % 3 + 1 for i in range(1, 13)])})
    savemat(folder / "setid.mat", {"trnid": [1, 5, 9, 12], "valid": [2, 6, 10, 11], "tstid": [3, 4, 7, 8]})
    monkeypatch.setattr(flowers102, "check_integrity", lambda *_: True)  # sums of the true files
    task = FinetuneTask(tiny_base, tmp_path, source="flowers", heldout_share=0.25)
    assert len(task.images) == 9 and len(task.references) == 3
    names = ["pink primrose", "hard-leaved pocket orchid", "canterbury bells"]
    for image, caption in [*zip(task.images, task.captions), *zip(task.references, task.heldout_captions)]:  # noqa: B905
        number = round(image[..., 0].mean() / 20)
        assert caption == f"a photo of a {names[number % 3]}"
    config = [f"output_root={tmp_path / 'out'}", "task=finetune", "data=flowers", f"data.folder={tmp_path}"]
    name = run_id(validate(composed(*config)))
    savemat(folder / "imagelabels.mat", {"labels": np.array([1] * 12)})
    assert run_id(validate(composed(*config))) != name


def test_a_tenth_of_the_captions_is_dropped_from_a_folder(tiny_base, captioned, tmp_path):
    images, captions = captioned
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        Image.fromarray(image).save(tmp_path / f"{i:02d}.png")
        (tmp_path / f"{i:02d}.txt").write_text(caption)
    task = FinetuneTask(tiny_base, tmp_path, batch_size=20, heldout_share=0.1, cache=tmp_path / "cache")
    assert len(task.images) == 27 and not set(task.captions) & set(task.heldout_captions)
    prompts = [prompt for step in range(60) for prompt in task.batch(0, step).prompts]
    share = sum(prompt == "" for prompt in prompts) / len(prompts)
    assert 0.07 < share < 0.13 and set(prompts) == {"", *task.captions}
    batch = task.batch(0, 0)
    assert torch.equal(
        batch.text, tiny_base.encode_text(["", *task._unique[1:]])[[task._unique.index(p) for p in batch.prompts]]
    )
    dropped = torch.rand(20, generator=generator(0, 0, "captions and flips")) < 0.1
    assert [prompt == "" for prompt in batch.prompts] == dropped.tolist()
