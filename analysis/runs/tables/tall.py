"""Tables with a row for each score of a run, into tables with a column for each score."""

from __future__ import annotations

import pandas as pd

from analysis.runs.direction import tokens
from analysis.runs.words_in_names import says_score

_NAMES = frozenset("metric metric_name metric_key measure measurement score_name score_type criterion kpi".split())
_VALUES = frozenset("value score metric_value measurement_value result".split())
_MOST = 30


def as_columns(frame: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The table with a column for each score, and a sentence on it; the table itself and "" where it is no such table.

    Where a column called metric names scores (acc, loss) and another one called value holds them, the rows of one run
    become one row.

    >>> tall = pd.DataFrame({"m": ["a", "a"], "metric": ["acc", "loss"], "value": [0.9, 0.1]})
    >>> as_columns(tall)[0].to_dict("list")
    {'m': ['a'], 'acc': [0.9], 'loss': [0.1]}
    """
    named = [c for c in frame.columns if "_".join(tokens(str(c))) in _NAMES]
    values = [c for c in frame.columns if "_".join(tokens(str(c))) in _VALUES and _is_numeric(frame[c])]
    if len(named) != 1 or len(values) != 1:
        return frame, ""
    name, value = named[0], values[0]
    scores = [s for s in frame[name].dropna().unique() if isinstance(s, str)]
    rest = [c for c in frame.columns if c not in (name, value)]
    if not 1 < len(scores) <= _MOST or frame[name].isna().any() or set(scores) & set(rest):
        return frame, ""
    if 2 * sum(says_score(s) for s in scores) <= len(scores) or frame.duplicated([*rest, name]).any():
        return frame, ""
    wide = frame.pivot(index=rest, columns=name, values=value)[scores].reset_index() if rest else frame
    wide.columns.name = None
    shown = ", ".join(scores[:4]) + (", ..." if len(scores) > 4 else "")
    return wide, f"Each score has a row of its own ({name}, {value}); they are read as the columns {shown}."


def _is_numeric(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
