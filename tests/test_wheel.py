"""A wheel has all that a checkout has: the configs, the scripts, and the commands, anywhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = ("sdpet", "analysis", "hydra_plugins", "conf", "sweeps")
FILES = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "train.py", "evaluate.py")
INSIDE = "sdpet/_project/"
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
FEW = ("trainer.steps=2", "sampler.steps=2", "eval.subject_images=1", "eval.class_images=1", "eval.prompt_images=1")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built in a copy, since builds leave files behind."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "copy"
    for name in SOURCES:
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy2(ROOT / name, copy / name)
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder), str(copy)]
    ended = subprocess.run([*PIP, *build], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    [file] = folder.glob("sdpet-*.whl")
    return file


def test_a_wheel_has_the_files_of_the_checkout(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}
    scripts = {INSIDE + name: (ROOT / name).read_bytes() for name in ("train.py", "evaluate.py")}
    configs = {
        f"{INSIDE}conf/{path.relative_to(ROOT / 'conf').as_posix()}": path.read_bytes()
        for path in [*(ROOT / "conf").rglob("*"), *(ROOT / "conf" / "sweeps").iterdir()]
        if path.is_file()
    }
    assert f"{INSIDE}conf/sweeps/smoke.yaml" in configs
    assert {name: text for name, text in held.items() if name.startswith(INSIDE)} == scripts | configs
    packages = {
        path.relative_to(ROOT).as_posix()
        for top in ("sdpet", "analysis", "hydra_plugins")
        for path in (ROOT / top).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in held if not name.startswith(INSIDE)} == packages


@pytest.mark.slow
def test_a_wheel_trains_and_analyses_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    target, own, empty = tmp_path / "site", tmp_path / "own", tmp_path / "empty"
    install = ["install", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    ended = subprocess.run([*PIP, *install], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    empty.mkdir()
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)  # somebody's own checkout, with a commit
    author = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    commit = ["commit", "--quiet", "--allow-empty", "--message", "theirs"]
    subprocess.run(["git", "-C", str(tmp_path), *author, *commit], check=True)
    environment = {**os.environ, "PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"}

    def sdpet(*arguments: str) -> str:
        ended = subprocess.run(
            [sys.executable, "-m", "sdpet", *arguments], env=environment, cwd=empty, capture_output=True, text=True
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    code = (
        "import sdpet, analysis, hydra_plugins.sdpet_sweeper as s; print(sdpet.__file__, analysis.__file__, s.__file__)"
    )
    found = subprocess.run([sys.executable, "-c", code], env=environment, cwd=empty, capture_output=True, text=True)
    assert [Path(path).is_relative_to(target) for path in found.stdout.split()] == [True] * 3, found.stderr

    sdpet("train", *FEW)
    [single] = (empty / "outputs" / "single").glob("*/record.json")
    record = json.loads(single.read_text())
    assert record["status"] == "finished" and record["git_sha"] is None

    (own / "sweeps").mkdir(parents=True)
    (own / "sweeps" / "mine.yaml").write_text(
        "# @package _global_\nstudy: mine\nhydra:\n  sweeper:\n    params:\n      seed: 0,1\n"
        "      adapter: attn2o-ffni,ffni-transo,resi-reso\n"
    )
    asked = ["--config-dir", str(own), "-m", "+sweeps=mine", *FEW]
    found_otherwise = [f"hydra.searchpath=[file://{own}]", *asked[2:]]
    assert "6 runs" in sdpet("train", *found_otherwise, "--dry-run") and not (empty / "outputs" / "mine").exists()
    sdpet("train", *asked)
    plan = json.loads((empty / "outputs" / "mine" / ".plan.json").read_text())
    assert plan["command"] == ["-m", "sdpet", "train", *asked]
    found = subprocess.run(
        [sys.executable, *plan["command"]], env=environment, cwd=empty, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr  # what `status` says to type to resume
    assert "6" in sdpet("status", "outputs/mine")
    sdpet("analyse", "outputs/mine")
    page = (empty / "outputs" / "mine" / "report" / "index.html").read_text()
    assert "python -m sdpet train --config-dir" in page and "train.py" not in page
    sdpet("evaluate", f"run={single.parent}", "sampler.guidance=3")
    assert json.loads(single.read_text())["evaluations"]
    sdpet("doctor", "unet=lab", "adapter=attn2o-ffni")
    assert sorted(path.name for path in empty.iterdir()) == ["outputs"]
