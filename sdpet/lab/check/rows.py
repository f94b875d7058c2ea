"""A row of the table of gates."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One measured figure of a gate.

    Parameters
    ----------
    gate : int
        Number of the gate.
    figure : str
        What was measured.
    value : float
        The measured value.
    bound : str
        What the gate demands, in words.
    passed : bool or None
        None for a figure that is only reported.
    """

    gate: int
    figure: str
    value: float
    bound: str
    passed: bool | None


def at_least(gate: int, figure: str, value: float, bound: float) -> Row:
    """A figure that passes if it is not below a bound.

    Parameters
    ----------
    gate, figure, value
        As in `Row`.
    bound : float
        Lower bound.

    Returns
    -------
    Row
    """
    return Row(gate, figure, value, f">= {bound:g}", bool(value >= bound))


def at_most(gate: int, figure: str, value: float, bound: float) -> Row:
    """A figure that passes if it is not above a bound.

    Parameters
    ----------
    gate, figure, value
        As in `Row`.
    bound : float
        Upper bound.

    Returns
    -------
    Row
    """
    return Row(gate, figure, value, f"<= {bound:g}", bool(value <= bound))


def reported(gate: int, figure: str, value: float) -> Row:
    """A figure without a bound.

    Parameters
    ----------
    gate, figure, value
        As in `Row`.

    Returns
    -------
    Row
    """
    return Row(gate, figure, value, "reported", None)


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table.

    Parameters
    ----------
    rows : list of Row
        All rows.

    Returns
    -------
    str
    """
    verdict = {True: "pass", False: "FAIL", None: ""}
    lines = ["| gate | figure | measured | bound | |", "|---|---|---|---|---|"]
    lines += [f"| {r.gate} | {r.figure} | {r.value:.4g} | {r.bound} | {verdict[r.passed]} |" for r in rows]
    return "\n".join(lines)
