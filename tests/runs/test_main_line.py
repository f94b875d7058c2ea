"""The main line: how many calls of ours lead from train.py to the UNet, as seen from inside the UNet."""

from __future__ import annotations

import traceback
from pathlib import Path

from study_tools import composed, tiny_overrides, train

import analysis
import sdpet
from sdpet.runs import Resources, run_together

PACKAGE = Path(sdpet.__file__).parent
MAIN_LINE = [
    "run_together",
    "train_and_score",
    "fit_together",
    "training_step",
    "predict",
    "predict",
]


def test_seven_calls_lead_from_train_py_to_the_unet(tiny_folder, subject_folders, tmp_path):
    config = composed(*tiny_overrides(tiny_folder, subject_folders, tmp_path))
    seen = []

    class Watched(Resources):
        def base(self, config):
            base = super().base(config)
            if not base.unet._forward_pre_hooks:
                base.unet.register_forward_pre_hook(lambda *_: seen.append(traceback.extract_stack()))
            return base

    [record] = run_together([config], Watched())
    assert record.status == "finished", record.reason
    ours = [[frame.name for frame in stack if Path(frame.filename).is_relative_to(PACKAGE)] for stack in seen]
    assert MAIN_LINE in ours
    assert "run_together(" in (PACKAGE.parent / "train.py").read_text()


def test_other_sweepers_get_the_score_they_ask_for(tiny_folder, subject_folders, tmp_path, monkeypatch):
    """Hydra's own sweeper and launcher, as optuna's sweeper uses them; and a single run."""
    monkeypatch.setenv("KEPT", str(tmp_path / "kept"))
    keep = "+hydra.callbacks.keep._target_=keep_objective.Keep"
    given = [*tiny_overrides(tiny_folder, subject_folders, tmp_path), keep, "+objective=clip_t", "quiet=true"]
    others = ["hydra/sweeper=basic", "hydra/launcher=basic", f"hydra.sweep.dir={tmp_path}"]  # its multirun.yaml
    ended = train("-m", *given, *others, "adapter.scale=1,2", "study=many")
    assert ended.returncode == 0, ended.stderr
    ended = train(*given, "study=one")
    assert ended.returncode == 0, ended.stderr
    kept = [line.split() for line in (tmp_path / "kept").read_text().splitlines()]
    assert [kind for kind, _ in kept] == ["float"] * 3
    many = analysis.load_results(tmp_path / "many").sort_values("scale")["clip_t"].tolist()
    assert [float(value) for _, value in kept[:2]] == many
    assert float(kept[2][1]) == analysis.load_results(tmp_path / "one")["clip_t"].iloc[0]
    ended = train(*given[:-2], "+objective=fid", "study=one")
    assert ended.returncode == 1 and "objective must be one of" in ended.stderr
