"""What the cells of a column are: numbers in any common notation, truth values, or words; and what is missing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.runs.notation import POINT, as_numbers
from analysis.runs.words_in_names import says_factor, says_score

MISSING_WORDS = frozenset({"nan", "na", "n/a", "#n/a", "<na>", "null", "none", "nil", "-", "--", "?", "nat", "#num!"})
_LEVEL_WORDS = frozenset({"none", "null", "nil"})  # these name a level among the values of a setting: max_depth=None
MOST_LEVELS = 20  # a column of numbers with more different values is no factor unless the user says so
_NAMED = 3  # cells that a note names

_TRUTH = {"true": True, "false": False}
_SHEET_ERRORS = frozenset(
    "#div/0! #value! #ref! #name? #null! #num! #n/a #nv #wert! #bezug! #zahl! #nom? #valeur! #error!".split()
)
_PAIRS = "yes no|pass fail|passed failed|correct incorrect|correct wrong|right wrong|win loss|won lost|ja nein|oui non"
_VERDICTS = {
    frozenset((good, bad)): {good: True, bad: False} for good, bad in (pair.split() for pair in _PAIRS.split("|"))
}
_ID = re.compile(r"[0-9a-f]{6,}")  # of a run or a commit


def is_leveled(column: pd.Series) -> bool:
    """Whether values repeat as those of a setting do: few of them, each twice or more on average."""
    known = column.dropna()
    distinct = known.nunique()
    return 0 < distinct <= MOST_LEVELS and 2 * distinct <= len(known)


def is_truth(column: pd.Series) -> bool:
    """Whether a column holds truth values, and nothing else but missing ones."""
    return set(column.dropna().unique()) <= {True, False} and column.dtype in (bool, object) and column.notna().any()


def typed(
    name: str, cells: Sequence[str], lines: Sequence[int], separator: str = ",", commas: bool = False
) -> tuple[pd.Series, list[str]]:
    """A column of text cells as numbers, truth values or words, and sentences on what was not as usual.

    Empty cells are missing. A word for "missing", such as None or nan, is missing in a column of scores; it is a level
    in a column of words, and, where it is None or null, in a column of settings whose other values are numbers that
    repeat. Where nearly all cells are numbers, one that is none is missing, and a sentence names it.

    Parameters
    ----------
    name
        The column's name, whose words tell a score from a setting.
    cells, lines
        Its cells as written, and the line of the file each stands in.
    separator
        That of the file: a file separated by commas has no bare decimal commas.
    commas
        Whether numbers of the file have decimal commas (see `decimal_commas`).
    """
    if (plain := _plain_numbers(cells)) is not None and (separator == "," or not any("." in cell for cell in cells)):
        return plain, []
    written = pd.Series(list(cells), dtype=object)
    bare = written.str.strip()
    filled = bare != ""
    if not filled.any():
        return pd.Series(np.nan, index=written.index), []
    words = _whole_blanks(written)
    if (failed := bare.str.lower().isin(_SHEET_ERRORS)).any():
        bare, filled = bare.where(~failed, ""), filled & ~failed
        column, others = typed(name, list(bare), lines, separator, commas)
        return column, [*others, _broken(name, written[failed], [lines[int(i)] for i in np.flatnonzero(failed)])]
    if _are_codes(list(bare)) or _are_ids(bare[filled]):
        return words.where(filled), []
    kinds = frozenset(bare[filled].str.lower())
    if kinds - MISSING_WORDS <= set(_TRUTH) and kinds & set(_TRUTH):
        return _truths(name, bare, filled, words)
    if says_score(name) and kinds in _VERDICTS:
        known = bare.str.lower().map(_VERDICTS[kinds])
        return (known.astype(bool) if filled.all() else known), []
    numbers, notes = as_numbers(name, bare, separator, commas)
    if numbers is None:
        return words.where(filled), []
    absent = filled & bare.str.lower().isin(MISSING_WORDS)
    broken = filled & ~absent & numbers.isna()
    if _are_words(name, numbers, bare, absent, broken):
        return words.where(filled), []
    if absent.any() and _is_level(name, numbers, bare[absent]):
        which = sorted(set(bare[absent]))
        said = f"{' and '.join(which)} in {name} ({int(absent.sum())} cells) is taken as a level, not as missing."
        return words.where(filled), [said]
    notes = list(notes)
    if broken.any():
        notes.append(_broken(name, bare[broken], [lines[int(i)] for i in np.flatnonzero(broken)]))
    if absent.any():
        shown = ", ".join(sorted(set(bare[absent])))
        notes.append(f"{_cells(int(absent.sum()))} of {name} {_are(int(absent.sum()))} missing ({shown}).")
    return _narrowed(numbers), notes


def _plain_numbers(cells: Sequence[str]) -> pd.Series | None:
    """The column of a table in which every cell is a number with a decimal point or empty; None for any other one."""
    if not all(POINT.fullmatch(cell) or not cell for cell in cells) or not any(cells) or _are_codes(cells):
        return None
    return _narrowed(pd.Series([float(cell) if cell else np.nan for cell in cells]))


def _are_codes(cells: Sequence[str]) -> bool:
    """Whether whole numbers of one width, some with a zero in front, are names: 001, 002, 010."""
    filled = [cell for cell in cells if cell]
    return any(re.fullmatch(r"0\d+", cell) for cell in filled) and (
        all(cell.isdecimal() for cell in filled) and len({len(cell) for cell in filled}) == 1
    )


def _are_ids(filled: pd.Series) -> bool:
    """Whether words of one length are ids, of which some by chance have digits only: 4f2a91c0, 00000012."""
    return (
        filled.str.len().nunique() == 1
        and bool(filled.map(lambda cell: bool(_ID.fullmatch(cell))).all())
        and bool(filled.str.contains("[a-f]").any())
        and not filled.str.fullmatch(r"\d+e\d+").all()
    )


def decimal_commas(rows: Sequence[Sequence[str]], separator: str) -> bool:
    """Whether numbers of a file have decimal commas: cells such as 0,5 in a file that commas do not separate."""
    return separator != "," and any(
        re.fullmatch(r"[+-]?(0|\d+),(\d{1,2}|\d{4,})", cell) for row in rows for cell in row
    )


def _whole_blanks(column: pd.Series) -> pd.Series:
    """Words without the blanks that stand at the same end of every cell, as after ", "; other blanks stay."""
    filled = column[column.str.strip() != ""]
    if len(filled) and filled.str.startswith(" ").all():
        column = column.str.lstrip()
    if len(filled) and filled.str.endswith(" ").all():
        column = column.str.rstrip()
    return column


def _truths(name: str, bare: pd.Series, filled: pd.Series, words: pd.Series) -> tuple[pd.Series, list[str]]:
    known = bare.str.lower().map(_TRUTH)
    if known[filled].notna().all():
        return (known.astype(bool) if filled.all() else known), []
    if set(bare[filled & known.isna()].str.lower()) <= _LEVEL_WORDS and not says_score(name):
        return words.where(filled), []  # True, False and None: three levels
    absent = bare[filled & known.isna()]
    shown = ", ".join(sorted(set(absent)))
    return known, [f"{_cells(len(absent))} of {name} {_are(len(absent))} missing ({shown})."]


def _are_words(name: str, numbers: pd.Series, bare: pd.Series, absent: pd.Series, broken: pd.Series) -> bool:
    """Whether a column with some numbers is one of words: 4, 8 and full are levels; one "err" among scores is not."""
    known, odd = int(numbers.notna().sum()), int(broken.sum())
    if not odd:
        return False
    if odd > known:
        return True
    if says_score(name):
        return False
    if not is_leveled(numbers):
        return says_factor(name) and odd > 1
    repeated = Counter(bare[broken])
    return max(repeated.values()) > 1 or odd * 10 > known + odd


def _is_level(name: str, numbers: pd.Series, words: pd.Series) -> bool:
    """Whether None in a column of numbers is one more level: where the numbers repeat as settings do, and it too."""
    if says_score(name) or not set(words.str.lower()) <= _LEVEL_WORDS:
        return False
    return is_leveled(numbers) and len(words) > 1


def _broken(name: str, cells: pd.Series, lines: Sequence[int]) -> str:
    named = [f'"{cell}" in line {line}' for cell, line in zip(cells, lines, strict=True)][:_NAMED]
    more = f" and {len(cells) - _NAMED} more" if len(cells) > _NAMED else ""
    count = len(cells)
    return f"{_cells(count)} of {name} {_are(count)} no number and {_are(count)} left out: {', '.join(named)}{more}."


def _narrowed(numbers: pd.Series) -> pd.Series:
    """Whole numbers as int64 where none is missing and all fit."""
    whole = np.isfinite(numbers).all() and (numbers == numbers.round()).all() and (numbers.abs() < 2**53).all()
    return numbers.astype("int64") if whole else numbers


def _cells(count: int) -> str:
    return "1 cell" if count == 1 else f"{count} cells"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def look_alikes(column: pd.Series) -> list[list[str]]:
    """Levels that differ only by case or blanks, in groups."""
    groups: dict[str, list[str]] = {}
    for level in dict.fromkeys(v for v in column.dropna() if isinstance(v, str)):
        groups.setdefault(re.sub(r"\s+", "", level).casefold(), []).append(level)
    return [levels for levels in groups.values() if len(levels) > 1]
