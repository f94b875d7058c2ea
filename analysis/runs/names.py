"""Nested names such as `optimizer.name`, and the short names under which their columns are also found."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import pandas as pd

from analysis.runs.direction import tokens
from analysis.runs.exports import bookkeeping

# In models ":" and "*" join factors; in a name of one column they are kept apart as signs that look alike.
_INNER = str.maketrans({":": "\N{RATIO}", "*": "\N{ASTERISK OPERATOR}"})
_OUTER = str.maketrans({"\N{RATIO}": ":", "\N{ASTERISK OPERATOR}": "*"})
_NESTED = re.compile(r"[./]")
# Ends of names for the seed: seed, random_seed, random_state, rng.
_SEEDS = [
    ["seed"],
    ["randomseed"],
    ["rngseed"],
    ["random", "state"],
    ["randomstate"],
    ["rng"],
    ["startwert"],
    ["graine"],
]
_COUNTERS = frozenset("id idx index nr no num number".split())
_SHORT = re.compile(r"[^\W\d]\w*( \w+)*")  # the 1 of seed.1 is no name


def short_name(name: str) -> str:
    """The last part of a nested name, or the name where that is none.

    >>> [short_name(n) for n in ("adapter.din", "val/accuracy", "seed.1", "learning rate")]
    ['din', 'accuracy', 'seed.1', 'learning rate']
    """
    last = _NESTED.split(name)[-1]
    return last if _SHORT.fullmatch(last) else name


def with_short_names(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame in which each nested column is also found under its last name, where only one column has that.

    Columns that only keep the books of a tracker get none. A seed under another name is also found as `seed`.
    """
    columns = [str(c) for c in frame.columns]
    ends = Counter(short_name(c) for c in columns)
    idle = bookkeeping(columns)
    more = {}
    for column in columns:
        short = short_name(column)
        if short != column and ends[short] == 1 and column not in idle:
            more[short] = frame[column]
    if "seed" not in frame and "seed" not in more:
        seeds = [c for c in columns if c not in more and c not in idle and _is_seed(c)]
        if len(seeds) == 1:
            more["seed"] = frame[seeds[0]]
    if not more:
        return frame
    attrs = frame.attrs
    frame = pd.concat([frame, pd.DataFrame(more, index=frame.index)], axis=1)
    frame.attrs = attrs
    return frame


def _is_seed(column: str) -> bool:
    words = tokens(column)
    while len(words) > 1 and words[-1] in _COUNTERS:
        words = words[:-1]
    return len(words) <= 3 and (words[-1:] in _SEEDS or words[-2:] in _SEEDS)


def doubles(frame: pd.DataFrame, known: Iterable[str]) -> set[str]:
    """Of each column that the frame holds under a nested and a short name, the name that is not shown.

    The short name is shown where it is one of the `known`, the nested one, as the user wrote it, elsewhere.
    """
    kept, hidden = set(known), set()
    columns = {str(c) for c in frame.columns}
    for column in columns:
        short = short_name(column)
        if short == column and "seed" in columns and column != "seed" and _is_seed(column):
            short = "seed"
        if short != column and short in columns and frame[short].equals(frame[column]):
            hidden.add(column if short in kept else short)
    return hidden


def resolve(name: str, columns: Sequence[str]) -> str:
    """The column that a user's name means: itself, or the only one that ends in it or equals it but for case.

    ValueError with the choices where there is none, or more than one.
    """
    if name in columns:
        return name
    ends = [c for c in columns if short_name(c) == name]
    ends = ends or [c for c in columns if c.casefold() == name.strip().casefold()]
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise ValueError(f"{name!r} can be {' or '.join(ends)}; write the whole name.")
    raise ValueError(f"Unknown column {name!r}; the columns are {', '.join(columns)}.")


def inner(name: str) -> str:
    """A column's name as it may stand in a model: `a:b` with signs that join nothing."""
    return name.translate(_INNER)


def outer(text: str) -> str:
    """Text for people, with the names of columns as the user wrote them."""
    return text.translate(_OUTER)


def split_names(text: str) -> list[str]:
    """Names separated by commas; one with a comma inside stands between backticks or double quotes.

    >>> split_names('a, `b,c` ,d')
    ['a', 'b,c', 'd']
    """
    found = re.findall(r'\s*(?:`([^`]*)`|"([^"]*)"|([^,]*))\s*(?:,|$)', text)
    return [name for groups in found if (name := "".join(groups).strip())]
