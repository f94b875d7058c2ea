"""The main line: how many calls of ours lead from train.py to the UNet, as seen from inside the UNet."""

from __future__ import annotations

import traceback
from pathlib import Path

from study_tools import composed, tiny_overrides

import sdpet
from sdpet.runs import Resources, run_together

PACKAGE = Path(sdpet.__file__).parent
MAIN_LINE = ["run_together", "train_and_score", "fit_together", "training_step", "predict"]  # train.py calls the first


def test_six_calls_lead_from_train_py_to_the_unet(tiny_folder, subject_folders, tmp_path):
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
