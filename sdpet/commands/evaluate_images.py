"""`python evaluate.py images=FOLDER reference=FOLDER prompts=FILE`: score images from any source."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdpet.config import check_groups
from sdpet.files.atomic import write_atomic
from sdpet.files.digests import read_signed, signed
from sdpet.files.received import read_json_lines
from sdpet.files.record_file import is_scores
from sdpet.runs.record import Record
from sdpet.study.report import scores_table

if TYPE_CHECKING:
    from sdpet.scoring import EvalImage


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
    eval_images = _drawn_for(given.prompts, files)
    personal = any(item.role != "prompt" for item in eval_images)
    fewest = min(len(images), len(references))
    if not personal and config.eval.plan.get("distances") and fewest < 2:
        raise ValueError(
            f"distances of sets need at least two images on each side, not {len(images)} and {len(references)}; "
            "eval.distances=[] scores the images without distances."
        )

    from sdpet.files.hashing import hash_images
    from sdpet.files.plain_json import to_json
    from sdpet.runs.setup import make_plan, make_scorers
    from sdpet.scoring import PromptSet, protocol_entries

    out = Path(given.out).expanduser()
    known = make_scorers(config.eval.scorers, config.eval.strict, out, config.eval.plan.get("autocast"))
    prompts = [item.prompt for item in eval_images if item.prompt]
    plan, task = make_plan(config), PromptSet(prompts, references, personal)
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
        text = to_json(signed(content), indent=1)
        write_atomic(file, lambda partial: partial.write_text(text + "\n", encoding="utf-8"))
    shown = Record("", "", "finished", {}, {}, metrics=scores)
    done = "" if stored is None else " (already scored with this protocol; skipped)"
    print(f"{len(images)} images of {given.images} against {len(references)} of {given.reference}{done}")
    if personal:
        counts = Counter(item.role for item in eval_images)
        print(f"  roles     {', '.join(f'{n} {role}' for role, n in counts.items())} (index.jsonl)")
    print(scores_table(shown))
    for what, reason in known.missing.items():
        print(f"  missing   {what}: {reason}")
    print(f"  scores    {file}")


def _drawn_for(given: Any, files: list[Path]) -> list[EvalImage]:
    """What each image was drawn for: by the file of prompts, else by index.jsonl beside the images, else nothing."""
    from sdpet.scoring import EvalImage, read_prompts

    if given is not None:
        prompts = read_prompts(given)
        if len(prompts) != len(files):
            raise ValueError(
                f"{given} holds {len(prompts)} prompts for {len(files)} images; give one prompt per image."
            )
        return [EvalImage(prompt, "prompt", prompt) for prompt in prompts]
    index = files[0].parent / "index.jsonl"
    lines = list(read_json_lines(index)) if index.is_file() else []
    if bad := [number for number, row in lines if not isinstance(row, dict)]:
        raise ValueError(f"line {bad[0]} of {index} is no JSON object; mend it, or give prompts=FILE.")
    rows = [row for _, row in lines]
    known = {str(row.get("file")): row for row in rows}
    if not all(known.get(file.name, {}).get("prompt") for file in files):
        return [EvalImage("", "prompt", "")] * len(files)
    token = _token(index.parent)
    found = []
    for file in files:
        prompt, role = str(known[file.name]["prompt"]), known[file.name].get("role", "prompt")
        found.append(EvalImage(prompt, str(role), " ".join(word for word in prompt.split() if word != token)))
    return found


def _token(samples: Path) -> str | None:
    """The subject's token, which scorers do not know, where the images are those of a run."""
    from sdpet.runs.stored import untrusted_config

    run = next((folder for folder in samples.parents[:3] if (folder / "config.yaml").is_file()), None)
    return None if run is None else untrusted_config(run).data.token


def _stored(file: Path, protocol: Mapping[str, Any]) -> dict[str, float] | None:
    content = read_signed(file, protocol, place="protocol")
    return content["metrics"] if content and is_scores(content.get("metrics")) else None
