"""Numbered files in a folder that several processes may write to."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Numbered:
    """Files such as samples/00000.png. Numbers continue after the highest one in the folder; gaps are not filled."""

    def __init__(self, folder: Path, prefix: str = "", digits: int = 5) -> None:
        self._folder, self._prefix, self._digits = folder, prefix, digits
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, number: int) -> Path:
        return self._folder / f"{self._prefix}{number:0{self._digits}d}.png"

    def next(self) -> int:
        """The highest number in use plus one."""
        pattern = re.compile(re.escape(self._prefix) + rf"(\d{{{self._digits},}})\.png")
        found = (pattern.fullmatch(file.name) for file in self._folder.iterdir())
        return 1 + max((int(match[1]) for match in found if match), default=-1)

    def add(self, write: Callable[[Path], Any]) -> Path:
        """Write a file atomically under the next number, without overwriting files of other processes.

        Parameters
        ----------
        write : callable
            Called with a temporary path, to which it writes.

        Returns
        -------
        Path
            The numbered file.
        """
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
                except OSError:  # the file system has no hard links
                    os.replace(partial, target)
                    return target
        finally:
            partial.unlink(missing_ok=True)
