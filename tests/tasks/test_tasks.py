"""Tasks on the user's own data: photos of every kind, class images, captioned sets, and the cache of latents."""

import json
import shutil
import threading
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from study_tools import composed, tiny_overrides

from sdpet.commands.scripts.init_image import read_init
from sdpet.config import identity, run_id, validate
from sdpet.files.images import load_captioned, load_folder
from sdpet.models import load_base
from sdpet.runs import Record, Resources, run
from sdpet.sampling import SamplerConfig
from sdpet.scoring import EvalPlan, PromptSet, Scorers, read_prompts, read_set
from sdpet.scoring.spread import spread
from sdpet.seeds import generator
from sdpet.study.plan import make_plan
from sdpet.study.report import run_report
from sdpet.tasks import DreamBoothTask, FinetuneTask, LatentCache, class_folder
from sdpet.tasks.captioned import hold_out, read_captioned

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


def test_a_set_sorted_by_class_is_drawn_and_scored_on_all_its_classes(tiny_base, monkeypatch):
    sizes = {"cat": 100, "dog": 200, "emu": 100}
    captions = [name for name, size in sizes.items() for _ in range(size)]
    images = np.arange(400, dtype=np.float32).reshape(-1, 1, 1, 1).repeat(3, -1) * np.ones((1, 32, 32, 1))
    images = (images % 256).astype(np.uint8)
    for trained, held in (hold_out(images, captions, 0.1), hold_out(images[::-1], captions[::-1], 0.1)):
        assert Counter(held[1]) == {"cat": 10, "dog": 20, "emu": 10} and len(trained[1]) == 360
    task = FinetuneTask(tiny_base, None, 8, images=images, captions=captions,
                        heldout_images=images, heldout_captions=captions)  # fmt: skip
    prompts = [item.prompt for item in task.eval_images(EvalPlan(images=40))]
    assert Counter(prompts) == {"cat": 10, "dog": 20, "emu": 10} and prompts == sorted(prompts)
    assert [item.prompt for item in task.eval_images(EvalPlan(images=400))] == captions
    assert Counter(item.prompt for item in task.eval_images(EvalPlan(images=804))) == {
        "cat": 201,
        "dog": 402,
        "emu": 201,
    }
    scored = []
    monkeypatch.setattr(task, "scores", lambda images, items, *rest: scored.append((len(images), items)) or {})
    task.ceiling(Scorers({}), EvalPlan(images=40))
    assert scored[0][0] == 40 and Counter(item.text for item in scored[0][1]) == {"cat": 10, "dog": 20, "emu": 10}
    drawn = [item.prompt for item in PromptSet(captions, images[:2]).eval_images(EvalPlan(images=40))]
    assert Counter(drawn) == {"cat": 10, "dog": 20, "emu": 10}


def test_every_beginning_of_a_spread_set_is_random_and_in_proportion():
    alone = [f"caption {i}" for i in range(50)]
    assert np.array_equal(spread(alone), np.random.default_rng(0).permutation(50)), (
        "held-out images stay what they were"
    )
    mixed = ["a"] * 30 + ["b"] * 60 + alone[:10]
    first = np.array([np.bincount(spread(mixed, seed)[:20], minlength=100) for seed in range(600)])
    assert set(first[:, :30].sum(1)) <= {5, 6, 7}
    share = first.mean(0)
    assert abs(share - 0.2).max() < 0.08, "no image is likelier than another (4.9 standard errors)"


def columns_of(tmp_path, **columns):
    import datasets

    pictures = [{"bytes": (DOG / "class" / f"0000{i % 3}.jpg").read_bytes(), "path": None} for i in range(6)]
    part = datasets.Dataset.from_dict({"image": pictures, **columns}).cast_column("image", datasets.Image())
    part.save_to_disk(str(tmp_path))
    return tmp_path


def read_columns(folder, column):
    (trained, held) = read_captioned(folder, 32, 0.4, "dataset", "image", column)
    assert len(trained[0]) == len(trained[1])
    return sorted(trained[1] + held[1])


def test_a_null_caption_is_no_word_and_other_values_are_refused(tmp_path):
    words = ["a", None, "c", "d", "e", "f"]
    lists, dicts = [[None, "a"], [], *[[word] for word in "cdef"]], [{"raw": word} for word in words]
    folder = columns_of(tmp_path / "set", text=words, texts=lists, parts=dicts, nothing=[None] * 6)
    for column in ("text", "texts"):
        with pytest.warns(UserWarning, match=r"have no caption: row 1$"):
            assert read_columns(folder, column) == ["a", "c", "d", "e", "f"]
    with pytest.raises(ValueError, match=r"'parts' .* must be a text, not dict; .*image, text, texts, parts, nothing"):
        read_columns(folder, "parts")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=r"'nothing' .* holds no caption"):
        read_columns(folder, "nothing")
    with pytest.raises(ValueError, match=r"row 1 of .* has no prompt in the column text"):
        read_prompts(folder)
    with pytest.raises(ValueError, match=r"'text' .* holds no pictures"):
        read_captioned(columns_of(tmp_path / "ints", text=list(range(6))), 32, 0.4, "dataset", "text", "text")


def test_a_row_without_picture_is_left_out_and_named(tmp_path):
    import datasets

    pictures = [
        {"bytes": (DOG / "class" / "00000.jpg").read_bytes(), "path": None},
        None,
        None,
    ]
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    part = datasets.Dataset.from_dict({"image": pictures * 2, "text": list("abcdef")}, features=features)
    part.save_to_disk(str(tmp_path / "set"))
    named = r"row 1 \(no picture\), row 2 \(no picture\), row 4"
    with pytest.warns(UserWarning, match=named):
        assert read_columns(tmp_path / "set", "text") == ["a", "d"]


def captions_folder(folder, metadata, text):
    for name in ("0.png", "sub/1.png", "2.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (10 * int(Path(name).stem), 0, 0)).save(folder / name)
    (folder / metadata).write_text(text)
    return folder


@pytest.mark.parametrize("key", ["text", "caption", "prompt"])
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_metadata_with_the_common_names_and_subfolders(tmp_path, key, kind):
    rows = {"sub/1.png": 'one, "1"', "0.png": "zero", "2.png": "two"}
    if kind == "csv":
        lines = [f"file_name,{key}", *(f'{name},"{text.replace(chr(34), chr(34) * 2)}"' for name, text in rows.items())]
    else:
        lines = [json.dumps({"file_name": name, key: text}) for name, text in rows.items()]
    folder = captions_folder(tmp_path, f"metadata.{kind}", "\n".join(lines))
    images, captions = load_captioned(folder, 32)
    assert dict(zip(images[:, 0, 0, 0] // 10, captions, strict=True)) == {0: "zero", 1: 'one, "1"', 2: "two"}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ('{"file_name": "0.png", "title": "x"}', r"line 1 .* text, caption, prompt, but has file_name, title"),
        ('{"text": "x"}', "line 1 .* must have file_name"),
        ("{broken", "line 1 .* no JSON object"),
        ('{"file_name": "../0.png", "text": "x"}', "not below"),
        ('{"file_name": "9.png", "text": "x"}', "names 9.png, which does not exist"),
        ('{"file_name": "0.png", "text": {"raw": "x"}}', "line 1 .* must be a text, not dict"),
        ('{"file_name": "0.png", "text": null}', "2 images .* have no caption, first 0.png"),
    ],
)
def test_wrong_metadata_gets_one_sentence(tmp_path, row, says):
    with pytest.raises(ValueError, match=says):
        load_captioned(captions_folder(tmp_path, "metadata.jsonl", row), 32)


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
    words = ["task=finetune", "data=captions", f"data.folder={tmp_path / 'words'}", "adapter=attn2o-ffni"]
    lines = [json.dumps({"file_name": name, "text": name}) for name in ("0.png", "sub/1.png", "2.png")]
    folder = captions_folder(tmp_path / "words", "metadata.jsonl", "\n".join(lines))
    name = run_id(validate(composed(*words)))
    (folder / "notes.txt").write_text("from the garden")
    assert run_id(validate(composed(*words))) == name
    (folder / "sub" / "1.png").write_bytes((folder / "0.png").read_bytes())
    assert run_id(validate(composed(*words))) != name


def test_images_are_paired_with_prompts_as_people_count(tmp_path):
    for i in range(12):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"{i}.png")
    images, files = read_set(tmp_path, "image")
    assert images[:, 0, 0, 0].tolist() == list(range(12)) == [int(file.stem) for file in files]


@pytest.mark.parametrize(
    ("where", "names", "held"),
    [
        ("", ["0.png", "1.png", "2.png"], None),
        ("train", ["train/0.png", "train/1.png", "train/2.png"], None),
        ("", ["train/0.png", "train/1.png", "train/2.png"], None),
        ("", ["train/0.png", "train/1.png", "test/2.png"], ["test/2.png"]),
    ],
)
def test_no_image_of_an_imagefolder_is_lost_in_silence(tmp_path, where, names, held):
    lost = str(Path(names[0]).with_name("x.png"))
    for name in [*names, lost]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (32, 32)).save(tmp_path / name)
    base = tmp_path / where
    said = [str((tmp_path / name).relative_to(base)) for name in names]
    rows = [json.dumps({"file_name": name, "text": name}) for name in said]
    (base / "metadata.jsonl").write_text("\n".join(rows))
    with pytest.warns(UserWarning, match=f"as no metadata names them: {lost}$"):
        found = read_captioned(tmp_path, 32, 0.34, "dataset")
    assert sorted(found[0][1] + found[1][1]) == sorted(said) and (held is None or found[1][1] == held)


def test_overrides_about_class_images_that_change_nothing_are_said(drawn):
    def said(*overrides):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            make_plan(lambda given: drawn(*given).values, [overrides])
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
