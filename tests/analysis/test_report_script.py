"""The page's own script where no browser is at hand: what sorts rows and what copies them, run by Node."""

from __future__ import annotations

import json
import shutil
import subprocess

import pandas as pd
import pytest

from analysis.report.page import TEMPLATES
from analysis.report.tables import Column, make_table

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="Node is not installed")


def evaluate(expression: str) -> object:
    script = (TEMPLATES / "tables.js").read_text(encoding="utf-8")
    page = "const document = { querySelectorAll: () => [] };\n"
    command = f"{page}{script}\nconsole.log(JSON.stringify({expression}));"
    done = subprocess.run([str(NODE), "-e", command], capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


def test_numbers_sort_as_numbers_and_gaps_come_last() -> None:
    cells = [
        "0.12",
        "\N{MINUS SIGN}0.5",
        "–",
        "< 0.001",
        "18\N{NARROW NO-BREAK SPACE}152",
        "82%",
        "0.001",
        "0.3 to 0.4",
    ]
    orders = evaluate(
        f"[1, -1].map(way => {json.dumps(cells)}.sort((a, b) => compareCells(a, b, true, way)))"
        f".concat([['b10', '–', 'b9'].sort((a, b) => compareCells(a, b, false, 1))])"
    )
    rising = ["\N{MINUS SIGN}0.5", "< 0.001", "0.001", "0.12", "0.3 to 0.4", "82%", cells[4]]
    assert orders == [[*rising, "–"], [*rising[::-1], "–"], ["b9", "b10", "–"]]


def test_what_is_copied_is_what_the_files_have(tmp_path) -> None:
    """LaTeX escapes as the table's own file does; CSV reads back, and no cell is a formula."""
    rows = [["CA_out → x & y", "\N{MINUS SIGN}0.50"], ["=cmd|' /C calc'!A0", "1e-3"], ['50% "of", all', "< 0.001"]]
    copied = evaluate(f"[csvOf([['design', 'F'], ...{json.dumps(rows)}]), latexOf([['design', 'F'], "
                      f"...{json.dumps(rows)}], [false, true])]")  # fmt: skip
    assert isinstance(copied, list)
    frame = pd.DataFrame(rows, columns=["design", "F"])
    make_table("t", "", frame, {"design": Column("design", numeric=False), "F": Column("F")}, tmp_path)
    own = (tmp_path / "t.tex").read_text().replace("\\textbackslash ", "\\textbackslash{}")
    tabular = own[own.index("\\begin{tabular}") : own.index("\\end{table}")]
    assert copied[1].splitlines() == tabular.splitlines()
    (tmp_path / "copied.csv").write_text(copied[0], encoding="utf-8")
    back = pd.read_csv(tmp_path / "copied.csv")
    assert list(back["design"]) == [rows[0][0], "'" + rows[1][0], rows[2][0]]
    assert list(back["F"]) == ["-0.50", "1e-3", "< 0.001"]
