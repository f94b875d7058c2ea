"""Read the settings of runs: from their records, or from the config beside the record of an older version."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from sdpet.config import plain_settings
from sdpet.files.received import MOST_CONFIG_BYTES, parsed_yaml, read_text

Settings = dict[str, Any]
_BLOCK = re.compile(r"^(?=\w)", re.MULTILINE)  # where a group of config.yaml begins


def settings_of_record(record: Mapping[str, Any], folder: Path) -> Settings | None:
    """The settings in a record, or for one of an older version in the config.yaml beside it; None where neither is."""
    found = record.get("settings")
    if isinstance(found, Mapping) and found:
        return dict(found)
    try:
        text = read_text(folder / "config.yaml", MOST_CONFIG_BYTES)
    except (OSError, ValueError):
        return None
    return plain_settings({k: v for block in _BLOCK.split(text) for k, v in _parsed(block).items()}) or None


@lru_cache(maxsize=20_000)
def _parsed(block: str) -> dict[str, Any]:
    """One group of a config.yaml: in a study most groups of most runs are alike, and each text is parsed once."""
    try:
        found = parsed_yaml("config.yaml", block)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
