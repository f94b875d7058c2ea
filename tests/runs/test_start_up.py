"""What is imported when, and how: the start of a run is quick, and leaves the process as it was."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

from study_tools import ROOT, environment

INSTALLS = re.compile(r"^\t@.*PIP_INSTALL\)$", re.M)  # the line of the Makefile that installs

ANNOUNCED = """
import sys, types
from sdpet.commands.progress_bar import Bar

class Stop(Exception):
    pass

def prepare(self, text):
    loaded = {"torch", "torchvision", "lightning", "diffusers", "transformers", "open_clip", "wandb", "pandas", "scipy"}
    print("loaded:", sorted(loaded & set(sys.modules)))
    raise SystemExit(0)

Bar.prepare = prepare
import runpy
sys.argv = ["train.py", *sys.argv[1:]]
runpy.run_path("train.py", run_name="__main__")
"""

LIBRARIES = """
import gc, importlib.metadata, json, sys
import sdpet.runs.setup as setup
from sdpet.runs.libraries import quick_imports

read, reads, passes = importlib.metadata.packages_distributions, [], []
def counted():
    reads.append(1)
    return read()
importlib.metadata.packages_distributions = counted
gc.collect()
gc.callbacks.append(lambda phase, info: passes.append(info["generation"]) if phase == "start" else None)
before = len(passes)
setup.import_libraries()
during = len(passes) - before
needless = {"sklearn", "statsmodels", "pandas", "datasets", "tensorboard", "open_clip", "scipy.signal",
            "torchmetrics.functional.text"}
print(json.dumps({
    "passes": during, "reads": len(reads), "collects": gc.isenabled(), "frozen": gc.get_freeze_count(),
    "restored": importlib.metadata.packages_distributions is counted, "needless": sorted(needless & set(sys.modules)),
    "needed": {"torch", "lightning", "diffusers", "transformers"} <= set(sys.modules),
}))
gc.disable()
with quick_imports():
    pass
print(gc.isenabled())
"""


METRICS = """
import sys
from sdpet.runs.libraries import import_libraries

import_libraries()
import torchmetrics
few = torchmetrics.Metric
deferred = "torchmetrics.classification" not in sys.modules
from torchmetrics.image.kid import KernelInceptionDistance
from torchmetrics import MeanMetric
print(deferred, issubclass(KernelInceptionDistance, few), issubclass(MeanMetric, few), few is torchmetrics.Metric)
print(torchmetrics.Accuracy.__name__, torchmetrics.functional.__name__, type(torchmetrics) is type(sys))
print(hasattr(torchmetrics, "no_such_metric"))
"""
FIRST_STEP = """
import runpy, sys
import torch

def step(self, *given, **more):
    print("at the first step:", sorted({"open_clip", "scipy.signal"} & set(sys.modules)))
    raise KeyboardInterrupt

torch.optim.AdamW.step = torch.optim.Adam.step = step
sys.argv = ["train.py", *sys.argv[1:]]
runpy.run_path("train.py", run_name="__main__")
"""


def _program(code: str, *arguments: str) -> list[str]:
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment(), capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()


def test_a_run_is_checked_and_announced_before_anything_heavy_is_imported(tmp_path):
    said = _program(ANNOUNCED, f"output_root={tmp_path}", "study=mine", "trainer.steps=3")
    assert said == ["attn2o-ffni seed 0: dreambooth on lab, 3 steps", "loaded: []"]


def test_libraries_are_imported_without_collections_and_leave_the_process_as_it_was():
    *_, states, still_off = _program(LIBRARIES)
    states = json.loads(states)
    assert states.pop("passes") <= 3  # of thousands; the collector is on until the imports begin
    assert states.pop("reads") == 1
    assert states == {"collects": True, "frozen": 0, "restored": True, "needless": [], "needed": True}
    assert still_off == "False", "a process that does not collect still does not"


def test_set_up_uses_uv_where_it_is_there_and_pip_says_how_far_it_is(tmp_path):
    python = tmp_path / "bin" / "python"
    for name, body in {"python": 'seq -f "Collecting p%g" 120\nexit $STATUS', "uv": 'echo "uv $@"'}.items():
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    makefile = tmp_path / "Makefile"
    text = (ROOT / "Makefile").read_text()
    makefile.write_text(f"{text}\nonly_install:\n{INSTALLS.search(text)[0]}\n")

    def make(path: str, status: str = "0") -> tuple[int, str]:
        env = {**os.environ, "PATH": path, "STATUS": status}
        asked = ["make", "-s", "-C", str(tmp_path), f"BIN={python.parent}", "only_install"]
        ended = subprocess.run(asked, env=env, capture_output=True, text=True)
        return ended.returncode, ended.stdout

    assert make("/usr/bin:/bin") == (0, "50 packages found\n100 packages found\n")
    assert make("/usr/bin:/bin", status="3")[0] == 2, "a failed installation is a failed set-up"
    code, said = make(f"{tmp_path / 'bin'}:/usr/bin:/bin")
    assert (code, said) == (0, f"uv pip install --python {python} --constraint constraints.txt --editable .[dev]\n")


def test_torchmetrics_is_whole_for_who_asks_for_more_than_lightning_does():
    assert _program(METRICS) == ["True True True True", "Accuracy torchmetrics.functional True", "False"]


def test_what_only_scoring_needs_is_not_imported_before_the_first_step(tmp_path):
    for _ in range(2):  # the first run computes features of the references, for all others
        ended = subprocess.run(
            [sys.executable, "-c", FIRST_STEP, f"output_root={tmp_path}", "trainer.steps=3"],
            env=environment(), capture_output=True, text=True, timeout=300,
        )  # fmt: skip
    assert "at the first step: []" in ended.stdout, ended.stdout + ended.stderr
