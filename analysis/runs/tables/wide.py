"""Wide tables, with a column for each seed, into long ones with a row for each run."""

from __future__ import annotations

import re

import pandas as pd

_MARK = re.compile(r"(?i)(?<![a-z])(seed|replicate|repetition|repeat|rep|fold|split|trial|run)[ _.:=#/-]*(\d+)(?!\d)")
_S = re.compile(r"(?<=[^\W_])[_.-]s(?=\d+$)")  # acc_s0 is short for acc_seed0
_MOST_BARE = 12
_JOINTS = " _.:=#/-()[]"


def as_long(frame: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The table with one row for each seed, and a sentence on it; the table itself and "" where it is long already.

    Columns of numbers whose names differ only in the number after the word seed (run, fold, trial, rep) hold the runs
    of one design: `acc_seed0` and `acc_seed1` become the column acc, with 0 and 1 in the column seed.

    >>> as_long(pd.DataFrame({"model": ["a"], "acc_seed0": [0.5], "acc_seed1": [0.6]}))[0].to_dict("list")
    {'model': ['a', 'a'], 'seed': [0, 1], 'acc': [0.5, 0.6]}
    """
    found: dict[tuple[str, str], dict[int, str]] = {}  # (word, what is left of the name) -> number -> column
    for column in frame.columns:
        told = _S.sub("_seed", column)
        marks = list(_MARK.finditer(told))
        if len(marks) != 1 or not pd.api.types.is_numeric_dtype(frame[column]):
            continue
        mark = marks[0]
        left = [part for part in (told[: mark.start()].strip(_JOINTS), told[mark.end() :].strip(_JOINTS)) if part]
        found.setdefault((mark[1].lower(), "_".join(left)), {}).setdefault(int(mark[2]), column)
    scores = {key: columns for key, columns in found.items() if len(columns) > 1} or _bare(frame)
    words = {word for word, _ in scores}
    if len(words) != 1:
        return frame, ""
    word = words.pop()
    if word in {str(c).lower() for c in frame.columns}:  # the runs have a row each
        return frame, ""
    numbers = sorted({number for columns in scores.values() for number in columns})
    used = [column for columns in scores.values() for column in columns.values()]
    kept = frame.drop(columns=used)
    parts = []
    for number in numbers:
        part = kept.assign(**{word: number})
        for (_, name), columns in scores.items():
            part[_free(name or "score", kept, word)] = frame[columns[number]] if number in columns else float("nan")
        parts.append(part)
    long = pd.concat(parts).sort_index(kind="stable").reset_index(drop=True)
    names = [name or "score" for _, name in scores]
    long.attrs["long"] = {"scores": [_free(name, kept, word) for name in names], "copies": len(numbers)}
    said = (
        f"The table is wide: {used[0]} to {used[-1]} hold one {word} each. It is read as {len(long)} runs with the "
        f"columns {word} and {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}."
    )
    return long, said


def _bare(frame: pd.DataFrame) -> dict[tuple[str, str], dict[int, str]]:
    """Columns called by their seeds alone, as 0, 1, 2 or s42, s43, s44: three to twelve, each of numbers with a point.

    More of them may be the points of a curve, which are no runs.
    """
    for pattern in (r"(\d+)", r"s_?(\d+)"):
        told = {c: re.fullmatch(pattern, c) for c in map(str, frame.columns)}
        columns = {int(found[1]): c for c, found in told.items() if found}
        numbers = all(pd.api.types.is_float_dtype(frame[c]) for c in columns.values())
        if numbers and 3 <= len(columns) <= _MOST_BARE:
            return {("seed", ""): columns}
    return {}


def _free(name: str, frame: pd.DataFrame, word: str) -> str:
    while name in frame or name == word:
        name += "_"
    return name
