"""A row of the table of gates."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One measured figure of a gate; `passed` is None for what is only reported."""

    gate: int
    figure: str
    value: float
    bound: str
    passed: bool | None


def at_least(gate: int, figure: str, value: float, bound: float) -> Row:
    return Row(gate, figure, value, f">= {bound:g}", bool(value >= bound))


def at_most(gate: int, figure: str, value: float, bound: float) -> Row:
    return Row(gate, figure, value, f"<= {bound:g}", bool(value <= bound))


def reported(gate: int, figure: str, value: float) -> Row:
    return Row(gate, figure, value, "reported", None)


def table(rows: list[Row]) -> str:
    """The rows as a Markdown table."""
    verdict = {True: "pass", False: "FAIL", None: ""}
    lines = ["| gate | figure | measured | bound | |", "|---|---|---|---|---|"]
    lines += [f"| {r.gate} | {r.figure} | {r.value:.4g} | {r.bound} | {verdict[r.passed]} |" for r in rows]
    return "\n".join(lines)
