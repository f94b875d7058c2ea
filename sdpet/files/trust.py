"""Whose code may run: names of Python objects in files that others wrote. Free of imports that take time.

A config, a record or an adapter that was received may name a class by its Python path, such as a scorer's ``_target_``.
To look such a name up runs code of its author's choice. So it is looked up only if it is sdpet's own, or if the user
says that it may be: ``trust=true`` on a command, ``trust=True`` in Python, or a line in the file of trusted names.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from sdpet.choices import SCORERS

KEY = "_target_"
# Names that sdpet itself has written into configs. Short names, without a dot, are looked up in tables of sdpet.
OWN = frozenset(
    {
        *SCORERS.values(),
        "sdpet.tasks.DreamBoothTask",
        "sdpet.tasks.FinetuneTask",
        "sdpet.sample.SamplerConfig",
        "sdpet.scoring.EvalPlan",
    }
)


def trusted_file() -> Path:
    """The file of names that the user trusts, one a line: ``~/.config/sdpet/trusted``, or below XDG_CONFIG_HOME."""
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(home).expanduser() / "sdpet" / "trusted"


def require_trust(target: str, where: object, trusted: bool = False, own: Collection[str] = ()) -> None:
    """Raise ValueError unless the object that a received file names may be imported and called.

    Parameters
    ----------
    target : str
        The name: a short one of a table of sdpet, or a Python path with dots.
    where : object
        The file that names it, for the error.
    trusted : bool
        The user's word that this file may name what it wants.
    own : collection of str
        Further Python paths that are sdpet's own at this place.

    Raises
    ------
    ValueError
        The name is not sdpet's own, and the user has not said that it may be used.
    """
    if trusted or "." not in target or target in OWN or target in own or _is_listed(target):
        return
    raise ValueError(
        f"{where} names {target}, which is not part of sdpet and would run as code on this machine; if you trust it, "
        f"say so by trust=true (in Python trust=True), or write its name into {trusted_file()}."
    )


def require_trusted_targets(
    content: Any, where: object, trusted: bool = False, allowed: Collection[str] = (), key: str = KEY
) -> None:
    """`require_trust` for every name in nested mappings and lists that stands under `key`.

    Parameters
    ----------
    content : mappings, sequences and plain values
    where, trusted
        See `require_trust`.
    allowed : collection of str
        Names that the user typed, which need no other word.
    key : str
        The key whose values are names.
    """
    for target in targets(content, key):
        if target not in allowed:
            require_trust(target, where, trusted)


def targets(content: Any, key: str = KEY) -> Iterator[str]:
    """The names of Python objects in nested mappings and lists: all values under `key`."""
    if isinstance(content, Mapping):
        if key in content:
            yield str(content[key])
        for item in content.values():
            yield from targets(item, key)
    elif isinstance(content, list | tuple):
        for item in content:
            yield from targets(item, key)


def _is_listed(target: str) -> bool:
    """Whether the user's file names the object, or a module or package above it."""
    try:
        lines = trusted_file().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return False
    names = {line.partition("#")[0].strip() for line in lines} - {""}
    parts = target.split(".")
    return any(".".join(parts[:count]) in names for count in range(1, len(parts) + 1))
