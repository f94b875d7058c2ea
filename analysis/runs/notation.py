"""Numbers as people and programs of many countries write them: 0.5, 0,5, 1.234,5, 1,234.5, 81.5 %, 1e-3, -inf."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pandas as pd

from analysis.runs.words_in_names import says_score

POINT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_COMMA = re.compile(r"[+-]?(\d+,\d*|,\d+)([eE][+-]?\d+)?")
_BY_POINT = re.compile(r"[+-]?\d{1,3}([,' \u00a0\u202f]\d{3})+(\.\d*)?")  # 1,234.5 or 1 234.5
_BY_COMMA = re.compile(r"[+-]?\d{1,3}([.' \u00a0\u202f]\d{3})+,\d*")  # 1.234,5
_BLANKS = re.compile(r"[' \u00a0\u202f]")
_SPREAD = re.compile(r"\s*(±|\+/-|\+-).*$")  # 0.81 ± 0.02
_INFINITE = re.compile(r"([+-]?)(inf|infinity|∞)", re.IGNORECASE)


def as_numbers(name: str, cells: pd.Series, separator: str) -> tuple[pd.Series | None, list[str]]:
    """The cells as floats, NaN where one is no number, and sentences on the notation; None where none is a number.

    Parameters
    ----------
    name
        Of the column: in a score with one comma in each number the comma is a decimal one.
    cells
        Text without blanks at its ends.
    separator
        Of the file: in one that commas do not separate, a comma is a decimal one.
    """
    bare = {cell: _bare(cell) for cell in cells.unique()}
    written = set(bare.values())
    notes: list[str] = []
    if not any(re.search(r"\d", text) or _INFINITE.fullmatch(text) for text in written):
        return None, notes
    notation = _notation(name, written, separator)
    values = {cell: _value(text, notation) for cell, text in bare.items()}
    read = [cell for cell, value in values.items() if value == value]
    if not read:
        return None, notes
    if notation == "thousands":
        notes.append(f"Commas in {name} are read as separators of thousands.")
    elif notation == "comma":
        notes.append(f"{name} is read with decimal commas.")
    elif any("," in cell for cell in read):
        notes.append(f"{name} holds numbers with decimal points and with decimal commas; both are read.")
    if any(_SPREAD.search(cell) for cell in read):
        notes.append(f"Of {name} the number before ± is read.")
    if any(cell.endswith("%") for cell in read):
        without = int(cells.isin([cell for cell in read if not cell.endswith("%")]).sum())
        also = f"; {without} of its values are written without a % sign" if without else ""
        notes.append(f"{name} is read in percent{also}.")
    return cells.map(values).astype(float), notes


def _bare(cell: str) -> str:
    return _SPREAD.sub("", cell).replace("\N{MINUS SIGN}", "-").removesuffix("%").strip()


def _notation(name: str, written: Iterable[str], separator: str) -> str:
    """point, comma or thousands: what a comma in these numbers is. "1,234" alone may be either of the last two."""
    with_comma = [t for t in written if "," in t and any(r.fullmatch(t) for r in (_COMMA, _BY_POINT, _BY_COMMA))]
    if not with_comma:
        return "point"
    if all(_BY_POINT.fullmatch(t) for t in with_comma):
        several = any(re.search(r",\d{3}[.,]", t) for t in with_comma)  # 1,234,567 or 1,234.5
        zero = any(re.match(r"[+-]?0,", t) for t in with_comma)
        if several or not (zero or separator != "," or says_score(name)):
            return "thousands"
    points = [t for t in written if "." in t and POINT.fullmatch(t)]
    return "comma" if all(_BY_COMMA.fullmatch(t + ",") for t in points) else "point"


def _value(text: str, notation: str) -> float:
    if infinite := _INFINITE.fullmatch(text):
        return float(f"{infinite[1]}inf")
    if notation == "comma" and (_BY_COMMA.fullmatch(text) or _BY_COMMA.fullmatch(text + ",")):
        return float(_BLANKS.sub("", text).replace(".", "").replace(",", "."))
    if POINT.fullmatch(text):
        return float(text)
    if notation != "thousands" and _COMMA.fullmatch(text):
        return float(text.replace(",", "."))
    if _BY_POINT.fullmatch(text) and (notation == "thousands" or "," not in text):
        return float(_BLANKS.sub("", text).replace(",", ""))
    return float("nan")
