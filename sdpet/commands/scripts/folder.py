"""Numbered files in a folder that others may be writing to as well."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Numbered:
    """Files such as samples/00000.png, counting on from what the folder holds; gaps are not filled."""

    def __init__(self, folder: Path, prefix: str = "", digits: int = 5) -> None:
        self._folder, self._prefix, self._digits = folder, prefix, digits
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, number: int) -> Path:
        return self._folder / f"{self._prefix}{number:0{self._digits}d}.png"

    def next(self) -> int:
        """One more than the highest number that is taken."""
        pattern = re.compile(re.escape(self._prefix) + rf"(\d{{{self._digits},}})\.png")
        found = (pattern.fullmatch(file.name) for file in self._folder.iterdir())
        return 1 + max((int(match[1]) for match in found if match), default=-1)

    def add(self, write: Callable[[Path], Any]) -> Path:
        """Let `write` fill a file and give it the next number: all of it appears at once, and nothing is overwritten,
        even where two processes write to one folder."""
        partial = self._folder / f".{self._prefix}{os.getpid()}.tmp"
        try:
            write(partial)
            number = self.next()
            while True:
                target = self.path(number)
                try:
                    os.link(partial, target)
                    return target
                except FileExistsError:
                    number += 1
                except OSError:  # a file system without links
                    os.replace(partial, target)
                    return target
        finally:
            partial.unlink(missing_ok=True)
