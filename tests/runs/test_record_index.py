"""The index of a study's records says what the records say, however they change, and is never believed against them."""

import json
import os
import shutil

import pandas as pd
import pytest

import analysis
from sdpet.runs import Record, record_index
from sdpet.runs.record_index import FILE, RecordIndex

RUNS = 8


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study of 8 runs with an index; every record counts as settled."""
    monkeypatch.setattr(record_index, "LEAST", 3)
    monkeypatch.setattr(record_index, "SETTLED", -(10**12))
    for number in range(RUNS):
        put(tmp_path / "mine", number)
    analysis.load_results(tmp_path / "mine")
    assert (tmp_path / "mine" / FILE).is_file()
    return tmp_path / "mine"


def put(study, number, score=0.5):
    """A finished run with one file of weights."""
    folder = study / f"run{number:02}"
    (folder / "samples").mkdir(parents=True)
    (folder / "samples" / "index.jsonl").touch()
    (folder / "config.yaml").write_text(f"seed: {number}\n")
    (folder / "adapters.safetensors").write_bytes(b"weights")
    (folder / "identity.json").write_text(json.dumps({"identity": {"seed": number, "trainer": {"device": "cpu"}}}))
    factors = {"placement": "attn2o-ffni", "method": "adapter", "seed": number, "lr": 1e-3 if number % 2 else 2e-3}
    record = Record(folder.name, study.name, "finished", factors, {"name": "dreambooth", "data": "lab"})
    record.metrics, record.sizes = {"clip_i": score + number / 10, "odd": None}, {"bytes": 7}
    record.settings = {"seed": number, "trainer.lr": factors["lr"], "data.noun": None}
    record.protocol = {"sampler": {"name": "dpm"}, "scores": {"clip_i": {"scorer": "lab"}}}
    record.write(folder)
    return folder


def read(study, monkeypatch):
    """The study as it is loaded, and how many records were read for it."""
    opened = []
    with monkeypatch.context() as patched:
        real = record_index.read_record
        patched.setattr(record_index, "read_record", lambda path: opened.append(path) or real(path))
        found = analysis.load_results(study, status=None)
    return found, len(opened)


def without_index(study, monkeypatch):
    (study / FILE).unlink(missing_ok=True)
    found, opened = read(study, monkeypatch)
    assert opened == len(list(study.glob("*/record.json")))
    return found


def assert_same(found, expected):
    pd.testing.assert_frame_equal(found, expected)
    assert found.attrs == expected.attrs


def test_the_index_says_what_the_records_say(study, monkeypatch):
    found, opened = read(study, monkeypatch)
    assert opened == 0
    assert_same(found, without_index(study, monkeypatch))


def test_what_was_added_changed_or_deleted_is_read_from_the_records(study, monkeypatch):
    put(study, 20, score=0.9)
    changed = study / "run03" / "record.json"
    before = changed.stat()
    changed.write_text(changed.read_text().replace("0.8", "0.1", 1))  # of equal size
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))  # and of equal time
    shutil.rmtree(study / "run05")
    (study / "run06" / "record.json").write_text("{")
    found, opened = read(study, monkeypatch)
    assert opened == 3 and set(found["run_id"]) == {f"run{n:02}" for n in (0, 1, 2, 3, 4, 7, 20)}
    scores = found.set_index("run_id")["clip_i"]
    assert scores["run03"] == 0.1 and scores["run20"] == 0.9 + 2
    assert any("run03/record.json was changed" in note for note in found.attrs["notes"])
    assert_same(found, without_index(study, monkeypatch))


def test_a_damaged_index_is_ignored_and_made_again(study, monkeypatch):
    expected, _ = read(study, monkeypatch)
    whole = (study / FILE).read_bytes()
    for damaged in (b"", whole[:-40], whole[: len(whole) // 2], b"x" * 5000):
        (study / FILE).write_bytes(damaged)
        found, opened = read(study, monkeypatch)
        assert opened == RUNS
        assert_same(found, expected)
        assert read(study, monkeypatch)[1] == 0  # it was made again
    monkeypatch.setattr(record_index, "_version", lambda: b"another")
    assert read(study, monkeypatch)[1] == RUNS


def test_no_changed_bit_of_an_index_changes_what_it_says(study):
    whole, expected = (study / FILE).read_bytes(), record_index._load(study / FILE)
    assert len(expected) == RUNS
    for place in range(0, len(whole), 11):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        (study / FILE).write_bytes(damaged)
        assert record_index._load(study / FILE) in ({}, expected), place


def test_a_copied_study_is_read_from_its_records(study, monkeypatch, tmp_path):
    shutil.copytree(study, tmp_path / "copy" / "mine")
    assert read(tmp_path / "copy" / "mine", monkeypatch)[1] == RUNS


def test_runs_that_lost_files_are_not_complete(study):
    (study / "run00" / "adapters.safetensors").unlink()
    with (study / "run01" / "adapters.safetensors").open("ab") as file:
        file.write(b"more")  # in place, so that the folder does not change
    (study / "run02" / "samples" / "index.jsonl").unlink()
    (study / "run03" / "config.yaml").unlink()
    index = RecordIndex(study)
    assert [index.find(study / f"run{n:02}") is None for n in range(RUNS)] == [True] * 4 + [False] * 4
    assert index.find(study / "run04").metrics == Record.read(study / "run04").metrics
