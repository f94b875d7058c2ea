"""Where conf/, train.py and evaluate.py are: at the top of a checkout, or in the package that a wheel installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_IN_WHEEL = _PACKAGE / "_project"  # setup.py makes it
INSTALLED = _IN_WHEEL.is_dir()
PROJECT = _IN_WHEEL if INSTALLED else _PACKAGE.parent
CONF = PROJECT / "conf"
TYPED = {
    "python train.py": "sdpet train",
    "python evaluate.py": "sdpet evaluate",
    "python -m analysis": "sdpet analyse",
    "python -m sdpet.study": "sdpet",
}  # the same commands, as users of a checkout and of a wheel type them


def here(text: str) -> str:
    """A text with its commands as one types them here: unchanged in a checkout, else as `for_wheel` gives them."""
    return for_wheel(text) if INSTALLED else text


def for_wheel(text: str) -> str:
    """A text with its commands as users of a wheel type them, who have no train.py.

    Parameters
    ----------
    text : str
        A message or a help text, which names the commands as users of a checkout type them.

    Returns
    -------
    str
    """
    for checkout, wheel in TYPED.items():
        text = text.replace(checkout, wheel)
    return text


def as_typed(arguments: Sequence[str]) -> list[str]:
    """What follows `python` on a command line that does the same again.

    Parameters
    ----------
    arguments : sequence of str
        The command line of this process: sys.argv.

    Returns
    -------
    list of str
        The arguments as they are; for a script inside an installed package, `-m sdpet train ...` or the like.
    """
    script = Path(arguments[0])
    if script.parent != _IN_WHEEL:
        return list(arguments)
    return ["-m", "sdpet", script.stem, *arguments[1:]]
