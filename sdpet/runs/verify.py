"""`python -m sdpet.study verify FOLDER`: whether the files of a study are as they were when its runs ended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sdpet.files.digests import KEY, changed_files, signed_problem
from sdpet.files.hashing import hash_bytes
from sdpet.files.received import inside, read_json, read_json_lines
from sdpet.files.record_file import FILE, read_record
from sdpet.files.terminal import counted, printable

INDEX = "index.jsonl"


@dataclass
class Verified:
    """What was found in a study.

    Attributes
    ----------
    folder : Path
        The study's folder.
    runs, images, floors : int
        Numbers of records, images and kept reference scores that were checked.
    without : list of str
        Records of earlier versions, which hold no digests.
    problems : list of str
        One sentence without full stop for each file that is missing, damaged or changed.
    """

    folder: Path
    runs: int = 0
    images: int = 0
    floors: int = 0
    without: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def problems_of(study: Path) -> list[str]:
    """Records of a study that cannot be read, and files of its runs that are not as their record says."""
    found: list[str] = []
    for file in _records(study):
        try:
            found += changed_files(file.parent, read_record(file))
        except (OSError, ValueError) as error:
            found.append(str(error).rstrip("."))
    return found


def verify(study: Path) -> Verified:
    """Check a study whole: records, weights, indexes, every image that an index has a digest of, and kept scores.

    Parameters
    ----------
    study : Path
        The study's folder.

    Returns
    -------
    Verified

    Raises
    ------
    ValueError
        The folder does not exist, or there is no record in it.
    """
    if not study.is_dir():
        raise ValueError(f"there is no folder {study}; give a study's folder, such as outputs/placement.")
    found = Verified(study, problems=problems_of(study))
    for file in _records(study):
        found.runs += 1
        try:
            if not read_record(file).get(KEY):
                found.without.append(str(file))
        except (OSError, ValueError):
            continue  # is among the problems
    if not found.runs:
        raise ValueError(f"{study} holds no run with a record; give a study's folder, such as outputs/placement.")
    for index in sorted(study.glob(f"*/**/samples/{INDEX}")):
        if not index.relative_to(study).parts[0].startswith("."):
            found.images += _check_images(index, found.problems)
    for file in sorted((study.parent / ".anchors").glob("*.json")):
        found.floors += 1
        try:
            problem = signed_problem(read_json(file))
        except (OSError, ValueError) as error:
            problem = str(error).rstrip(".")
        if problem:
            found.problems.append(f"{file} {problem}" if str(file) not in problem else problem)
    return found


def _records(study: Path) -> list[Path]:
    return sorted(file for file in study.glob(f"*/{FILE}") if not file.parent.name.startswith("."))


def _check_images(index: Path, problems: list[str]) -> int:
    """Compare the images of an index with their digests; the number of images."""
    checked = 0
    for row in _rows(index, problems):
        if not isinstance(row.get("digest"), str):
            continue
        checked += 1
        try:
            file = inside(index.parent, row.get("file"), index)
            if hash_bytes(file.read_bytes()) != row["digest"]:
                problems.append(f"{file} was changed")
        except FileNotFoundError:
            problems.append(f"{file} is missing")
        except (OSError, ValueError) as error:
            problems.append(str(error).rstrip("."))
    return checked


def _rows(index: Path, problems: list[str]) -> Iterator[dict]:
    try:
        for number, row in read_json_lines(index):
            if isinstance(row, dict):
                yield row
            else:
                problems.append(f"line {number} of {index} is no JSON object")
    except (OSError, ValueError) as error:
        problems.append(str(error).rstrip("."))


def verified_text(found: Verified) -> str:
    """The text that `python -m sdpet.study verify` prints."""
    checked = (counted(found.runs, "record"), counted(found.images, "image"), counted(found.floors, "kept score"))
    lines = [f"{found.folder}: {checked[0]}, {checked[1]} and {checked[2]} checked"]
    lines += [f"  changed   {printable(problem)}" for problem in found.problems]
    if found.without:
        lines.append(
            f"  unchecked {len(found.without)} records of an earlier version, which hold no digests, "
            f"first {found.without[0]}"
        )
    lines.append("  " + (f"{len(found.problems)} problems" if found.problems else "everything is as it was"))
    return "\n".join(lines)
