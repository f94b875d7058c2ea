"""Data in the layout of the public DreamBooth data set: a folder for each subject, classes and prompts in one file.

Nothing here imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sdpet.files.hashing import once
from sdpet.files.terminal import did_you_mean

NAME = "dreambench"
ALL = "all"  # as data.subject of a sweep: every subject is a level
FILE = "prompts_and_classes.txt"
MOST_BYTES = 1_000_000
LIVING = ("animal", "bird", "cat", "dog", "horse", "man", "person", "rabbit", "woman")  # classes of living subjects
_QUOTED = re.compile(r"^\s*(['\"])(?P<text>.+?)\1\s*(?:\.format\(|,|$)")


@dataclass(frozen=True)
class Dreambench:
    """The subjects of such a data set.

    Attributes
    ----------
    root : Path
        The folder that holds the subjects' folders.
    classes : dict of str to str
        Class word by subject.
    objects, living : list of str
        Templates of prompts for objects and for living subjects, with {subject} for the subject's words.
    """

    root: Path
    classes: dict[str, str]
    objects: list[str]
    living: list[str]


def read_dreambench(root: str | Path) -> Dreambench:
    """Read the classes and prompts of a data set in the layout of github.com/google/dreambooth.

    Parameters
    ----------
    root : path
        The folder with prompts_and_classes.txt and a folder of images for each subject, or the one above it.

    Returns
    -------
    Dreambench
        Only subjects that have a folder.

    Raises
    ------
    ValueError
        One sentence: there is no such file, or it names no subject that has a folder.
    """
    return once(("dreambench", str(root)), lambda: _read(root))


def _read(root: str | Path) -> Dreambench:
    folder = Path(root).expanduser()
    places = [place for place in (folder, folder / "dataset") if (place / FILE).is_file()]
    if not places:
        raise ValueError(f"data.root: {root} holds no {FILE}; give the folder dataset of github.com/google/dreambooth.")
    path = places[0] / FILE
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"data.root: {path} has more than {MOST_BYTES:,} bytes, so it is no list of prompts.")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    found = Dreambench(places[0], {}, [], [])
    prompts: list[str] | None = None  # the list that a line belongs to; None in the part with the classes
    for line in lines:
        head = line.strip().lower()
        if head.startswith("live") and "prompt" in head:
            prompts = found.living
        elif head.startswith("object") and "prompt" in head:
            prompts = found.objects
        elif prompts is None:
            subject, comma, word = (part.strip() for part in line.partition(","))
            if comma and word and _is_name(subject) and (places[0] / subject).is_dir():
                found.classes[subject] = word
        elif (quoted := _QUOTED.match(line)) is not None:
            prompts.append(_template(quoted["text"]))
    if not found.classes:
        raise ValueError(f"data.root: {path} names no subject that has a folder beside it.")
    return found


def _is_name(subject: str) -> bool:
    return bool(re.fullmatch(r"[\w][\w .-]*", subject)) and ".." not in subject


def _template(text: str) -> str:
    """A prompt of the file, with {0} for the token and {1} for the class, as a template of sdpet."""
    return re.sub(r"\{0\}\s*\{1\}", "{subject}", text)


def filled(values: Mapping[str, Any]) -> dict[str, Any]:
    """A config with data=dreambench, completed for its subject.

    Parameters
    ----------
    values : mapping
        The resolved config. Another kind of data is returned as it is.

    Returns
    -------
    dict
        With the folder, class word and prompts of the subject; keys of `data` that are given stay. The prompts of the
        evaluation become those of the data set if data.prompts is "dataset" and eval.prompts was not given.

    Raises
    ------
    ValueError
        One sentence: no such folder, file or subject.
    """
    data = values.get("data")
    if not isinstance(data, Mapping) or data.get("name") != NAME:
        return dict(values)
    for key in ("root", "subject"):
        if not isinstance(data.get(key), str):
            raise ValueError(f"data.{key} must be given: data.{key}={'FOLDER' if key == 'root' else 'NAME'}.")
    bench, subject = read_dreambench(data["root"]), data["subject"]
    if subject not in bench.classes:
        hint = did_you_mean(subject, bench.classes)
        why = "needs a study, python train.py -m" if subject == ALL else f"is no subject of {bench.root}{hint}"
        raise ValueError(f"data.subject {subject} {why}; subjects are {', '.join(bench.classes)}.")
    word = bench.classes[subject] if data.get("class_word") is None else data["class_word"]
    if not isinstance(word, str) or not word.strip():
        raise ValueError("data.class_word must be some text, or null for that of the data set.")
    token = data.get("token") or "sks"
    more = {
        "class_word": word,
        "subject_dir": str(bench.root / subject),
        "prompt": data.get("prompt") or f"a photo of a {token} {word}",
        "class_prompt": data.get("class_prompt") or f"a photo of a {word}",
    }
    done = {**values, "data": {**data, **more}}
    living = data.get("living") if data.get("living") is not None else word.split()[-1].lower() in LIVING
    templates = bench.living if living else bench.objects
    told = values.get("asked")
    keys = told.get("keys") if isinstance(told, Mapping) else None
    asked = keys if isinstance(keys, list) else []
    if "eval.prompts" in asked and "data.prompts" not in asked:
        templates = []
    if data.get("prompts") == "dataset" and templates and isinstance(values.get("eval"), Mapping):
        done["eval"] = {**values["eval"], "prompts": templates}
    return done
