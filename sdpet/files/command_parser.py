"""A parser for command lines whose help begins with an example, and whose errors are one sentence."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn

from sdpet.files.project import INSTALLED, for_wheel

_AS_SDPET = ContextVar("as_sdpet", default=INSTALLED)  # whether commands are named `sdpet analyse` and the like


@contextmanager
def typed_as_sdpet() -> Iterator[None]:
    """Name commands as subcommands of `sdpet` inside the block, for they were typed so."""
    token = _AS_SDPET.set(True)
    try:
        yield
    finally:
        _AS_SDPET.reset(token)


class CommandParser(argparse.ArgumentParser):
    """A parser of one command.

    Parameters
    ----------
    prog : str
        The command as users of a checkout type it, such as "python -m analysis".
    example : str
        What its help begins with.
    **options
        See `argparse.ArgumentParser`.
    """

    def __init__(self, prog: str | None = None, *, example: str = "", **options: Any) -> None:
        super().__init__(prog, **options)
        self._example = example

    def format_help(self) -> str:
        return self._example + super().format_help()

    def error(self, message: str) -> NoReturn:
        """End the process with status 2 and one line."""
        prog = for_wheel(self.prog) if _AS_SDPET.get() else self.prog
        self.exit(2, f"error: {message}; {prog} --help shows all options.\n")
