"""Numbers and studies of version 0.1.0 stay: ids, adapters, scores, and stored studies that go on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file
from study_tools import composed, module, train

from sdpet.config import run_id, training_id, validate

RELEASED = Path(__file__).parent / "data" / "released"
SCORES = json.loads((RELEASED / "smoke_scores.json").read_text())


def read(run: Path) -> dict:
    return json.loads((run / "record.json").read_text())


def same_adapters(run: Path, released: Path, tolerance: float) -> None:
    """Equal seeds give equal bits on one machine; other processors round otherwise."""
    ours, theirs = load_file(run / "adapters.safetensors"), load_file(released / "adapters.safetensors")
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert ours[key] == pytest.approx(value, abs=tolerance), key


@pytest.mark.parametrize(
    "case", json.loads((RELEASED / "ids.json").read_text()), ids=lambda c: " ".join(c["overrides"])
)
def test_run_ids_are_those_of_the_released_version(case: dict) -> None:
    config = validate(composed(*case["overrides"]))
    assert (run_id(config), training_id(config)) == (case["run_id"], case["training_id"])


def test_train_py_gives_the_released_numbers(tmp_path: Path) -> None:
    done = train(f"output_root={tmp_path}", anew=True)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "single" / "364ea6f689bf"
    assert read(run)["metrics"] == pytest.approx(read(RELEASED / "single")["metrics"], abs=5e-3)
    assert read(run)["factors"] == read(RELEASED / "single")["factors"]
    same_adapters(run, RELEASED / "single", 5e-3)


def test_the_smoke_study_gives_the_released_numbers(tmp_path: Path) -> None:
    done = train("-m", "+sweeps=smoke", f"output_root={tmp_path}", "hydra/launcher=local", "hydra.launcher.workers=1")
    assert done.returncode == 0, done.stderr
    assert {run.parent.name for run in tmp_path.glob("smoke/*/record.json")} == SCORES.keys()
    for name, scores in SCORES.items():
        assert read(tmp_path / "smoke" / name)["metrics"] == pytest.approx(scores, abs=2e-4), name
    for released in (RELEASED / "smoke").glob("*/record.json"):
        same_adapters(tmp_path / "smoke" / released.parent.name, released.parent, 1e-5)


def test_a_stored_study_goes_on_is_scored_again_and_analysed(tmp_path: Path) -> None:
    study = tmp_path / "smoke"
    shutil.copytree(RELEASED / "smoke", study)
    before = {run: run.read_bytes() for run in study.glob("*/record.json")}
    assert len(before) == 3

    done = train("-m", "+sweeps=smoke", f"output_root={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "3 of them already complete" in done.stdout
    assert {run.parent.name for run in study.glob("*/record.json")} == SCORES.keys()
    assert {run: run.read_bytes() for run in before} == before

    again = train(f"run={study}", "sampler.guidance=4", script="evaluate.py", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    for run in before:
        record = json.loads(run.read_text())
        assert len(record["evaluations"]) == 1
        assert record["evaluations"][0]["metrics"].keys() == record["metrics"].keys()
        assert record["metrics"] == json.loads(before[run])["metrics"]

    report = module("analysis", str(study))
    assert report.returncode == 0, report.stderr
    assert "6 runs" in report.stdout
    assert (study / "report" / "index.html").exists()


def test_status_of_a_stored_study(tmp_path: Path) -> None:
    shutil.copytree(RELEASED / "smoke", tmp_path / "smoke")
    done = module("sdpet.study", "status", str(tmp_path / "smoke"))
    assert done.returncode == 0, done.stderr
    assert "3 of 6" in done.stdout


@pytest.mark.parametrize("name", ["sdpet.scoring.table", "sdpet.lab.check", "sdpet.lab.pretrain", "sdpet.study"])
def test_former_entry_points_answer(name: str) -> None:
    done = module(name, "--help")
    assert done.returncode == 0 and "usage" in done.stdout, done.stderr
