"""Run ids and training ids: hashes of what can change a result, and of nothing else. Free of torch, and quick."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sdpet.config.read import LAB, SCORER_KEYS, cache_key, data_folders, draws_class_images, placement, uses_lab_scorer
from sdpet.files.hashing import CAPTIONS, DATASETS, IMAGES, WEIGHTS, hash_folder, once
from sdpet.models.source import source_of

DRAWN = ("class_images", "class_sampler", "class_steps", "class_guidance")  # of data: how class images are made
OFF: dict[str, dict[str, Any]] = {
    "task": {"noise_offset": 0.0},
    "trainer": {"accumulate": 1, "optimizer": "adamw", "ema": None, "grad_checkpointing": False, "compile": False},
}
UNNAMED = ("adapter", "adapter.din", "adapter.dout", "seed", "study", "output_root", "quiet", "logger", "sweeps")


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """What can change the result of a validated config, and nothing else: folders appear as hashes of their content."""
    unet, data = config["unet"], config["data"]
    endings = IMAGES + CAPTIONS + (DATASETS if data["name"] in ("dataset", "flowers") else ())
    content = {key: hash_folder(path, endings) for key, path in data_folders(config).items()}
    unused = () if draws_class_images(config) else DRAWN  # else images are known by how they are made
    return {
        "seed": config["seed"],
        "adapter": config["adapter"],
        "unet": {
            "dtype": unet["dtype"],
            "weights": once(cache_key("weights", unet), lambda: source_of(unet).content_hash()),
        }
        | {key: unet[key] for key in ("image_size",) if unet.get(key) is not None},
        "task": _without(config["task"], "_target_", *_off("task", config)),
        "data": _without(data, "noun", "subject", "class_word", *unused, *content) | content,
        "trainer": _without(config["trainer"], "validate_every", *_off("trainer", config)),
        "sampler": _without(config["sampler"], "_target_"),
        "eval": _eval_identity(config["eval"]),
    }


def training_id(config: Mapping[str, Any]) -> str:
    """12 hex digits; equal for runs that train the very same adapters, however they are sampled and scored."""
    return _digest({key: value for key, value in identity(config).items() if key not in ("sampler", "eval")})


def _off(group: str, config: Mapping[str, Any]) -> list[str]:
    """Options that are off: a run without them is the run it was before they existed."""
    return [key for key, value in OFF[group].items() if config[group].get(key, value) == value]


def run_id(config: Mapping[str, Any]) -> str:
    """12 hex digits that name the run of a validated config; equal for equal `identity`."""
    return _digest(identity(config))


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()


def run_folder(config: Mapping[str, Any], name: str | None = None) -> Path:
    """outputs/<study>/<run_id> of a validated config."""
    return Path(config["output_root"]).expanduser() / config["study"] / (name or run_id(config))


def _eval_identity(plan: Mapping[str, Any]) -> dict[str, Any]:
    """strict is left out: it changes no score, only whether one may be missing."""
    found = _without(plan, "_target_", "chunk", "strict")
    found |= {key: _scorer_identity(plan[key]) for key in SCORER_KEYS if plan.get(key)}
    return found | {"similarity": {k: _scorer_identity(v) for k, v in (plan.get("similarity") or {}).items()}}


def _scorer_identity(scorer: Mapping[str, Any]) -> dict[str, Any]:
    """The scorer's arguments; paths count by the content of what lies there."""
    arguments = _without(scorer, "device")
    if uses_lab_scorer(scorer):
        arguments["folder"] = arguments.get("folder", str(LAB / "scorer"))
    for key, value in arguments.items():
        path = Path(value).expanduser() if isinstance(value, str) and key != "_target_" else None
        if path is not None and path.is_dir():
            arguments[key] = hash_folder(path, WEIGHTS)
        elif path is not None and path.is_file():
            arguments[key] = hash_folder(path.parent, (path.name.lower(),))
    return arguments


def _without(mapping: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key not in keys}


def name_of(config: dict[str, Any], overrides: Sequence[str] = ()) -> str:
    """For people: "attn2o-ffni seed 1", and what else is told of (what sets a job apart from the others)."""
    parts = [placement(config["adapter"]) or config["adapter"]["method"], f"seed {config['seed']}"]
    for override in overrides:
        key, _, value = override.lstrip("+").partition("=")
        if key not in UNNAMED and not key.startswith("hydra"):
            parts.append(f"{key.rpartition('.')[2]} {value}")
    return " ".join(parts)
