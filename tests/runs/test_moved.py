"""Photos, sets and models that have moved since a run: scored again from their new place, if they are the same."""

from __future__ import annotations

import json
import shutil
import types
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf
from study_tools import ROOT, SMALL, composed, train

from sdpet.commands.evaluate_runs import changed
from sdpet.config import identity, run_folder, run_id, validate
from sdpet.runs import prepare_run_folder, stored_config


@pytest.fixture
def place(tiny_folder, subject_folders, tmp_path, monkeypatch):
    """A working folder with photos in it, and a run that was asked for with relative paths."""
    for name, folder in subject_folders.items():
        shutil.copytree(folder, tmp_path / "work" / name)
    monkeypatch.chdir(tmp_path / "work")
    given = ["data=folder", "data.subject=subject", "data.class_word=star", "data.class_dir=class"]
    given += ["data.heldout_dir=heldout", "unet=folder", f"unet.path={tiny_folder}", *SMALL]
    config = validate(composed(*given))
    folder = run_folder(config).absolute()
    prepare_run_folder(folder, config, resumes=False)
    return types.SimpleNamespace(root=tmp_path, given=given, config=config, folder=folder)


def again(place, **data):
    """The config that evaluate.py makes of the stored one with these overrides."""
    given = OmegaConf.create({"data": data, "trust": True})
    return changed(place.folder, given, [f"data.{key}={value}" for key, value in data.items()])


def test_a_stored_config_does_not_depend_on_the_folder_one_stands_in(place, monkeypatch):
    stored = yaml.safe_load((place.folder / "config.yaml").read_text())
    assert stored["data"]["subject"] == str(place.root / "work" / "subject") and stored["unet"]["name"] == "folder"
    assert json.loads((place.folder / "identity.json").read_text())["identity"] == identity(place.config)
    monkeypatch.chdir(place.root)
    assert run_id(validate(stored_config(place.folder, trust=True).values)) == place.folder.name
    old = yaml.safe_dump(dict(place.config.values))  # as version 0.1.0 stored it, with relative paths
    (place.folder / "config.yaml").write_text(old)
    assert run_id(validate(stored_config(place.folder, trust=True).values)) == place.folder.name


@pytest.mark.parametrize("older", [False, True])
def test_photos_that_moved_are_taken_from_their_new_place(place, older):
    if older:
        (place.folder / "identity.json").unlink()
    moved = place.root / "photos"
    Path("subject").rename(moved)
    with pytest.raises(ValueError, match=r"subject does not exist; if it has moved, say where to: data\.subject_dir="):
        again(place)
    assert again(place, subject=str(moved)).data.folders["subject_dir"] == moved
    assert again(place, subject_dir=str(moved)).data.folders["subject_dir"] == moved
    next(iter(moved.iterdir())).unlink()
    with pytest.raises(ValueError, match=r"data\.subject: the content differs from what .* was made with"):
        again(place, subject=str(moved))


def test_the_command_takes_a_new_place(place):
    done = train(*place.given, "quiet=true")
    assert done.returncode == 0, done.stderr
    Path("subject").rename(place.root / "photos")
    scored = train(f"run={place.folder}", "trust=true", "sampler.guidance=3", f"data.subject={place.root / 'photos'}",
                   script="evaluate.py", cwd=ROOT)  # fmt: skip
    assert scored.returncode == 0, scored.stdout + scored.stderr
    assert len(json.loads((place.folder / "record.json").read_text())["evaluations"]) == 1
