"""The example of a design of one's own, run as a user would: its folder is on PYTHONPATH, and sdpet is not touched."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from forked import run_forked

ROOT = Path(__file__).parent.parent
OWN = ROOT / "examples" / "own_design"
FEW = ("trainer.steps=2", "sampler.steps=2", "eval.subject_images=2", "eval.class_images=2", "eval.prompt_images=1")


def user(script: str, *arguments: str, cwd: Path, forked: bool = False) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{OWN}", "XDG_CONFIG_HOME": str(cwd / "config")}
    command = [str(ROOT / script), *arguments]
    if forked:  # from a process that has imported the libraries, for time
        return run_forked(command, environment, cwd, timeout=500)
    command = [sys.executable, *command]
    return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=500)


def test_a_form_a_scorer_and_a_study_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = user("train.py", "--config-dir", str(OWN), "-m", "+sweeps=gates", "seed=0", *FEW, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    records = [json.loads(path.read_text()) for path in sorted((tmp_path / "outputs" / "gates").glob("*/record.json"))]
    assert sorted(record["factors"]["gates"] for record in records) == [1, 2]
    assert all("colours_i" in record["metrics"] and "colours_i" in record["anchors"] for record in records)
    assert all(abs(record["sizes"]["trainable_params"] - 24_000) < 1_700 for record in records)  # matched by width

    run = tmp_path / "outputs" / "gates" / records[0]["run_id"]
    spec = json.loads((run / "adapters.json").read_text())["spec"]
    assert (spec["form"], spec["options"]) == ("my_lab.forms.Gated", {"gates": records[0]["factors"]["gates"]})
    refused = user("evaluate.py", f"run={run}", "sampler.guidance=3", cwd=tmp_path, forked=True)
    assert refused.returncode != 0 and "names my_lab." in refused.stderr and "trust=true" in refused.stderr
    again = user("evaluate.py", f"run={run}", "sampler.guidance=3", "trust=true", cwd=tmp_path, forked=True)
    assert again.returncode == 0, again.stderr
