"""The file record.json, read with types and limits: what any process, version or person may have written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sdpet.files.received import inside, parsed, read_text

FORMAT = 1
FILE = "record.json"
MOST_TEXT = 100_000  # letters of one text
MOST_NUMBER = 2**63  # beyond it, a whole number is none that sdpet writes
TAKEN = ("run_id", "status", "path")  # columns of the analysis that no factor or score may overwrite
Check = Callable[[Any], bool]


class LaterFormat(ValueError):
    """A record of a format that this version does not know. It is complete, and nothing may replace it."""


def read_record(path: Path) -> dict[str, Any]:
    """Read a record.json.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict
        Its content. Keys of other versions are kept as they are; NaN and infinite numbers became None.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    LaterFormat
        A later version of sdpet wrote it.
    ValueError
        It cannot be read, or a value has not the type that it must have. One sentence names the file and the key.
    """
    return checked_record(parsed(path, read_text(path)), path)


def checked_record(content: Any, path: Path) -> dict[str, Any]:
    """Check the content of a record; returns and raises as `read_record`."""
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a record, but a {_kind(content)}.")
    format_ = content.get("format", FORMAT)
    if _is_whole(format_) and format_ > FORMAT:
        raise LaterFormat(
            f"{path} has format {format_}, and this version of sdpet reads format {FORMAT}: a later version wrote it; "
            "update sdpet, or give the study another name (study=NAME)."
        )
    if format_ != FORMAT:
        raise ValueError(f"{path} is not a record of format {FORMAT}, but of {format_!r:.40}.")
    if lacking := [key for key in ("status", "run_id") if content.get(key) is None]:
        raise ValueError(f"{path} is not a record: it has no {lacking[0]}.")
    _check(content, _RECORD, path, "")
    _check(content.get("factors") or {}, _FACTORS, path, "factors.")
    _check(content.get("task") or {}, _TASK, path, "task.")
    if taken := [n for key in ("factors", "metrics") for n in content.get(key) or {} if n in TAKEN or len(n) > 200]:
        raise ValueError(f"{path}: {taken[0]!r:.60} can be the name neither of a factor nor of a score.")
    for entry in content.get("evaluations") or []:
        _check(entry, _EVALUATION, path, "evaluations.")
        if entry.get("samples") is not None:
            inside(path.parent, entry["samples"], path)
        if entry.get("base") is not None:
            inside(path.parent.parent, entry["base"], path)
    return content


def is_scores(value: Any) -> bool:
    """Whether a value is a mapping of numbers, or None, by name."""
    return _mapping(_is_number)(value)


def _check(content: dict[str, Any], schema: dict[str, tuple[Check, str]], path: Path, prefix: str) -> None:
    for key, (is_right, wanted) in schema.items():
        value = content.get(key)
        if value is not None and not is_right(value):
            raise ValueError(f"{path}: {prefix}{key} must be {wanted}, not {_shown(value)}.")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MOST_TEXT


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < MOST_NUMBER


def _is_number(value: Any) -> bool:
    return _is_whole(value) or isinstance(value, float)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool) or _is_number(value) or _is_text(value)


def _mapping(check: Check) -> Check:
    return lambda value: isinstance(value, dict) and all(item is None or check(item) for item in value.values())


def _list(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(check(item) for item in value)


def _are_points(value: Any) -> bool:
    return (
        isinstance(value, list)
        and all(type(item) is list and len(item) == 2 for item in value)
        and all(_is_number(step) and (loss is None or _is_number(loss)) for step, loss in value)
    )


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


_TEXT = (_is_text, "a text")
_NUMBERS = (_mapping(_is_number), "numbers by name")
_ANCHORS = (_mapping(_mapping(_is_number)), "floor and ceiling by score")
_TEXTS = (_mapping(_is_text), "texts by name")
_DICT = (_is_dict, "a mapping")
_SCORES: dict[str, tuple[Check, str]] = {
    "metrics": _NUMBERS,
    "anchors": _ANCHORS,
    "protocol": _DICT,
    "missing": _TEXTS,
    "seconds": _NUMBERS,
}
_RECORD: dict[str, tuple[Check, str]] = {
    **_SCORES,
    "run_id": _TEXT,
    "study": _TEXT,
    "status": _TEXT,
    "reason": _TEXT,
    "trained_in": _TEXT,
    "git_sha": _TEXT,
    "factors": (_mapping(_is_plain), "a text, a number, true, false or null by name"),
    "task": _DICT,
    "sizes": _NUMBERS,
    "peak_memory": (_is_number, "a number"),
    "loss": (_are_points, "pairs of a step and a loss"),
    "versions": _TEXTS,
    "evaluations": (_list(_is_dict), "a list of mappings"),
    "settings": (
        _mapping(lambda value: _is_plain(value) or _list(_is_plain)(value) or _is_dict(value)),
        "values by key",
    ),
    "digests": (_mapping(lambda value: _is_text(value) or _mapping(_is_text)(value)), "digests by file"),
}
_FACTORS: dict[str, tuple[Check, str]] = {
    **dict.fromkeys(("seed", "steps", "mid_dim", "lr", "scale", "guidance"), (_is_number, "a number")),
    **dict.fromkeys(("placement", "din", "dout", "activation", "init", "method"), _TEXT),
}
_TASK: dict[str, tuple[Check, str]] = {"name": _TEXT, "data": _TEXT}
_EVALUATION: dict[str, tuple[Check, str]] = {
    **_SCORES,
    "asked": (_list(_is_text), "a list of texts"),
    "samples": _TEXT,
    "base": _TEXT,
}


def _kind(value: Any) -> str:
    return {dict: "mapping", list: "list", str: "text", type(None): "null"}.get(type(value), "number")


def _shown(value: Any) -> str:
    return f"a {_kind(value)} with other content" if isinstance(value, dict | list) else f"{value!r:.60}"
