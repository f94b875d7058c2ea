"""How often the results of a study were looked at while runs were added, in `.looks.json` beside them.

A test at 5 % that is repeated at every new seed finds an effect of nothing in 20 % of studies over 8 looks. Whether
that happened cannot be seen from the runs, so each report, and each step of `hydra.sweeper.until`, notes its runs.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from sdpet.files.atomic import write_atomic

FILE = ".looks.json"
NAMED = 8  # looks whose numbers of runs a sentence gives


def looked(folder: Path, runs: Iterable[str], by: str) -> list[int]:
    """Note a look at these runs; one at the same runs as before is no new look.

    Parameters
    ----------
    folder
        The study's folder; where it cannot be written, nothing is noted.
    runs
        Ids of the runs that have a score.
    by
        What looked: "report" or "until".

    Returns
    -------
    list of int
        The number of runs at each look so far, this one included.
    """
    ids = sorted(runs)
    here = {"runs": len(ids), "digest": hashlib.sha256(" ".join(ids).encode()).hexdigest()[:16], "by": by}
    before = _read(folder)
    if all(look.get("digest") != here["digest"] for look in before):
        before.append({**here, "at": time.time()})
        text = json.dumps(before, indent=1) + "\n"
        with suppress(OSError):
            write_atomic(folder / FILE, lambda file: file.write_text(text, encoding="utf-8"))
    return [look["runs"] for look in before]


def looks_note(counts: list[int]) -> str:
    """A sentence on several looks; "" for one."""
    if len(counts) < 2:
        return ""
    shown = ", ".join(map(str, counts[:NAMED])) + (", ..." if len(counts) > NAMED else "")
    return (
        f"These results were looked at {len(counts)} times while runs were added (at {shown} runs). Each test here is "
        "at 5 % for one look; repeated while runs are added, it finds effects of nothing more often. If what was seen "
        "decided which runs were added, treat this page as exploratory; hydra.sweeper.race is made to be looked at."
    )


def _read(folder: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return [look for look in content if isinstance(look, dict) and isinstance(look.get("runs"), int)]
    except (OSError, ValueError, TypeError):
        return []
