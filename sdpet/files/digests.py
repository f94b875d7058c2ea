"""Digests of a run's files, in its record: what was changed or damaged since is found and named.

A record has a key `digests`: `record`, of the record's other content; `files`, of files in the run's folder by path;
and `study`, of files of the study that the run depends on, such as the untuned model's images. Records of version
0.1.0 have none, and nothing is said of their files. Digests find damage and careless changes. They prove nothing about
who wrote a file, since whoever changes a file on purpose can change its digest as well.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sdpet.files.hashing import hash_file
from sdpet.files.plain_json import finite
from sdpet.files.received import inside, read_json
from sdpet.files.record_file import FILE

LOG = logging.getLogger("sdpet")
KEY = "digests"
SIGNATURE = "digest"
INDEX = "samples/index.jsonl"
KEPT = (
    "*.safetensors", "adapters.json", "lora.json", "lora_file.json", "embedding.json", "unet.json", INDEX,
    "samples/scores.jsonl", "evaluations/*/samples/index.jsonl", "evaluations/*/samples/scores.jsonl",
)  # fmt: skip


def digests_of(
    folder: Path, study: Iterable[str] = (), known: Mapping[str, Any] | None = None
) -> dict[str, dict[str, str]]:
    """Digest the files of a complete run.

    Parameters
    ----------
    folder : Path
        The run's folder.
    study : iterable of str
        Paths below the study's folder of files that belong to the run; those that do not exist are left out.
    known : mapping, optional
        Earlier digests. They are kept, so that writing a record again does not make a damaged file a good one.

    Returns
    -------
    dict
        `files` and `study`, each with a digest by path.
    """
    own = [file.relative_to(folder).as_posix() for pattern in KEPT for file in folder.glob(pattern)]
    return {
        key: dict(sorted({**_digests(place, names, earlier := (known or {}).get(key) or {}), **earlier}.items()))
        for key, place, names in (("files", folder, own), ("study", folder.parent, study))
    }


def _digests(folder: Path, names: Iterable[str], earlier: Mapping[str, str]) -> dict[str, str]:
    return {
        name: hash_file(folder / name) for name in sorted(names) if name not in earlier and (folder / name).is_file()
    }


def record_digest(content: Mapping[str, Any]) -> str:
    """Digest a record's content, without its key `digests`; equal before it is written and after it is read."""
    plain = finite({key: value for key, value in content.items() if key != KEY})
    return hashlib.blake2b(json.dumps(plain, sort_keys=True).encode(), digest_size=16).hexdigest()


def is_changed(content: Mapping[str, Any]) -> bool:
    """Whether a record was changed since it was written; False for a record without digest."""
    digest = (content.get(KEY) or {}).get("record")
    return digest is not None and digest != record_digest(content)


def changed_files(folder: Path, content: Mapping[str, Any], endings: tuple[str, ...] = ()) -> list[str]:
    """The files of a run that are missing or are not as they were when its record was written.

    Parameters
    ----------
    folder : Path
        The run's folder.
    content : mapping
        Its record, as in record.json.
    endings : tuple of str
        Check only files whose names end so, and not the record itself; all by default.

    Returns
    -------
    list of str
        "FILE was changed" or "FILE is missing", with the file's path.
    """
    digests = content.get(KEY) or {}
    found = [f"{folder / FILE} was changed"] if not endings and is_changed(content) else []
    for place, key in ((folder, "files"), (folder.parent, "study")):
        for name, digest in (digests.get(key) or {}).items():
            if not name.endswith(endings or ("",)):
                continue
            try:
                file = inside(place, name, folder / FILE)
                if hash_file(file) != digest:
                    found.append(f"{file} was changed")
            except FileNotFoundError:
                found.append(f"{file} is missing")
            except (OSError, ValueError) as error:
                found.append(str(error).rstrip("."))
    return found


def signed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a cached file with a digest of itself, under the key `digest`."""
    return {**content, SIGNATURE: _self_digest(content)}


def signed_problem(content: Any) -> str | None:
    """What is wrong with the content of a cached file that `signed` made; None for nothing."""
    if not isinstance(content, dict) or not isinstance(content.get(SIGNATURE), str):
        return "holds no digest of itself"
    return None if content[SIGNATURE] == _self_digest(content) else "was changed"


def read_signed(file: Path, key: Any, place: str = "key") -> Any:
    """Read a cached file that `signed` made.

    Parameters
    ----------
    file : Path
    key : any
        What its content was made from; it must be equal to what the file has there.
    place : str
        The key under which the file has it.

    Returns
    -------
    dict or None
        None where there is no such file, or it is damaged, was changed, or was made from something else: it has to be
        made again. A changed file is named in the log.
    """
    try:
        content = read_json(file)
    except (FileNotFoundError, ValueError):
        return None
    problem = signed_problem(content)
    if problem is None and content.get(place) == json.loads(json.dumps(key)):
        return content
    if problem == "was changed":
        LOG.warning("%s was changed; it is left aside and made again", file)
    return None


def _self_digest(content: Mapping[str, Any]) -> str:
    kept = {key: value for key, value in content.items() if key != SIGNATURE}
    plain = json.loads(json.dumps(finite(kept)))  # with keys as text, as a reader of the file gets and sorts them
    return hashlib.blake2b(json.dumps(plain, sort_keys=True).encode(), digest_size=16).hexdigest()
