"""What the tests of runs and studies share: a tiny config, composed here or in another process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from forked import run_forked
from hydra import compose, initialize_config_dir

ROOT = Path(__file__).parent.parent
SMALL = (
    "trainer.steps=3",
    "sampler.steps=2",
    "eval.subject_images=1",
    "eval.class_images=1",
    "eval.prompt_images=0",
    "eval.scorer._target_=tiny_scorer.TinyScorer",
)


def tiny_overrides(tiny_folder: Path, subject_folders: dict[str, Path], out: Path) -> list[str]:
    """The smallest run there is, on the tiny base model and a tiny scorer."""
    data = [f"data.{name}_dir={folder}" for name, folder in subject_folders.items()]
    return ["unet=folder", f"unet.path={tiny_folder}", f"output_root={out}", *data, *SMALL]


def composed(*overrides: str) -> Any:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", list(overrides))


def command(*arguments: str, script: str = "train.py") -> list[str]:
    return [sys.executable, str(ROOT / script), *arguments]


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def train(
    *arguments: str, script: str = "train.py", cwd: Path | None = None, timeout: float = 300, anew: bool = False
) -> subprocess.CompletedProcess[str]:
    """`python train.py ARGUMENTS` as a user would run it, from `cwd`.

    The process is forked from one that has imported the libraries, as workers of a study are, unless `anew`.
    """
    started = command(*arguments, script=script)
    if not anew:
        return run_forked(started[1:], environment(), cwd, timeout)
    return subprocess.run(started, env=environment(), cwd=cwd, capture_output=True, text=True, timeout=timeout)


def module(name: str, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """`python -m NAME ARGUMENTS`."""
    return subprocess.run(
        [sys.executable, "-m", name, *arguments], env=environment(), capture_output=True, text=True, timeout=timeout
    )


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*arguments), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def records(study: Path) -> dict[str, bytes]:
    """The trained weights of every complete run in a study's folder, by run_id."""
    folders = [path.parent for path in study.glob("*/record.json")]
    return {f.name: b"".join(file.read_bytes() for file in sorted(f.glob("*.safetensors"))) for f in folders}
