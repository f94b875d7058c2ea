"""Images of the subject's class drawn by the base model, as DreamBooth's prior wants them: once, and kept."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from sdpet.files.atomic import atomically
from sdpet.files.hashing import hash_text
from sdpet.files.lock import claim
from sdpet.models.base import BaseModel
from sdpet.sampling.loop import SamplerConfig, sample
from sdpet.seeds import derive

CHUNK = 8
PHASE = "class images"


def class_folder(
    config: Mapping[str, Any], base: BaseModel, watch: Callable[[str, int, int], None] | None = None
) -> Path:
    """A folder with `data.class_images` samples of `data.class_prompt`, drawn now if they are not there.

    It lies in <output_root>/.cache/class by a hash of how its images are made. Images that an interrupted process has
    drawn are kept; of several processes one draws and the others wait.
    """
    data = config["data"]
    made_by = {
        "model": base.weight_hash,
        "dtype": str(base.dtype),
        "image_size": base.image_size,
        "prompt": data["class_prompt"],
        "sampler": {key: data[f"class_{key}"] for key in ("sampler", "steps", "guidance")},
        "images": data["class_images"],
    }
    root = Path(config["output_root"]).expanduser() / ".cache" / "class"
    folder = root / hash_text(json.dumps(made_by, sort_keys=True))
    root.mkdir(parents=True, exist_ok=True)
    while not (folder / "index.jsonl").exists():
        with claim(folder) as mine:
            if mine and not (folder / "index.jsonl").exists():
                _draw(folder, config, base, watch)
                continue
        time.sleep(0.2)
    return folder


def _draw(folder: Path, config: Mapping[str, Any], base: BaseModel, watch: Callable[..., None] | None) -> None:
    data = config["data"]
    count, prompt = data["class_images"], data["class_prompt"]
    sampler = SamplerConfig(data["class_sampler"], data["class_steps"], data["class_guidance"])
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"file": f"{i:05d}.png", "prompt": prompt, "seed": derive("class images", i)} for i in range(count)]
    missing = [row for row in rows if not (folder / row["file"]).exists()]
    for start in range(0, len(missing), CHUNK):
        part = missing[start : start + CHUNK]
        drawn = sample(base, [prompt] * len(part), [row["seed"] for row in part], sampler, chunk=CHUNK)
        for row, image in zip(part, drawn, strict=True):
            atomically(folder / row["file"], lambda file, image=image: Image.fromarray(image).save(file, "png"))  # type: ignore[misc]
        if watch:
            watch(PHASE, count - len(missing) + start + len(part), count)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    atomically(folder / "index.jsonl", lambda file: file.write_text(lines, encoding="utf-8"))
