"""Texts for terminals: those of others do no harm there, and every terminal shows something."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from difflib import get_close_matches


def printable(text: str) -> str:
    """A received text for a terminal.

    Signs that would move the cursor, change colours or reverse the line are shown as escapes.
    """
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def counted(count: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """` (did you mean X?)` with the nearest of the known words, to stand in an error; nothing if none is near."""
    near = get_close_matches(str(given), list(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def print_in_any_encoding() -> None:
    """Let this process print signs that its terminal does not know as escapes, instead of ending with an error."""
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):  # not where a notebook or a test replaced it
            reconfigure(errors="backslashreplace")
