"""What the cells of a column are: numbers in any common notation, truth values, or words; and what is missing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.runs.words_in_names import says_factor, says_score

MISSING_WORDS = frozenset({"nan", "na", "n/a", "#n/a", "<na>", "null", "none", "nil", "-", "--", "?", "nat", "#num!"})
_LEVEL_WORDS = frozenset({"none", "null", "nil"})  # these name a level among the values of a setting: max_depth=None
MOST_LEVELS = 20  # a column of numbers with more different values is no factor unless the user says so
_NAMED = 3  # cells that a note names

_POINT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_COMMA = re.compile(r"[+-]?(\d+,\d*|,\d+|\d+)([eE][+-]?\d+)?")
_GROUPED_POINT = re.compile(r"[+-]?\d{1,3}([,' \u00a0\u202f]\d{3})+(\.\d*)?")  # 1,234.5 or 1 234.5
_GROUPED_COMMA = re.compile(r"[+-]?\d{1,3}([.' \u00a0\u202f]\d{3})+(,\d*)?")  # 1.234,5
_INFINITE = re.compile(r"([+-]?)(inf|infinity|∞)", re.IGNORECASE)
_TRUTH = {"true": True, "false": False}


def is_leveled(column: pd.Series) -> bool:
    """Whether values repeat as those of a setting do: few of them, each twice or more on average."""
    known = column.dropna()
    distinct = known.nunique()
    return 0 < distinct <= MOST_LEVELS and 2 * distinct <= len(known)


def typed(name: str, cells: Sequence[str], lines: Sequence[int], separator: str = ",") -> tuple[pd.Series, list[str]]:
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
    """
    written = pd.Series(list(cells), dtype=object)
    bare = written.str.strip()
    filled = bare != ""
    if not filled.any():
        return pd.Series(np.nan, index=written.index), []
    words = _whole_blanks(written)
    kinds = set(bare[filled].str.lower())
    if kinds - MISSING_WORDS <= set(_TRUTH) and kinds & set(_TRUTH):
        return _truths(name, bare, filled, words)
    numbers, notes = _numbers(name, bare, separator)
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


def _numbers(name: str, bare: pd.Series, separator: str) -> tuple[pd.Series | None, list[str]]:
    """The cells as floats, NaN where they are none; None where hardly any is a number."""
    kinds = pd.Series(bare.unique(), dtype=object)
    text = kinds.str.replace("\N{MINUS SIGN}", "-")
    percent = text.str.endswith("%")
    text = text.str.removesuffix("%").str.strip()
    point = text.map(lambda t: bool(_POINT.fullmatch(t)))
    comma = text.map(lambda t: "," in t and bool(_COMMA.fullmatch(t)))
    grouped = text.map(lambda t: bool(_GROUPED_POINT.fullmatch(t)))
    grouped_comma = text.map(lambda t: bool(_GROUPED_COMMA.fullmatch(t)))
    infinite = text.map(_INFINITE.fullmatch)
    values = pd.Series(np.nan, index=kinds.index)
    values[infinite.notna()] = [float(f"{m[1]}inf") for m in infinite.dropna()]
    notes: list[str] = []
    german = comma | (grouped_comma & text.str.contains(","))
    # "1,234" may be a decimal comma or a separator of thousands: thousands only where all cells allow it.
    thousands = grouped & text.str.contains(",")
    several = text.str.contains(r",\d{3}[.,]", regex=True)  # 1,234,567 or 1,234.5
    as_decimal = separator != "," or says_score(name) or text[thousands].str.startswith("0,").any()
    is_thousands = bool(thousands.any()) and not (german & ~thousands).any() and (several.any() or not as_decimal)
    if is_thousands:
        values[point] = text[point].map(float)
        values[grouped] = text[grouped].map(lambda t: float(re.sub("[,' \u00a0\u202f]", "", t)))
        notes.append(f"Commas in {name} are read as separators of thousands.")
    elif german.any() and not (point & text.str.contains(r"\.") & ~grouped_comma).any():
        as_comma = comma | grouped_comma | text.map(lambda t: bool(_COMMA.fullmatch(t)))
        values[as_comma] = text[as_comma].map(lambda t: float(re.sub("[.' \u00a0\u202f]", "", t).replace(",", ".")))
        notes.append(f"{name} is read with decimal commas.")
    else:
        values[point] = text[point].map(float)
        values[comma] = text[comma].map(lambda t: float(t.replace(",", ".")))
        blanks = grouped & ~thousands
        values[blanks] = text[blanks].map(lambda t: float(re.sub("[' \u00a0\u202f]", "", t)))
        if (comma & values.notna()).any():
            notes.append(f"{name} holds numbers with decimal points and with decimal commas; both are read.")
    if values.notna().sum() == 0:
        return None, []
    if (percent & values.notna()).any():
        plain = values.notna() & ~percent
        said = f"{name} is read in percent."
        if plain.any():
            said = f"{name} is read in percent; {int(plain.sum())} of its values are written without a % sign."
        notes.append(said)
    return bare.map(dict(zip(kinds, values, strict=True))).astype(float), notes


def _are_words(name: str, numbers: pd.Series, bare: pd.Series, absent: pd.Series, broken: pd.Series) -> bool:
    """Whether a column with some numbers is one of words: 4, 8 and full are levels; one "err" among scores is not."""
    known, odd = int(numbers.notna().sum()), int(broken.sum())
    padded = bare.str.fullmatch(r"0\d+")  # 007 is a name
    if (padded & (bare.str.len() == bare.str.len().max())).sum() and bare[numbers.notna()].str.fullmatch(r"\d+").all():
        return bare[numbers.notna()].str.len().nunique() == 1
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
