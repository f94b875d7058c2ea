"""Captioned sets: folders with metadata, data sets on disk, flowers; what is drawn and scored of them."""

import json
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from study_tools import composed

from sdpet.choices import IMAGE_SUFFIXES
from sdpet.config import identity, run_id, validate
from sdpet.files import load_captioned
from sdpet.files.hashing import hash_folder
from sdpet.scoring import EvalPlan, PromptSet, Scorers, read_prompts
from sdpet.scoring.spread import spread
from sdpet.seeds import generator
from sdpet.tasks import FinetuneTask, read_captioned
from sdpet.tasks.captioned import hold_out

DOG = Path(__file__).parents[1] / "data" / "dog"


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
        lines = [json.dumps({"file_name": name, key: text}) for name, text in (rows | {"9.png": "nine"}).items()]
    folder = captions_folder(tmp_path, f"metadata.{kind}", "\n".join(lines))
    with pytest.warns(UserWarning, match=r"do not exist: 9\.png$") if kind == "jsonl" else nullcontext():
        images, captions = load_captioned(folder, 32)
    assert dict(zip(images[:, 0, 0, 0] // 10, captions, strict=True)) == {0: "zero", 1: 'one, "1"', 2: "two"}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ('{"file_name": "0.png", "title": "x"}', r"line 1 .* text, caption, prompt, but has file_name, title"),
        ('{"text": "x"}', "line 1 .* must have file_name"),
        ("{broken", "line 1 .* no JSON object"),
        ('{"file_name": "../0.png", "text": "x"}', "which is not inside"),
        ('{"file_name": "0.png", "text": {"raw": "x"}}', "line 1 .* must be a text, not dict"),
        ('{"file_name": "0.png", "text": null}', "2 images .* have no caption, first 0.png"),
    ],
)
def test_wrong_metadata_gets_one_sentence(tmp_path, row, says):
    with pytest.raises(ValueError, match=says):
        load_captioned(captions_folder(tmp_path, "metadata.jsonl", row), 32)


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


def test_foreign_files_beside_captions_change_no_run_id(tmp_path):
    words = ["task=finetune", "data=captions", f"data.folder={tmp_path / 'words'}", "adapter=attn2o-ffni"]
    lines = [json.dumps({"file_name": name, "text": name}) for name in ("0.png", "sub/1.png", "2.png")]
    folder = captions_folder(tmp_path / "words", "metadata.jsonl", "\n".join(lines))
    name = run_id(validate(composed(*words)))
    (folder / "notes.txt").write_text("from the garden")
    assert run_id(validate(composed(*words))) == name
    (folder / "sub" / "1.png").write_bytes((folder / "0.png").read_bytes())
    assert run_id(validate(composed(*words))) != name


def test_foreign_files_beside_a_data_set_change_no_run_id(tmp_path):
    import datasets

    images = [Image.new("RGB", (8, 8), (20 * i, 0, 0)) for i in range(6)]
    whole = datasets.Dataset.from_dict({"image": images, "text": list("abcdef")}).cast_column("image", datasets.Image())
    whole.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": whole, "test": whole.select([0, 1])}).save_to_disk(str(tmp_path / "two"))
    captions_folder(tmp_path / "three", "metadata.jsonl", json.dumps({"file_name": "0.png", "text": "a"}))
    for name, inside in (("one", "."), ("two", "train"), ("three", ".")):
        folder = tmp_path / name
        config = ["task=finetune", "data=dataset", f"data.folder={folder}"]
        before = run_id(validate(composed(*config)))
        plain = hash_folder(folder, (*IMAGE_SUFFIXES, ".txt", ".jsonl", ".arrow", ".json"))  # as it was before
        assert identity(validate(composed(*config)))["data"]["folder"] == plain
        (folder / inside / "cache-0123.arrow").write_bytes(b"what map() left")
        for foreign in ("README.txt", "notes.json", "table.csv", ".hidden.png"):
            (folder / inside / foreign).write_text("of somebody")
        assert run_id(validate(composed(*config))) == before, name
    (tmp_path / "two" / "train" / "data-00000-of-00001.arrow").write_bytes(b"other")
    assert run_id(validate(composed("task=finetune", "data=dataset", f"data.folder={tmp_path / 'two'}"))) != before


def test_flowers_in_the_wrong_folder_get_one_sentence(tmp_path):
    config = ["task=finetune", "data=flowers"]
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(ValueError, match=r"no flowers-102 in .*Flowers102\(folder, download=True\)"):
            validate(composed(*config, f"data.folder={folder}"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("kind", ["beside", "metadata.csv", "prompts"])
def test_texts_are_read_without_the_mark_of_their_encoding(tmp_path, encoding, kind):
    """As Windows' editors write them; a mark that stays would be part of the caption."""
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    text = "file_name,text\n0.png,café\n" if kind == "metadata.csv" else "café"
    (tmp_path / {"beside": "0.txt", "prompts": "prompts.txt"}.get(kind, kind)).write_bytes(text.encode(encoding))
    found = read_prompts(tmp_path / "prompts.txt") if kind == "prompts" else load_captioned(tmp_path, 8)[1]
    assert found == ["café"]


@pytest.mark.parametrize("kind", ["0.txt", "metadata.csv", "metadata.jsonl"])
def test_a_text_in_windows_1252_is_named(tmp_path, kind):
    Image.new("RGB", (8, 8)).save(tmp_path / "0.png")
    (tmp_path / kind).write_bytes("the dog’s ball".encode("cp1252"))
    with pytest.raises(ValueError, match=rf"{kind} is no UTF-8 text \(byte 0x92 at 7.*save it as UTF-8"):
        load_captioned(tmp_path, 8)
