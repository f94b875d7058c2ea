"""Runs that are stored as JSON: a list of objects, or one object a line."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd


def read_objects(path: Path) -> pd.DataFrame | None:
    """A file of JSON as a frame with a row an object, nested keys joined by points; None where it is no such file.

    Lists become text, so that they can be levels.

    Raises
    ------
    ValueError
        Where the file begins as JSON and cannot be read as a list of objects.
    """
    with path.open("rb") as file:
        first = file.read(64).lstrip(b"\xef\xbb\xbf").lstrip()[:1]
    if first not in (b"{", b"["):
        return None
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    try:
        found = json.loads(text)
    except ValueError:
        try:
            found = [json.loads(line) for line in text.splitlines() if line.strip()]
        except ValueError:
            return None  # a table whose first name begins so
    rows = found if isinstance(found, list) else [found]
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path} holds no list of JSON objects, one for each run.")
    frame = pd.json_normalize(rows)
    for name in frame.select_dtypes(object).columns:
        frame[name] = frame[name].map(lambda cell: str(cell) if isinstance(cell, list) else cell)
    return frame
