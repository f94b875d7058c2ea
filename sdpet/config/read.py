"""What several places ask of a validated config: its data folders, placement and scorers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sdpet

LAB = Path(sdpet.__file__).parent / "lab"
LAB_IMAGES = {"subject_dir": "subject", "class_dir": "class", "heldout_dir": "subject_heldout"}
SCORER_KEYS = ("scorer", "features", "diversity")  # of eval, and all of eval.similarity


def cache_key(what: str, values: Mapping[str, Any]) -> str:
    return json.dumps([what, values], sort_keys=True, default=str)


def data_folders(config: Mapping[str, Any]) -> dict[str, Path]:
    """The folders of images by their key in `data`, the lab's own where none is given."""
    data = config["data"]
    if data["kind"] == "captions":
        return {} if data["folder"] is None else {"folder": Path(data["folder"]).expanduser()}
    folders: dict[str, Path] = {}
    for key, name in LAB_IMAGES.items():
        if data[key] is not None:
            folders[key] = Path(data[key]).expanduser()
        elif data["name"] == "lab":
            folders[key] = LAB / "data" / name
    return folders


def draws_class_images(config: Mapping[str, Any]) -> bool:
    """Whether the base model draws the images of the subject's class."""
    task, data = config["task"], config["data"]
    wanted = data["kind"] == "subject" and task.get("reg_weight", 0) > 0
    return wanted and data["name"] != "lab" and data["class_dir"] is None


def placement(adapter: Mapping[str, Any]) -> str | None:
    return None if adapter["din"] is None else f"{adapter['din']}-{adapter['dout']}"


def scorers(plan: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The objects that a validated `eval` names, by their key."""
    single = {key: plan[key] for key in SCORER_KEYS if plan.get(key)}
    return single | {f"similarity.{name}": item for name, item in (plan.get("similarity") or {}).items()}


def uses_lab_scorer(scorer: Mapping[str, Any]) -> bool:
    return scorer["_target_"].startswith("sdpet.lab.scorer.")
