"""Texts for terminals: those of others do no harm there, and every terminal shows something."""

from __future__ import annotations

import sys


def printable(text: str) -> str:
    """A received text for a terminal.

    Signs that would move the cursor, change colours or reverse the line are shown as escapes.
    """
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def counted(count: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def print_in_any_encoding() -> None:
    """Let this process print signs that its terminal does not know as escapes, instead of ending with an error."""
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):  # not where a notebook or a test replaced it
            reconfigure(errors="backslashreplace")
