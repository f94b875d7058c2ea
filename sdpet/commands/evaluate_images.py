"""`python evaluate.py images=FOLDER reference=FOLDER prompts=FILE`: score images from any source."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sdpet.config import check_groups
from sdpet.files.atomic import write_atomic
from sdpet.runs.record import Record
from sdpet.study.report import scores_table


def evaluate_images(given: Any) -> None:
    """Score images, print the scores, and store them with their protocol in `out`; stored scores are reused."""
    if given.reference is None:
        raise ValueError("reference must be given: the folder of images to compare with.")
    if given.run is not None:
        raise ValueError("give run or images, not both.")
    config = check_groups(given, "eval")
    if given.size is not None and not (isinstance(given.size, int) and given.size > 0):
        raise ValueError(f"size must be a whole number of pixels of at least 1, not {given.size!r}.")

    from sdpet.scoring import read_set

    images, files = read_set(given.images, "image", given.size)
    references, _ = read_set(given.reference, "reference", given.size)
    fewest = min(len(images), len(references))
    if config.eval.plan.get("distances") and fewest < 2:
        raise ValueError(
            f"distances of sets need at least two images on each side, not {len(images)} and {len(references)}; "
            "eval.distances=[] scores the images without distances."
        )
    prompts = _prompts(given.prompts, files)

    from sdpet.files.hashing import hash_images
    from sdpet.runs.setup import make_plan, make_scorers
    from sdpet.scoring import EvalImage, PromptSet, protocol_entries

    out = Path(given.out).expanduser()
    known = make_scorers(config.eval.scorers, config.eval.strict, out)
    plan, task = make_plan(config), PromptSet(prompts, references)
    eval_images = [EvalImage(prompt, "prompt", prompt) for prompt in prompts or [""] * len(images)]
    protocol = {
        "images": len(images),
        "images_hash": hash_images(images),
        "image_size": list(images.shape[1:3]),
        "image_resize": "none" if given.size is None else f"bicubic, antialiased, centre crop to {given.size} (PIL)",
        "image_bits": 8,
        "score_dtype": "float64",
        **task.reference_protocol(),
        "scores": protocol_entries(task.measures(known, plan), eval_images, known),
    }
    name = hashlib.blake2b(json.dumps(protocol, sort_keys=True).encode(), digest_size=6).hexdigest()
    file = out / f"{name}.json"
    stored = _stored(file, protocol)
    scores = stored or task.scores(images, eval_images, known, plan)
    if stored is None:
        out.mkdir(parents=True, exist_ok=True)
        content = {
            "images": str(given.images),
            "reference": str(given.reference),
            "metrics": scores,
            "missing": known.missing,
            "protocol": protocol,
        }
        text = json.dumps(content, indent=1)
        write_atomic(file, lambda partial: partial.write_text(text + "\n", encoding="utf-8"))
    shown = Record("", "", "finished", {}, {}, metrics=scores)
    done = "" if stored is None else " (already scored with this protocol; skipped)"
    print(f"{len(images)} images of {given.images} against {len(references)} of {given.reference}{done}")
    print(scores_table(shown))
    for what, reason in known.missing.items():
        print(f"  missing   {what}: {reason}")
    print(f"  scores    {file}")


def _prompts(given: Any, files: list[Path]) -> list[str]:
    """One prompt for each image: from the given file, else from index.jsonl beside the images; else none."""
    from sdpet.scoring import read_prompts

    if given is not None:
        prompts = read_prompts(given)
        if len(prompts) != len(files):
            raise ValueError(
                f"{given} holds {len(prompts)} prompts for {len(files)} images; give one prompt per image."
            )
        return prompts
    index = files[0].parent / "index.jsonl"
    if not index.is_file():
        return []
    rows = [json.loads(line) for line in index.read_text(encoding="utf-8").splitlines() if line.strip()]
    known = {row.get("file"): row.get("prompt") for row in rows}
    return [str(known[file.name]) for file in files] if all(known.get(file.name) for file in files) else []


def _stored(file: Path, protocol: Mapping[str, Any]) -> dict[str, float] | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return content["metrics"] if content["protocol"] == json.loads(json.dumps(protocol)) else None
    except (OSError, ValueError, KeyError):
        return None
