"""Lines of a table that are no runs: the rules of Markdown, repeated names, a mean or a sum below the runs."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Sequence

_RULE = re.compile(r"[\s|:+=-]*-[\s|:+=-]*")
_NAMED = 3  # lines that a note names
_MOST = 6  # rows of sums at the end of a table
_SUMS: dict[str, Callable[[Sequence[float]], float]] = {
    **dict.fromkeys(("mean", "average", "avg", "mittelwert", "mittel", "moyenne", "media"), statistics.fmean),
    **dict.fromkeys(("total", "sum", "summe", "gesamt", "somme"), lambda values: float(sum(values))),
    **dict.fromkeys(("std", "stdev", "sd", "stddev", "standardabweichung"), statistics.stdev),
    **dict.fromkeys(("median",), statistics.median),
    **dict.fromkeys(("min", "minimum"), lambda values: min(values)),
    **dict.fromkeys(("max", "maximum"), lambda values: max(values)),
    **dict.fromkeys(("count", "n", "anzahl"), lambda values: float(len(values))),
}


def without_borders(text: str) -> tuple[str, bool]:
    """A table of Markdown without its outer bars and its rules, and whether it was one; else the text itself.

    >>> without_borders("| a | b |\\n|---|--:|\\n| x | 1 |")
    ('a|b\\nx|1', True)
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) < 2 or not all(line[0] == line[-1] == "|" or _RULE.fullmatch(line) for line in lines):
        return text, False
    cells = [line[1:-1].split("|") for line in lines if not _RULE.fullmatch(line)]
    return "\n".join("|".join(cell.strip() for cell in row) for row in cells), True


def by_blanks(text: str) -> str | None:
    """A table whose columns only blanks separate, with tabs in their place; None where no rule fits every line.

    Two blanks or more separate columns where that gives every line as many cells; else any number of them.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for pattern in (r"\s{2,}", r"\s+"):
        rows = [re.split(pattern, line) for line in lines]
        if len(rows) > 1 and len(rows[0]) > 1 and len({len(row) for row in rows}) == 1:
            return "\n".join("\t".join(cell.strip('"') for cell in row) for row in rows)
    return None


def with_one_line_of_names(rows: list[list[str]]) -> tuple[list[list[str]], int]:
    """The rows with one line of names in place of the two or three that a pivoted table has, and how many those were.

    pandas writes `,acc,acc` over `seed,0,1` over `model,,`; these become `model,acc_seed0,acc_seed1`.

    >>> with_one_line_of_names([["", "acc", "acc"], ["seed", "0", "1"], ["model", "", ""], ["a", ".5", ".6"]])
    ([['model', 'acc_seed0', 'acc_seed1'], ['a', '.5', '.6']], 3)
    """
    if len(rows) < 3:
        return rows, 1
    outer, inner, third = ([cell.strip() for cell in row] for row in rows[:3])
    keys = sum(1 for cell in outer if not cell)
    word, names = inner[keys - 1] if keys else "", inner[keys:]
    repeated = len(set(outer[keys:])) < len(outer[keys:])
    if not (keys and word and repeated and len(outer) == len(inner) and all(outer[keys:]) and all(names)):
        return rows, 1
    if any(outer[:keys]) or len(set(zip(outer[keys:], names, strict=True))) < len(names):
        return rows, 1
    has_third = all(third[:keys]) and not any(third[keys:])
    index = third[:keys] if has_third else [*inner[: keys - 1], "index"]
    joined = [f"{a}_{word}{b}" for a, b in zip(outer[keys:], names, strict=True)]
    return [[*index, *joined], *rows[3 if has_third else 2 :]], 3 if has_third else 2


def without_repeated_names(
    header: list[str], rows: list[list[str]], lines: list[int], notes: list[str]
) -> tuple[list[list[str]], list[int]]:
    """Without rows that repeat the names of the columns, as where files were joined."""
    again = [at for at, row in enumerate(rows) if [cell.strip() for cell in row] == header]
    if not again:
        return rows, lines
    which = ", ".join(str(lines[at]) for at in again[:_NAMED]) + (", ..." if len(again) > _NAMED else "")
    repeat = "line repeats" if len(again) == 1 else "lines repeat"
    are = "is" if len(again) == 1 else "are"
    notes.append(f"{len(again)} {repeat} the names of the columns and {are} left out (line {which}).")
    return _without(rows, again), _without(lines, again)


def without_sums(
    rows: list[list[str]], lines: list[int], notes: list[str], number: Callable[[str], float | None]
) -> tuple[list[list[str]], list[int]]:
    """Without rows at the end that hold the mean, the sum or the like of the rows above.

    A row is one where a cell says so (Mean, Total) and the numbers of most columns agree; a level that is only called
    "mean" stays. `number` reads a cell, None where it is no number.
    """
    found: list[int] = []
    last = len(rows)
    while last > 2 and len(found) < _MOST and any(_sum_of(cell) for cell in rows[last - 1]):
        last -= 1
        found.append(last)
    above = rows[:last]
    if not found or len(above) < 2 or not all(_agrees(rows[at], above, number) for at in found):
        return rows, lines
    words = ", ".join(next(cell.strip() for cell in rows[at] if _sum_of(cell)) for at in reversed(found))
    what = "row is" if len(found) == 1 else f"{len(found)} rows are"
    notes.append(f"The last {what} taken for what the rows above give together ({words}) and left out.")
    return above, lines[:last]


def _sum_of(cell: str) -> Callable[[Sequence[float]], float] | None:
    return _SUMS.get(cell.strip().strip(":=").strip().lower())


def _agrees(row: list[str], above: list[list[str]], number: Callable[[str], float | None]) -> bool:
    """Whether most numbers of a row are, to the digits written, what its word says of the rows above."""
    told = next(found for cell in row if (found := _sum_of(cell)))
    right = wrong = 0
    for at, cell in enumerate(row):
        value = number(cell)
        values = [v for r in above if (v := number(r[at])) is not None]
        if value is None or len(values) < 2:
            continue
        decimals = len(re.split(r"[.,]", cell)[-1]) if re.search(r"[.,]", cell) else 0
        near = abs(told(values) - value) <= 1.01 * 10.0**-decimals
        right, wrong = right + near, wrong + (not near)
    return right > wrong


def _without(items: list, which: Sequence[int]) -> list:
    gone = set(which)
    return [item for at, item in enumerate(items) if at not in gone]
