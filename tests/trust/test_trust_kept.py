"""Nothing that is complete is deleted by a run, and nothing that was kept changes in silence."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from study_tools import ROOT, composed, tiny_overrides

import analysis
from sdpet.commands.evaluate_runs import evaluate_again
from sdpet.config import run_folder, validate
from sdpet.files.digests import read_signed, signed
from sdpet.runs import Record, Resources, run
from sdpet.runs.verify import verified_text, verify
from sdpet.study.status import status_text, study_status

SCORED = {"asked": ["sampler.guidance=4"], "metrics": {"clip_i": 0.5}, "anchors": {}, "protocol": {"later": 1}}


@pytest.fixture(scope="module")
def resources():
    return Resources()


@pytest.fixture(scope="module")
def finished(tiny_folder, subject_folders, tmp_path_factory, resources):
    """The study of one finished run that was scored again, to be copied."""
    out = tmp_path_factory.mktemp("finished")
    config = composed(*tiny_overrides(tiny_folder, subject_folders, out))
    assert run(config, resources).status == "finished"
    folder = run_folder(validate(config))
    record = Record.read(folder)
    record.evaluations.append(SCORED)
    record.write(folder)
    return folder


@pytest.fixture
def stored(finished, tiny_folder, subject_folders, tmp_path):
    """A copy of that run, and the config that asks for it."""
    shutil.copytree(finished.parent.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / "single" / finished.name, composed(*tiny_overrides(tiny_folder, subject_folders, tmp_path))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_lost_samples_are_drawn_again_and_later_scores_stay(stored, resources, caplog):
    folder, config = stored
    before = contents(folder)
    shutil.rmtree(folder / "samples")
    with caplog.at_level(logging.WARNING, logger="sdpet"):
        record = run(config, resources)
    assert record.evaluations == [SCORED]
    assert contents(folder) == before, "the same bits on the same machine"
    assert "drawn again" in caplog.text and "other bits" not in caplog.text
    assert not (folder.parent / ".replaced").exists()


def test_a_lost_config_is_written_again(stored, resources):
    folder, config = stored
    before = contents(folder)
    (folder / "config.yaml").unlink()
    assert run(config, resources).evaluations == [SCORED]
    after = contents(folder)
    assert after.keys() == before.keys() and after["record.json"] == before["record.json"]


def test_a_record_of_a_later_version_is_refused_and_left_alone(stored, resources):
    folder, config = stored
    content = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps({**content, "format": 7}))
    before = contents(folder)
    with pytest.raises(ValueError, match=r"format 7.*later version.*update sdpet"):
        run(config, resources)
    assert contents(folder) == before


@pytest.mark.parametrize("lost", ["adapters.safetensors", "record.json"])
def test_what_is_done_again_is_moved_aside_first(stored, resources, lost):
    folder, config = stored
    for times in (1, 2):
        (folder / lost).write_text("{" if lost == "record.json" else "")
        before = contents(folder)
        record = run(config, resources)
        assert record.status == "finished" and record.evaluations == []
        assert contents(folder.parent / ".replaced" / f"{folder.name}.{times}") == before


def test_samples_that_cannot_be_drawn_again_cost_nothing_else(stored, resources, caplog):
    folder, config = stored
    shutil.rmtree(folder / "samples")
    weights = bytearray((folder / "adapters.safetensors").read_bytes())
    weights[-2] ^= 64
    (folder / "adapters.safetensors").write_bytes(weights)
    before = contents(folder)
    with caplog.at_level(logging.WARNING, logger="sdpet"):
        assert run(config, resources).evaluations == [SCORED]
    assert contents(folder) == before
    assert f"{folder / 'adapters.safetensors'} was changed" in caplog.text


def test_an_unfinished_run_that_is_stopped_keeps_an_earlier_record(stored, resources, monkeypatch):
    """Ctrl-C while samples are drawn again."""
    folder, config = stored
    shutil.rmtree(folder / "samples")
    before = contents(folder)
    monkeypatch.setattr("sdpet.runs.start.draw_samples_again", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(config, resources)
    assert contents(folder) == before


def test_the_record_has_digests_of_what_the_run_left(finished):
    digests = Record.read(finished).digests
    assert {"adapters.safetensors", "adapters.json", "samples/index.jsonl"} <= digests["files"].keys()
    assert list(digests["study"]) == ["base/seed0/samples/index.jsonl"]
    assert Record.read(finished).changed(finished) == []


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-2] ^= 64
    file.write_bytes(content)


def test_every_change_is_noticed_and_named(stored):
    folder, _ = stored
    for name in ("adapters.safetensors", "adapters.json", "samples/index.jsonl", "../base/seed0/samples/index.jsonl"):
        kept = (folder / name).read_bytes()
        flip(folder / name)
        assert Record.read(folder).changed(folder) == [f"{(folder / name).resolve()} was changed"]
        (folder / name).write_bytes(kept)
    content = json.loads((folder / "record.json").read_text())
    content["metrics"]["clip_i"] = 0.999
    (folder / "record.json").write_text(json.dumps(content))
    assert Record.read(folder).changed(folder) == [f"{folder / 'record.json'} was changed"]
    (folder / "samples" / "index.jsonl").unlink()
    assert f"{folder / 'samples' / 'index.jsonl'} is missing" in Record.read(folder).changed(folder)


def test_a_record_without_digests_stays_readable(stored):
    folder, _ = stored
    content = json.loads((folder / "record.json").read_text())
    del content["digests"]
    (folder / "record.json").write_text(json.dumps(content))
    flip(folder / "adapters.safetensors")
    assert Record.find(folder).changed(folder) == []


def test_writing_a_record_again_does_not_make_a_damaged_file_a_good_one(stored):
    folder, _ = stored
    flip(folder / "adapters.safetensors")
    Record.read(folder).write(folder)
    assert Record.read(folder).changed(folder) == [f"{folder / 'adapters.safetensors'} was changed"]


def again(folder, *overrides):
    asked = [f"run={folder}", "quiet=true", "trust=true", *overrides]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("evaluate", asked), asked


def test_status_evaluate_analysis_and_verify_name_changed_weights(stored):
    folder, _ = stored
    weights = folder / "adapters.safetensors"
    assert study_status(folder.parent).problems == [] and verify(folder.parent).problems == []
    flip(weights)
    assert f"{weights} was changed" in status_text(study_status(folder.parent))
    assert f"{weights} was changed" in verified_text(verify(folder.parent))
    frame = analysis.load_results(folder.parent)
    assert len(frame) == 1 and any(f"{weights} was changed" in note for note in frame.attrs["notes"])
    with pytest.raises(ValueError, match=r"adapters.safetensors was changed since the run ended"):
        evaluate_again(*again(folder, "sampler.guidance=4"))


def test_verify_finds_changed_images_and_scores(stored):
    folder, _ = stored
    flip(folder / "samples" / "00000.png")
    [floor] = [f for f in (folder.parent.parent / ".anchors").glob("*.json") if "ceiling" not in f.read_text()]
    floor.write_text(floor.read_text().replace('"floor"', '"flour"', 1))
    assert verify(folder.parent).problems == [
        f"{folder / 'samples' / '00000.png'} was changed", f"{floor} was changed",
    ]  # fmt: skip


def test_a_changed_floor_is_made_again_and_not_taken(stored, resources, caplog):
    folder, config = stored
    kept = {file: json.loads(file.read_text()) for file in (folder.parent.parent / ".anchors").glob("*.json")}
    for file, content in kept.items():
        file.write_text(json.dumps({**content, "scores": {name: 1.0 for name in content["scores"]}}))
    other = {**OmegaConf.to_container(config, resolve=True), "study": "other"}
    with caplog.at_level(logging.WARNING, logger="sdpet"):
        record = run(other, resources)
    assert record.anchors == Record.read(folder).anchors
    assert {file: json.loads(file.read_text()) for file in kept} == kept
    assert all(str(file) in caplog.text for file in kept)


def test_a_cache_with_numbers_as_keys_is_what_it_was(tmp_path, caplog):
    """A reader of JSON gets texts for numbers and sorts 16 before 2: the digest must not depend on that."""
    file, content = tmp_path / "cache.json", {"key": "k", "seconds": {2**n: 0.1 for n in range(6)}}
    file.write_text(json.dumps(signed(content)))
    assert read_signed(file, "k")["seconds"] == {str(2**n): 0.1 for n in range(6)} and not caplog.records
    file.write_text(file.read_text().replace("0.1", "0.2", 1))
    assert read_signed(file, "k") is None and "was changed" in caplog.text
