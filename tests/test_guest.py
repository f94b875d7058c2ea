"""A process that imports and calls sdpet stays as it was: filters, formatters, logger levels, threads, environment."""

from __future__ import annotations

import json
import subprocess
import sys

from study_tools import environment, tiny_overrides

PROGRAM = """
import json, logging, os, random, sys, warnings
sys.path.insert(0, sys.argv[1])
import numpy, torch, transformers, diffusers, lightning  # as a user's process has them
from study_tools import composed
composed()  # Hydra and its log handlers are the caller's

torch.set_num_threads(2)
torch.manual_seed(1)

def state():
    names = ["", "sdpet", "lightning", "lightning.pytorch", "lightning.fabric", "torch.distributed"]
    names += ["transformers", "diffusers"]
    return {
        "filters": [str(f) for f in warnings.filters],
        "formatwarning": warnings.formatwarning.__module__ + "." + warnings.formatwarning.__qualname__,
        "showwarning": warnings.showwarning.__qualname__,
        "levels": {name: logging.getLogger(name).level for name in names},
        "handlers": {name: len(logging.getLogger(name).handlers) for name in names},
        "environment": dict(os.environ),
        "threads": torch.get_num_threads(),
        "random": [str(random.getstate())[:200], str(numpy.random.get_state())[:200]],
        "torch random": torch.get_rng_state().sum().item(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "default": str(torch.get_default_dtype()),
        "grad": torch.is_grad_enabled(),
        "hook": sys.excepthook.__qualname__,
    }

before = state()
import sdpet, sdpet.adapters, sdpet.config, sdpet.models, sdpet.methods, sdpet.runs, sdpet.sampling, sdpet.scoring
import sdpet.study, sdpet.tasks, sdpet.training, sdpet.lab, analysis
imported = state()
record = sdpet.runs.run(composed(*sys.argv[2:]))
assert record.status == "finished", record.reason
print(json.dumps([before, imported, state()]))
"""


def test_importing_and_running_leave_the_process_as_it_was(tiny_folder, subject_folders, tmp_path):
    overrides = tiny_overrides(tiny_folder, subject_folders, tmp_path / "out")
    arguments = [sys.executable, "-c", PROGRAM, str(tmp_path), *overrides]
    ended = subprocess.run(arguments, env=environment(), capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    *said, states = ended.stdout.splitlines()
    before, imported, after = json.loads(states)
    assert imported == before
    assert after == before
    assert said == [], "the package prints nothing; that is for the commands"
