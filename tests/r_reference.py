"""Values computed in R by tests/r/reference.R (versions in tests/r/versions.txt), and the data they belong to."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pandas as pd

FOLDER = Path(__file__).parent / "r"


@cache
def _all() -> dict[str, pd.DataFrame]:
    frame = pd.read_csv(FOLDER / "reference.csv", dtype={"row": str})
    return {case: part.pivot(index="row", columns="column", values="value") for case, part in frame.groupby("case")}


def r(case: str) -> pd.DataFrame:
    """The R values of a case, rows by name."""
    return _all()[case]


def data(name: str) -> pd.DataFrame:
    return pd.read_csv(FOLDER / f"data_{name}.csv")
