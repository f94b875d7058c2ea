"""CSV that a spreadsheet may open: no text of a factor, a level or a reason is run as a formula."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

from analysis.runs.names import outer

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # what begins a formula in a spreadsheet
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def csv_text(frame: pd.DataFrame) -> str:
    """The frame as CSV with all digits, in which no text is a formula: an apostrophe goes before what begins one.

    Spreadsheets run formulas of files that are opened, and names of factors and levels may come from anyone.
    """
    texts = frame.map(_no_formula).rename(columns=_no_formula)
    return outer(texts.to_csv(index=False))


def _no_formula(value: Any) -> Any:
    """The value, or a text that no spreadsheet takes as a formula. Numbers, also those in words, stay as they are."""
    if not isinstance(value, str) or not value.startswith(FORMULA) or _NUMBER.fullmatch(value):
        return value
    return f"'{value}"
