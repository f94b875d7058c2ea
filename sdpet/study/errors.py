"""Errors a user can mend, as one sentence without a traceback; the rest keeps its traceback."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from hydra.errors import CompactHydraException, MissingConfigException

from sdpet.study.rules import unknown_key


def run_command(main: Callable[[], Any]) -> None:
    """Run a command's main function; exits 1 with one sentence for a user's error, 130 or 143 when interrupted."""
    signal.signal(signal.SIGTERM, _terminate)
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        main()
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then hands its errors to us instead of printing them
    try:
        main()
    except (CompactHydraException, ValueError, OSError) as error:
        _fail(sentence(error))
    except KeyboardInterrupt:
        print("\nInterrupted; the same command goes on where this one stopped.", file=sys.stderr)
        sys.exit(130)


def sentence(error: BaseException) -> str:
    """What is wrong and what would be right, in one line."""
    text = str(error).strip()
    if isinstance(error, MissingConfigException) and error.options:
        return f"{_first(text)}; choose one of {', '.join(error.options)}."
    if "Could not override '" in text:
        return unknown_key(text.split("Could not override '")[1].split("'")[0])
    if isinstance(error, CompactHydraException):
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        cause = [str(error.__cause__).splitlines()[0]] if error.__cause__ else []
        return " ".join(lines[:5] + cause) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}."
    return " ".join(text.split()) or type(error).__name__


def _first(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(line for line in lines[:2] if not line.startswith("Available options")).rstrip(".")


def _fail(text: str) -> None:
    print(f"error: {text}", file=sys.stderr)
    sys.exit(1)


def _terminate(number: int, frame: Any) -> None:
    sys.exit(128 + number)
