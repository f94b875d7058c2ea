"""Numbers as people and programs of many countries write them: 0.5, 0,5, 1.234,5, 1,234.5, 81.5 %, 12 ms, -inf."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pandas as pd

from analysis.runs.direction import tokens
from analysis.runs.words_in_names import says_factor, says_score

POINT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_COMMA = re.compile(r"[+-]?(\d+,\d*|,\d+)([eE][+-]?\d+)?")
_BY_POINT = re.compile(r"[+-]?\d{1,3}([,' \u00a0\u202f]\d{3})+(\.\d*)?")  # 1,234.5 or 1 234.5
_BY_COMMA = re.compile(r"[+-]?\d{1,3}([.' \u00a0\u202f]\d{3})+,\d*")  # 1.234,5
_BLANKS = re.compile(r"[' \u00a0\u202f]")
_SPREAD = re.compile(
    r"\s*(±|\+/-|\+-|\\pm).*$|(?<=[\d%])\s*[(\[][^()\[\]]*\d[^()\[\]]*[)\]]$"
)  # 0.81 ± 0.02, 0.81 (0.02)
_UNIT = re.compile(r"([+-]?[\d.,' \u00a0\u202f]*\d[.,]?(?:[eE][+-]?\d+)?)\s*([A-Za-zµμ°×/²³]{1,12}\d?)")
_MARKS = re.compile(r"^(?:\*+|_+|~|≈|\\textbf\{|\\underline\{)+\s*|(?:\s*[*_†‡§}])+$")  # 0.81*, **0.81**, ~0.81
_QUOTIENT = re.compile(r"(\d+(?:\.\d+)?)\s*/\s*(\d*[1-9]\d*)")  # 17/20
_CURRENCY = re.compile(r"^[$€£¥]\s*|\s*[$€£¥]$")
_CLOCK = re.compile(r"(?:(\d+) days? )?(?:(\d{1,3}):)?(\d{1,3}):(\d\d(?:[.,]\d+)?)")
_MEASURED = frozenset(
    "time times duration runtime elapsed latency memory mem vram ram cost price energy power throughput speed distance "
    "zeit dauer laufzeit temps durée".split()
)
_INFINITE = re.compile(r"([+-]?)(inf|infinity|∞)", re.IGNORECASE)


def as_numbers(name: str, cells: pd.Series, separator: str, commas: bool = False) -> tuple[pd.Series | None, list[str]]:
    """The cells as floats, NaN where one is no number, and sentences on the notation; None where none is a number.

    Parameters
    ----------
    name
        Of the column: in a score with one comma in each number the comma is a decimal one.
    cells
        Text without blanks at its ends.
    separator
        Of the file: in one that commas do not separate, a comma is a decimal one.
    commas
        Whether the file's numbers have decimal commas, so that a point may separate thousands.
    """
    notes: list[str] = []
    bare = {cell: _bare(cell, _measures(name)) for cell in cells.unique()}
    if unit := _common_unit(name, bare.values()):
        bare = {cell: _UNIT.sub(r"\1", text) for cell, text in bare.items()}
    elif _measures(name) and any(_CLOCK.fullmatch(text) for text in bare.values()):
        bare = {cell: _seconds(text) for cell, text in bare.items()}
        notes.append(f"{name} is read in seconds.")
    written = set(bare.values())
    if not any(re.search(r"\d", text) or _INFINITE.fullmatch(text) for text in written):
        return None, notes
    notation = _notation(name, written, separator, commas)
    values = {cell: _value(text, notation) for cell, text in bare.items()}
    read = [cell for cell, value in values.items() if value == value]
    if not read:
        return None, notes
    if notation == "thousands":
        notes.append(f"Commas in {name} are read as separators of thousands.")
    elif notation == "comma":
        notes.append(f"{name} is read with decimal commas.")
    elif notation == "points":
        notes.append(f"Points in {name} are read as separators of thousands, as other columns have decimal commas.")
    elif separator != "," and not commas and _in_thousands(written):
        example = min(t for t in written if "." in t)
        notes.append(
            f"{name} is read with decimal points ({example} is {float(example):g}); if the points separate thousands, "
            "write its numbers without them."
        )
    elif any("," in cell for cell in read):
        notes.append(f"{name} holds numbers with decimal points and with decimal commas; both are read.")
    if any(_SPREAD.search(cell) for cell in read):
        notes.append(f"Of {name} the number before ± or the bracket is read.")
    if unit:
        notes.append(f"{name} is read in {unit}, the unit in its cells.")
    if any(_QUOTIENT.fullmatch(cell) for cell in read):
        notes.append(f"{name} is read as quotients: 17/20 is 0.85.")
    if any(_MARKS.search(cell) for cell in read):
        notes.append(f"Marks beside the numbers of {name}, as * and ~, are left out.")
    if any(cell.endswith("%") for cell in read):
        without = int(cells.isin([cell for cell in read if not cell.endswith("%")]).sum())
        also = f"; {without} of its values are written without a % sign" if without else ""
        notes.append(f"{name} is read in percent{also}.")
    return cells.map(values).astype(float), notes


def plain_number(cell: str) -> float | None:
    """A number with a decimal point or a decimal comma; None for any other cell."""
    text = _bare(cell.strip())
    return float(text.replace(",", ".")) if POINT.fullmatch(text) or _COMMA.fullmatch(text) else None


def _bare(cell: str, measured: bool = False) -> str:
    marked = measured and re.search(r"\d", cell)
    text = _MARKS.sub("", cell) if marked else cell
    text = _SPREAD.sub("", text).replace("\N{MINUS SIGN}", "-").removesuffix("%").strip()
    if not marked:
        return text
    text = _MARKS.sub("", _CURRENCY.sub("", text))
    return repr(float(part[1]) / float(part[2])) if (part := _QUOTIENT.fullmatch(text)) else text


def _measures(name: str) -> bool:
    """Whether a column holds what was measured, so that a unit in its cells is no name of a level."""
    return says_score(name) or (bool(_MEASURED & set(tokens(name))) and not says_factor(name))


def _common_unit(name: str, texts: Iterable[str]) -> str:
    """The unit that all numbers of a measured column end in, or "": 12 ms and 9 ms, but not 12 ms and 3 s."""
    if not _measures(name):
        return ""
    numbers = [t for t in texts if re.match(r"[+-]?[.,]?\d", t)]
    found = {m[2] if (m := _UNIT.fullmatch(t)) else "" for t in numbers}
    return found.pop() if len(found) == 1 else ""


def _in_thousands(written: Iterable[str]) -> bool:
    """Whether the points of all numbers may separate thousands: three digits behind each, no 0 in front."""
    pointed = [t for t in written if "." in t and POINT.fullmatch(t)]
    return bool(pointed) and all(_BY_COMMA.fullmatch(t + ",") and not re.match(r"[+-]?0", t) for t in pointed)


def _seconds(text: str) -> str:
    """1:02:03 as 3723; what is no time stays."""
    if not (told := _CLOCK.fullmatch(text)):
        return text
    days, hours, minutes, rest = (float((part or "0").replace(",", ".")) for part in told.groups())
    return repr(86400 * days + 3600 * hours + 60 * minutes + rest)


def _notation(name: str, written: Iterable[str], separator: str, commas: bool = False) -> str:
    """point, comma, thousands or points: what a comma or a point in these numbers is.

    "1,234" alone may be a decimal comma or a separator of thousands; "1.234" too where the file has decimal commas.
    """
    with_comma = [t for t in written if "," in t and any(r.fullmatch(t) for r in (_COMMA, _BY_POINT, _BY_COMMA))]
    if not with_comma:
        return "points" if commas and _in_thousands(written) else "point"
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
    if notation in ("comma", "points") and (_BY_COMMA.fullmatch(text) or _BY_COMMA.fullmatch(text + ",")):
        return float(_BLANKS.sub("", text).replace(".", "").replace(",", "."))
    if POINT.fullmatch(text):
        return float(text)
    if notation != "thousands" and _COMMA.fullmatch(text):
        return float(text.replace(",", "."))
    if _BY_POINT.fullmatch(text) and (notation == "thousands" or "," not in text):
        return float(_BLANKS.sub("", text).replace(",", ""))
    return float("nan")
