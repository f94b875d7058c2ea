"""JSON that every reader takes: numbers that are not finite become null, as JSON has none."""

from __future__ import annotations

import json
import math
from typing import Any


def to_json(content: Any, indent: int | None = None) -> str:
    """Write content as JSON.

    Parameters
    ----------
    content : mappings, sequences, texts, numbers, truth values or None
    indent : int, optional
        Blanks a level; None writes one line.

    Returns
    -------
    str
    """
    return json.dumps(finite(content), indent=indent, allow_nan=False)


def finite(content: Any) -> Any:
    """Replace numbers that are not finite by None.

    Parameters
    ----------
    content : any
        Mappings and sequences are gone through.

    Returns
    -------
    any
        The same content; tuples become lists.
    """
    if isinstance(content, dict):
        return {key: finite(item) for key, item in content.items()}
    if isinstance(content, list | tuple):
        return [finite(item) for item in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
