"""Tables of the report: for the page with sensible digits, as CSV with all of them, and as LaTeX for a paper."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.figures.safe_csv import csv_text
from analysis.runs.names import outer

LATEX = {
    "→": r"$\to$",
    "\N{MINUS SIGN}": r"$-$",
    "–": "--",
    "±": r"$\pm$",
    "×": r"$\times$",
    "η": r"$\eta$",
    "ω": r"$\omega$",
    "²": r"\textsuperscript{2}",
    "ₚ": r"\textsubscript{p}",
    "\N{NARROW NO-BREAK SPACE}": r"\,",
    "≥": r"$\ge$",
}


@dataclass(frozen=True)
class Column:
    """A column on the page: its heading, how a value is written, and whether it is set as a number (right)."""

    head: str
    write: Callable[[object], str] = str
    numeric: bool = True


@dataclass(frozen=True)
class Table:
    """A table on the page; `name` is the name of its files. `notes`: sentences that must stand below it."""

    name: str
    caption: str
    heads: tuple[tuple[str, bool], ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    folded: bool = False


def make_table(
    name: str,
    caption: str,
    frame: pd.DataFrame,
    columns: Mapping[str, Column],
    folder: Path,
    notes: tuple[str, ...] = (),
    folded: bool = False,
) -> Table:
    """Write `folder/name.csv` (every column of `frame`, all digits) and `.tex`, and return the table for the page.

    columns: the columns of `frame` that the page and LaTeX show, in order. A column that `frame` lacks is left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.csv").write_text(csv_text(frame), encoding="utf-8")
    shown = {key: column for key, column in columns.items() if key in frame.columns}
    rows = tuple(
        tuple(column.write(value) for column, value in zip(shown.values(), row, strict=True))
        for row in frame[list(shown)].itertuples(index=False, name=None)
    )
    heads = tuple((column.head, column.numeric) for column in shown.values())
    (folder / f"{name}.tex").write_text(outer(_latex(name, caption, heads, rows)), encoding="utf-8")
    return Table(name, caption, heads, rows, notes, folded)


def _latex(name: str, caption: str, heads: tuple[tuple[str, bool], ...], rows: tuple[tuple[str, ...], ...]) -> str:
    """A booktabs table with everything escaped."""
    lines = [" & ".join(_escape(cell) for cell in row) + r" \\" for row in rows]
    return "\n".join([
        r"\begin{table}", r"\centering", rf"\caption{{{_escape(caption)}}}", rf"\label{{tab:{name}}}",
        rf"\begin{{tabular}}{{{''.join('r' if numeric else 'l' for _, numeric in heads)}}}", r"\toprule",
        " & ".join(_escape(head) for head, _ in heads) + r" \\", r"\midrule", *lines, r"\bottomrule",
        r"\end{tabular}", r"\end{table}", "",
    ])  # fmt: skip


def _escape(text: str) -> str:
    text = text.replace("\\", r"\textbackslash ")
    for sign in "&%$#_{}":
        text = text.replace(sign, "\\" + sign)
    text = text.replace("~", r"\textasciitilde ").replace("^", r"\textasciicircum ")
    text = text.replace("<", r"$<$").replace(">", r"$>$")
    for sign, latex in LATEX.items():
        text = text.replace(sign, latex)
    return text
