"""A table of text cells from a file of any origin: its encoding, its separator, and rows that do not fit."""

from __future__ import annotations

import codecs
import csv
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from analysis.runs.notation import plain_number
from analysis.runs.tables.layout import (
    by_blanks,
    with_one_line_of_names,
    without_borders,
    without_repeated_names,
    without_sums,
)

SEPARATORS = (",", ";", "\t", "|")
_SEPARATOR_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LOOKED_AT = 200  # rows by which the separator is found
_NAMED = 3  # rows that a note names


@dataclass(frozen=True)
class TextTable:
    """names: of the columns, each once. rows: cells as written. lines: the line of the file each row begins in."""

    names: list[str]
    rows: list[list[str]]
    lines: list[int]
    separator: str
    notes: list[str] = field(default_factory=list)


def read_text_table(path: Path) -> TextTable:
    """The cells of a delimited text file, none of them interpreted.

    Parameters
    ----------
    path
        A file of UTF-8, UTF-16 or UTF-32 text, or else of Windows-1252; separated by commas, semicolons, tabs, bars (a
        table of Markdown as well) or blanks.

    Returns
    -------
    TextTable
        Its notes say what was not as usual: the encoding, the separator, rows that were left out.

    Raises
    ------
    ValueError
        Where the file is empty or its rows do not fit its first row.
    """
    notes: list[str] = []
    content = path.read_bytes()
    if content.startswith(b"PK\x03\x04"):
        raise ValueError(f"{path} is an Excel workbook or another archive; save the sheet with the runs as a CSV.")
    text = _decoded(content, path.name, notes)
    if "\0" in text:
        raise ValueError(f"{path} is no text file, so it cannot be read as a CSV.")
    text, told = _told_separator(text)
    if not text.strip():
        raise ValueError(f"{path} cannot be read as a CSV: it is empty.")
    text, bordered = without_borders(text)
    separator = told or ("|" if bordered else _separator(text))
    if not any(separator in line for line in text.splitlines()) and (blank := by_blanks(text)):
        text, separator = blank, "\t"
        notes.append(f"The columns of {path.name} are separated by blanks.")
    elif separator != ",":
        notes.append(f"The columns of {path.name} are separated by {_SEPARATOR_NAMES.get(separator, separator)}.")
    rows, lines = _records(text, separator)
    rows, depth = with_one_line_of_names(rows)
    lines = lines[depth - 1 :]
    if depth > 1:
        notes.append(f"The first {depth} lines of {path.name} are its names, written one below the other.")
    start = _header_row(rows)
    if start:
        notes.append(_preamble(start, path.name))
    header, rows, lines = [name.strip() for name in rows[start]], rows[start + 1 :], lines[start + 1 :]
    header, rows, lines = _fitted(path, header, rows, lines, notes)
    rows, lines = without_repeated_names(header, rows, lines, notes)
    rows, lines = without_sums(rows, lines, notes, plain_number)
    if not rows:
        raise ValueError(f"{path} has names of columns but no rows.")
    for name, count in Counter(header).items():
        if count > 1 and name:
            notes.append(f"{count} columns are called {name}; the later ones are called {name}.1 and so on here.")
    return TextTable(_unique(header), rows, lines, separator, notes)


def _decoded(content: bytes, name: str, notes: list[str]) -> str:
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return content.decode(encoding, errors="replace")
    head = content[:4000]
    if head.count(0) > len(head) // 4:  # UTF-16 of mostly Latin letters, without a mark
        return content.decode("utf-16-le" if head[1::2].count(0) > head[::2].count(0) else "utf-16-be", "replace")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        notes.append(f"{name} is not UTF-8; its letters are read as Windows-1252 (Latin-1).")
    try:
        return content.decode("cp1252")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _told_separator(text: str) -> tuple[str, str | None]:
    """Without the line `sep=;` that spreadsheets write, and what it says."""
    first, _, rest = text.partition("\n")
    first = first.strip().strip('"')
    return (rest, first[4:]) if first.lower().startswith("sep=") and len(first) == 5 else (text, None)


def _separator(text: str) -> str:
    """The separator that splits most rows into the same number of cells; among equals the one with more cells."""
    best, choice = (0.0, 0), ","
    lines = [line for line in text.splitlines() if line.strip()]
    header = lines[0] if lines else ""
    for separator in SEPARATORS:
        if separator not in header and separator not in "".join(lines[:5]):
            continue
        rows, _ = _records(text, separator, _LOOKED_AT)
        count, often = Counter(len(row) for row in rows).most_common(1)[0]
        # A header of another width than the rows speaks against: 0,5 under one name is a decimal comma.
        fits = often / len(rows) - (0.5 if len(rows[0]) != count and len(rows) < 20 else 0.0)
        if count > 1 and (round(fits, 1), count) > best:
            best, choice = (round(fits, 1), count), separator
    return choice


def _records(text: str, separator: str, most: int | None = None) -> tuple[list[list[str]], list[int]]:
    """Rows with at least one cell that is not blank, and the line each begins in."""
    rows: list[list[str]] = []
    lines: list[int] = []
    csv.field_size_limit(max(csv.field_size_limit(), 2**24))
    reader = csv.reader(text.splitlines(keepends=True), delimiter=separator)
    line = 1
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append(row)
                lines.append(line)
            line = reader.line_num + 1
            if most is not None and len(rows) >= most:
                break
    except csv.Error as error:
        raise ValueError(f"line {line} of the table cannot be read: {error}.") from None
    return rows, lines


def _header_row(rows: list[list[str]]) -> int:
    """The position of the names: after lines of comment, which have fewer cells than the table."""
    usual = Counter(len(row) for row in rows).most_common(1)[0][0]
    for position, row in enumerate(rows[:20]):
        if len(row) >= usual or (len(row) > 1 and len(row) >= usual - 1):
            return position
    return 0


def _fitted(
    path: Path, header: list[str], rows: list[list[str]], lines: list[int], notes: list[str]
) -> tuple[list[str], list[list[str]], list[int]]:
    """Rows of the header's width: missing cells at the end are empty, rows with too many cells are left out."""
    while header and not header[-1] and all(len(row) < len(header) or not row[-1].strip() for row in rows):
        header = header[:-1]  # a separator at the end of each line
        rows = [row[: len(header)] for row in rows]
    width = len(header)
    if rows and all(len(row) == width + 1 for row in rows):
        first = [row[0] for row in rows]
        if len(set(first)) < len(first):
            raise ValueError(
                f"Every row of {path} has {width + 1} cells under {width} names; where numbers have a decimal comma, "
                "separate the columns by semicolons or tabs."
            )
        header, width = ["", *header], width + 1  # names of rows, as R writes them
    kept, where, wrong = [], [], []
    for row, line in zip(rows, lines, strict=True):
        extra = row[width:]
        if any(cell.strip() for cell in extra):
            wrong.append(line)
            continue
        kept.append([*row[:width], *[""] * (width - len(row))])
        where.append(line)
    if wrong:
        named = ", ".join(map(str, wrong[:_NAMED])) + (", ..." if len(wrong) > _NAMED else "")
        if not kept:
            raise ValueError(f"No row of {path} has as many cells as there are names of columns ({width}).")
        notes.append(
            f"{len(wrong)} of {len(rows)} rows have more cells than there are columns and are left out "
            f"(line {named} of {path.name})."
        )
    return header, kept, where


def _unique(names: Iterable[str]) -> list[str]:
    """Each name once: the second `acc` becomes `acc.1`, as in pandas; a column without a name `Unnamed: 0`."""
    found: list[str] = []
    taken = set(names := list(names))
    for position, name in enumerate(names):
        name = name or f"Unnamed: {position}"
        number, base = 0, name
        while name in found or (number and name in taken):
            number += 1
            name = f"{base}.{number}"
        found.append(name)
    return found


def _preamble(count: int, name: str) -> str:
    if count == 1:
        return f"The first line of {name} is no part of the table and is left out."
    return f"The first {count} lines of {name} are no part of the table and are left out."
