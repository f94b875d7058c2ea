"""Tasks on the user's own data: photos of every kind, class images, captioned sets, and the cache of latents."""

import json
import shutil
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from study_tools import composed, tiny_overrides

from sdpet.commands.scripts.init_image import read_init
from sdpet.config import identity, run_id, validate
from sdpet.files import load_folder
from sdpet.models import load_base
from sdpet.runs import Record, Resources, run
from sdpet.sampling import SamplerConfig
from sdpet.scoring import read_set
from sdpet.study import make_plan
from sdpet.study.report import run_report
from sdpet.tasks import DreamBoothTask, LatentCache, class_folder

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


def test_training_evaluation_and_init_images_see_the_same_picture(tmp_path):
    seen = Image.effect_noise((32, 32), 80).convert("RGB")
    turned, exif = seen.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "a.png", exif=exif)
    deep = np.linspace(0, 65535, 32 * 32).reshape(32, 32).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "b.png")
    Image.fromarray(np.zeros((32, 32, 4), np.uint8)).save(tmp_path / "c.png")  # hidden black
    trained = load_folder(tmp_path, 32)
    assert np.array_equal(trained[0], np.asarray(seen)) and (trained[2] == 255).all()
    assert abs(trained[1][..., 0] - deep / 257).max() <= 0.5
    for size in (None, 32):
        assert np.array_equal(read_set(tmp_path, "reference", size)[0], trained)
    assert np.array_equal(np.stack([read_init(str(tmp_path / f"{name}.png")) for name in "abc"]), trained)


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
    lines = (found[0] / "index.jsonl").read_text().splitlines(keepends=True)
    (found[0] / "index.jsonl").write_text("".join(lines[:8]))  # interrupted after the first chunk
    (found[0] / "00009.png").unlink()
    (found[0] / "00010.png").unlink()
    assert ask() == found[0] and calls == [8, 3, 3]
    assert np.array_equal(load_folder(found[0], 32, "class"), images)
    task = Resources().task(config)
    assert calls == [8, 3, 3] and task.describe()["class_images"] == 11


def test_changed_class_images_are_drawn_again_and_foreign_ones_left_out(drawn):
    config = drawn()
    first = Resources().task(config)
    folder = next((config.output_root / ".cache" / "class").glob("*/index.jsonl")).parent
    whole = {file.name: file.read_bytes() for file in folder.glob("*.png")}
    (folder / "00001.png").unlink()
    (folder / "00002.png").write_bytes(whole["00002.png"][:-40])
    shutil.copy(folder / "00004.png", folder / "00003.png")
    shutil.copy(DOG / "class" / "00000.jpg", folder / "mine.jpg")
    with pytest.warns(UserWarning) as said:
        again = Resources().task(config)
    texts = [str(warning.message) for warning in said]
    assert sum("drawn again: 00001.png, 00002.png, 00003.png." in text for text in texts) == 1
    assert sum("did not draw them: mine.jpg." in text for text in texts) == 1
    assert again.class_hash == first.class_hash and again.describe()["class_images"] == 11
    assert (folder / "mine.jpg").exists()
    assert {file.name: file.read_bytes() for file in folder.glob("*.png")} == whole
    rows = [json.loads(line) for line in (folder / "index.jsonl").read_text().splitlines()]
    old = "".join(json.dumps({key: row[key] for key in ("file", "prompt", "seed")}) + "\n" for row in rows)
    (folder / "index.jsonl").write_text(old)  # as earlier versions wrote it
    shutil.copy(folder / "00004.png", folder / "00003.png")
    with pytest.warns(UserWarning, match="holds no digests"):
        assert Resources().task(config).class_hash == first.class_hash


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
        assert len(file.read_bytes()) == len(whole)  # the header names its entries in any order
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


def test_foreign_files_change_no_run_id_and_are_no_pictures(drawn, tiny_base, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(3):
        Image.new("RGB", (32, 32), (80 * i, 0, 0)).save(photos / f"{i}.png")
    config = [f"data.subject={photos}", f"data.class_dir={DOG / 'class'}"]
    name = run_id(drawn(*config))
    (photos / "notes.txt").write_text("from the garden")
    (photos / "unused").mkdir()
    shutil.copy(photos / "0.png", photos / "unused" / "0.png")
    (photos / "._0.png").write_bytes(b"Mac OS X")
    (photos / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (photos / "phone.heic").write_bytes(b"")
    Image.new("RGB", (8, 8)).save(photos / "scan.ppm")
    assert run_id(drawn(*config)) == name
    with pytest.warns(UserWarning) as said:
        assert len(load_folder(photos, 32, "subject")) == 3
    texts = "\n".join(str(warning.message) for warning in said)
    assert "only files with .png" in texts and "are read: phone.heic, scan.ppm" in texts
    assert "gone.jpg (FileNotFoundError)" in texts and "._0" not in texts
    frames = [Image.new("L", (32, 32), 60 * i) for i in range(4)]
    frames[0].save(photos / "moving.gif", save_all=True, append_images=frames[1:])
    assert run_id(drawn(*config)) != name
    with pytest.warns(UserWarning, match=r"only the first of .*moving\.gif's 4 frames is used"):
        assert len(load_folder(photos, 32, "subject")) == 4


def test_images_are_paired_with_prompts_as_people_count(tmp_path):
    for i in range(12):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"{i}.png")
    images, files = read_set(tmp_path, "image")
    assert images[:, 0, 0, 0].tolist() == list(range(12)) == [int(file.stem) for file in files]


def test_overrides_about_class_images_that_change_nothing_are_said(drawn):
    class Composed:
        def numbered(self, given, number):
            return given

        def __call__(self, given):
            return drawn(*given).values

    def said(*overrides):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            make_plan(Composed(), [overrides])
        return [str(warning.message) for warning in found]

    given = f"data.class_dir={DOG / 'class'}"
    assert said(given, "data.class_images=5", "data.class_steps=3") == [
        "data.class_images, data.class_steps changes nothing, since the class images are those of data.class_dir."
    ]
    assert said("task.reg_weight=0", "data.class_images=5")[0].endswith("since task.reg_weight=0.")
    assert said(given) == said("data.class_images=5") == []


@pytest.mark.parametrize(
    ("scores", "beyond"),
    [({"clip_i": 0.95, "fid": 0.05, "clip_t": 0.05}, "clip_i, fid"), ({"clip_i": 0.9, "fid": 0.2}, None)],
)
def test_scores_beyond_the_ceiling_are_said(scores, beyond, tmp_path):
    anchors = {"clip_i": {"floor": 0.2, "ceiling": 0.93}, "fid": {"floor": 1.3, "ceiling": 0.09}}
    anchors["clip_t"] = {"floor": 0.4, "ceiling": 0.1}
    record = Record("", "", "finished", {}, {}, metrics=scores, anchors=anchors, sizes={"trainable_params": 1})
    text = run_report("a run", record, tmp_path, False)
    assert (f"beyond the ceiling: {beyond}; copies" in text) if beyond else "beyond the ceiling" not in text
