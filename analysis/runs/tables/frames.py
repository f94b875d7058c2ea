"""Frames that a user made: columns of numbers as such, levels that can be compared, names and indexes as columns."""

from __future__ import annotations

from decimal import Decimal
from numbers import Number

import pandas as pd

from analysis.runs.columns import typed
from analysis.runs.tables.wide import as_long


def plain(frame: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """The frame with a named index as columns, one name a column, numbers as numbers, and lists as text.

    What was not as usual in columns of text is added to the notes, as for a file.
    """
    frame = frame.copy()
    if any(name is not None for name in frame.index.names):
        frame = frame.reset_index()
    if pivoted := isinstance(frame.columns, pd.MultiIndex):
        inner = frame.columns.names[-1] or ""
        frame.columns = [_joined(parts, str(inner)) for parts in frame.columns]
    frame = frame.rename(columns=str)
    for name in frame.columns[~frame.columns.duplicated(keep=False)]:
        column = frame[name]
        if not (pd.api.types.is_object_dtype(column) or pd.api.types.is_string_dtype(column)):
            continue
        if isinstance(column.dtype, pd.CategoricalDtype):
            continue
        known = column.dropna()
        if known.map(lambda v: isinstance(v, list | dict | set | tuple)).any():
            frame[name] = column.map(lambda v: str(v) if isinstance(v, list | dict | set | tuple) else v)
        elif len(known) and known.map(lambda v: isinstance(v, Number | Decimal) and not isinstance(v, bool)).all():
            frame[name] = pd.to_numeric(
                column.map(lambda v: float(v) if isinstance(v, Decimal) else v), errors="coerce"
            )
        elif len(known) and known.map(lambda v: isinstance(v, str)).all():
            cells = [v if isinstance(v, str) else "" for v in column]
            read, said = typed(name, cells, range(len(cells)))
            if pd.api.types.is_numeric_dtype(read) and not pd.api.types.is_bool_dtype(read):
                frame[name] = read.set_axis(frame.index)
                notes += [note.replace(" in line ", " in row ") for note in said]
    if pivoted:
        frame, told = as_long(frame)
        notes += [told] if told else []
    return frame


def _joined(parts: tuple[object, ...], inner: str) -> str:
    """("acc", 0) with the inner name seed -> acc_seed0."""
    first, *rest = (str(part) for part in parts)
    more = [part for part in rest if part]
    return "_".join([first, *more[:-1], f"{inner}{more[-1]}"]) if more else first
